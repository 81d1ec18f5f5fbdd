"""A workload of changes, each acknowledged in a log after its commit.

A document is a function of its id and two versions, so that the last acknowledgement of an id says
what it must be now. Every id belongs to one writer: what is acknowledged last was committed last.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

Kind = Literal["insert", "edit", "metadata", "delete"]
KINDS: tuple[Kind, ...] = ("insert", "edit", "metadata", "delete")
ANCHORS = 8
"""Documents of writer 0, which nobody changes: a reader knows what it must find."""
FOLDER = "acknowledged"
_WEIGHTS = (25, 40, 15, 20)
_WORDS = """
tide moon galaxy telescope bread yeast oven court verdict jury sloop jib helm anchor flour dough
planet star appeal judge crew wind harbour comet orbit crust statute keel mast rye
"""


class Acknowledged(NamedTuple):
    """A change that was committed at ``at`` (seconds of the monotonic clock, one a machine)."""

    kind: Kind
    id: str
    text_version: int
    metadata_version: int
    at: float
    took: float = 0.0
    """Seconds that the commit took."""


class Versions(NamedTuple):
    """Of a document that is there."""

    text: int
    metadata: int


def fields_of(id: str, versions: Versions) -> dict[str, str]:
    """The document ``id`` in these versions."""
    words = random.Random(f"{id} {versions.text}").choices(_WORDS.split(), k=8)
    return {
        "id": id,
        "title": f"note {id}",
        "text": f"version {versions.text}: {' '.join(words)}",
        "topic": f"topic {versions.metadata}",
    }


def acknowledged(root: Path) -> Iterator[Acknowledged]:
    """Every acknowledgement of a project; those of one id in the order of the commits."""
    for path in sorted((root / FOLDER).glob("*.log")):
        for line in path.read_text("ascii").splitlines():
            yield Acknowledged(*json.loads(line))


def expected(root: Path) -> dict[str, Versions]:
    """What must be there now, by the acknowledgements alone."""
    there: dict[str, Versions] = {}
    for it in acknowledged(root):
        if it.kind == "delete":
            there.pop(it.id, None)
        else:
            there[it.id] = Versions(it.text_version, it.metadata_version)
    return there


class Writer:
    """Changes the documents of one number, one committed change at a time.

    Goes on where the log ends. Knows the two kinds of source that a ``Subject`` has.
    """

    def __init__(self, root: Path, number: int, seed: int = 0) -> None:
        folder = root / FOLDER
        folder.mkdir(exist_ok=True)
        self._name = f"w{number:02d}"
        path = folder / f"{self._name}.log"
        lines = path.read_text("ascii").splitlines() if path.exists() else []
        known = [Acknowledged(*json.loads(line)) for line in lines]
        self._log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._random = random.Random(f"{seed} {number} {len(known)}")
        self._there: dict[str, Versions] = {}
        self._gone: dict[str, Versions] = {}
        self._ids: list[str] = []
        """Of documents that are there, in no order."""
        for it in known:
            self._remember(it)
        self._documents = _documents(root)

    def insert(self, count: int) -> None:
        for _ in range(count):
            self._commit("insert", self._new_id(), Versions(1, 1))

    def changes(self, count: int) -> None:
        for _ in range(count):
            self.change()

    def change(self) -> Acknowledged:
        """One change of a random kind."""
        kind = self._random.choices(KINDS, _WEIGHTS)[0]
        if kind == "insert" or len(self._ids) < 4:
            if self._gone and self._random.random() < 0.3:  # a document comes back
                id = next(iter(self._gone))
                before = self._gone[id]
                return self._commit("insert", id, Versions(before.text + 1, before.metadata + 1))
            return self._commit("insert", self._new_id(), Versions(1, 1))
        id = self._random.choice(self._ids)
        text, metadata = self._there[id]
        if kind == "edit":
            text += 1
        elif kind == "metadata":
            metadata += 1
        return self._commit(kind, id, Versions(text, metadata))

    def _commit(self, kind: Kind, id: str, versions: Versions) -> Acknowledged:
        began = time.monotonic()
        if kind == "delete":
            self._documents.delete(id)
        else:
            self._documents.put(fields_of(id, versions))
        now = time.monotonic()
        it = Acknowledged(kind, id, *versions, now, round(now - began, 6))
        os.write(self._log, json.dumps(it).encode() + b"\n")
        self._remember(it)
        return it

    def _remember(self, it: Acknowledged) -> None:
        versions = Versions(it.text_version, it.metadata_version)
        if it.kind == "delete":
            del self._there[it.id]
            place = self._ids.index(it.id)
            self._ids[place] = self._ids[-1]
            self._ids.pop()
            self._gone[it.id] = versions
        else:
            if it.id not in self._there:
                self._ids.append(it.id)
            self._there[it.id] = versions
            self._gone.pop(it.id, None)

    def _new_id(self) -> str:
        return f"{self._name}-{len(self._there) + len(self._gone):06d}"

    def close(self) -> None:
        self._documents.close()
        os.close(self._log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Table:
    """The table of an application, written as applications do."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, timeout=60, isolation_level=None)

    def put(self, fields: dict[str, str]) -> None:
        self._database.execute(
            "INSERT INTO documents VALUES (:id, :title, :text, :topic) ON CONFLICT (id) "
            "DO UPDATE SET title = :title, text = :text, topic = :topic",
            fields,
        )

    def delete(self, id: str) -> None:
        self._database.execute("DELETE FROM documents WHERE id = ?", (id,))

    def close(self) -> None:
        self._database.close()


class _Managed:
    """Documents that embedmigrate owns."""

    def __init__(self, root: Path) -> None:
        from embedmigrate.config import load_settings
        from embedmigrate.sources.managed import ManagedSource

        settings = load_settings(root / "embedmigrate.toml")
        ((name, collection),) = settings.collections.items()
        source: Any = settings.open_source(name, collection.recipe)
        assert isinstance(source, ManagedSource)
        self._source = source

    def put(self, fields: dict[str, str]) -> None:
        self._source.upsert([fields])

    def delete(self, id: str) -> None:
        self._source.delete([id])

    def close(self) -> None:
        self._source.close()


class _ServerTable:
    """The table of an application in PostgreSQL."""

    def __init__(self, url: str) -> None:
        import psycopg

        self._database = psycopg.connect(url, autocommit=True)

    def put(self, fields: dict[str, str]) -> None:
        self._database.execute(
            "INSERT INTO documents VALUES (%(id)s, %(title)s, %(text)s, %(topic)s) ON CONFLICT (id)"
            " DO UPDATE SET title = %(title)s, text = %(text)s, topic = %(topic)s",
            fields,
        )

    def delete(self, id: str) -> None:
        self._database.execute("DELETE FROM documents WHERE id = %s", (id,))

    def close(self) -> None:
        self._database.close()


_Documents = _Table | _ServerTable | _Managed


def _documents(root: Path) -> _Documents:
    from embedmigrate.config import load_settings
    from embedmigrate.sources.sql import SqlConfig

    ((_, collection),) = load_settings(root / "embedmigrate.toml").collections.items()
    if not isinstance(collection.source, SqlConfig):
        return _Managed(root)
    url = collection.source.url.get_secret_value()
    return _ServerTable(url) if url.startswith("postgresql") else _Table(root / "library.db")
