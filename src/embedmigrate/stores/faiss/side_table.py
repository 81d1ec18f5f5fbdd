"""The side table of an adopted index: what belongs to somebody else's vectors, in our own folder.

``rows.sqlite`` as every index has it, where the position of a row is its row in the foreign index,
and ``adopted.json``, which says where the foreign files lie and what they were.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from embedmigrate.errors import ConfigError, DamagedIndex
from embedmigrate.stores.base import IndexManifest
from embedmigrate.stores.faiss.database import (
    create_database,
    damaged,
    metadata_json,
    open_database,
    transaction,
)
from embedmigrate.stores.foreign import ForeignFile, ForeignRow

ADOPTED = "adopted.json"
_SCHEMA = 1


def is_adopted(folder: Path) -> bool:
    """Whether an index folder is the side table of an adopted index."""
    return (folder / ADOPTED).is_file()


def describe(file: Path, root: Path) -> ForeignFile:
    """What a file is now; ``ConfigError`` when it cannot be read."""
    resolved = file.resolve()
    inside = resolved.is_relative_to(root.resolve())
    path = resolved.relative_to(root.resolve()) if inside else resolved
    try:
        before = resolved.stat()
        digest = sha256_of(resolved)
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be read: {error.strerror}",
            expected="an index file and its id list",
            next_step="correct the path",
        ) from error
    return ForeignFile(path.as_posix(), before.st_size, before.st_mtime_ns, digest)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_side_table(
    folder: Path,
    manifest: IndexManifest,
    index: ForeignFile,
    ids: ForeignFile,
    rows: Iterable[ForeignRow],
) -> None:
    """Fill an empty folder; durable but for the folder's own name."""
    create_database(folder, manifest)
    with closing(open_database(folder)) as connection, transaction(connection):
        stamps: dict[str, int] = {}

        def values() -> Iterator[tuple[Any, ...]]:
            now = int(time.time())
            for position, row, run in rows:
                stamp = stamps.setdefault(run, len(stamps) + 1)
                yield (
                    position, stamp, row.id, row.chunk, row.seq, row.content_hash,
                    row.metadata_hash, metadata_json(row.metadata), now,
                )  # fmt: skip

        connection.executemany(
            "INSERT INTO rows (position, stamp, id, chunk, seq, content_hash, metadata_hash,"
            " metadata, written_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            values(),
        )
        connection.executemany(
            "INSERT INTO stamps (stamp, fingerprint, run) VALUES (?, ?, ?)",
            [(stamp, manifest.fingerprint, run) for run, stamp in stamps.items()],
        )
    content = {"schema": _SCHEMA, "index": index._asdict(), "ids": ids._asdict()}
    with (folder / ADOPTED).open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


class Guarded:
    """The foreign index file of a side table, watched: it has to stay what was proven."""

    def __init__(self, folder: Path, root: Path) -> None:
        note = folder / ADOPTED
        try:
            content = json.loads(note.read_text("utf-8"))
            self.recorded = ForeignFile(**content["index"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise damaged(note, f"it cannot be read ({type(error).__name__})") from error
        if content.get("schema") != _SCHEMA:
            raise damaged(note, "another schema", found=content.get("schema"), expected=_SCHEMA)
        self.path = root / self.recorded.path  # an absolute path replaces ``root``
        self._seen: tuple[int, ...] | None = None

    def check(self) -> None:
        """``DamagedIndex`` unless the file is what was proven.

        A look at its size and times, which costs microseconds. A file that was touched or copied
        has other times; it is read once to see that it is still the same.
        """
        try:
            now = self.path.stat()
        except OSError as error:
            raise self._changed(f"it cannot be read: {error.strerror}", None) from error
        seen = (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns)
        if seen == self._seen:
            return
        if now.st_size != self.recorded.size:
            raise self._changed("its size is another one", f"{now.st_size} bytes")
        if now.st_mtime_ns != self.recorded.mtime_ns:
            self.check_content()
        self._seen = seen

    def check_content(self) -> None:
        """The same by reading all of it."""
        try:
            found = sha256_of(self.path)
        except OSError as error:
            raise self._changed(f"it cannot be read: {error.strerror}", None) from error
        if found != self.recorded.sha256:
            raise self._changed("its content is another one", f"sha256 {found}")

    def _changed(self, what: str, found: str | None) -> DamagedIndex:
        recorded = self.recorded
        return DamagedIndex(
            f"the adopted index file {self.path} is not what was proven: {what}",
            found=found,
            expected=f"{recorded.size} bytes, sha256 {recorded.sha256}",
            next_step="put the file back as it was; or write a revision to another model, or "
            "roll back and embed the collection: embedmigrate upgrade --again REASON",
        )
