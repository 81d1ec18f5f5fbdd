"""Managed: a table of documents that embedmigrate itself owns, for applications without one.

An SQLite file. Each write commits the documents and the record of the change in one transaction, so
that no change is ever missed and none has to be looked for.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from embedmigrate.catalog.sqlite import refuse_network_filesystem
from embedmigrate.context import AdapterContext
from embedmigrate.errors import ConfigError, Refused, StorageUnavailable, UsageError
from embedmigrate.models import Recipe
from embedmigrate.sources.base import (
    Captured,
    ChangedSince,
    Document,
    DocumentState,
    KeyRange,
    SourceConfig,
)
from embedmigrate.sources.keys import cut
from embedmigrate.sources.values import DocumentMaker, UnusableRecord, json_value, make_id

_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (collection TEXT NOT NULL, token TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS documents (id TEXT PRIMARY KEY, fields TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS changes (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, change TEXT NOT NULL,
    tag TEXT NOT NULL
);
"""
_PAGE = 1000
_IDS_A_QUERY = 500


class ManagedConfig(SourceConfig):
    """``{ kind = "managed", path, id, text, metadata }``.

    ``path`` is the SQLite file, ``id`` the field of a document that holds its id.
    """

    kind: Literal["managed"]
    path: str = Field(default="documents.db", min_length=1)
    id: str = Field(default="id", min_length=1)
    text: tuple[str, ...] = Field(min_length=1)


class ManagedSource:
    """The documents of one collection, and the recording of their changes."""

    Config: ClassVar[type[SourceConfig]] = ManagedConfig
    bytewise = True  # SQLite compares TEXT by its UTF-8 bytes

    def __init__(self, config: ManagedConfig, recipe: Recipe, context: AdapterContext) -> None:
        self._config, self._collection = config, context.collection
        self._maker = DocumentMaker(recipe, config.metadata)
        self._path = context.root / config.path
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._lock = threading.Lock()

    # -- writing --------------------------------------------------------------------------

    def upsert(self, documents: Sequence[Mapping[str, Any]]) -> int:
        """Add or replace whole documents, all or none; returns how many.

        A document is a mapping of JSON values with its id and whatever else it has; the recipe and
        ``metadata`` choose among its fields. ``Refused`` names the first one that cannot be used.
        """
        rows = dict(self._row(number, it) for number, it in enumerate(documents, start=1))
        with self._transaction() as connection:
            connection.executemany(
                "INSERT INTO documents (id, fields) VALUES (?, ?) "
                "ON CONFLICT (id) DO UPDATE SET fields = excluded.fields",
                rows.items(),
            )
            self._record(connection, list(rows), "changed")
        return len(rows)

    def delete(self, ids: Sequence[str]) -> int:
        """Delete documents; returns how many of them were there."""
        if isinstance(ids, str):
            raise UsageError("delete takes a list of ids", next_step="delete([id])")
        try:
            wanted = dict.fromkeys(map(make_id, ids))
        except UnusableRecord as error:
            raise error.at(f"an id for {self._collection}") from None
        with self._transaction() as connection:
            gone = [
                id
                for id in wanted
                if connection.execute("DELETE FROM documents WHERE id = ?", (id,)).rowcount
            ]
            self._record(connection, gone, "deleted")
        return len(gone)

    # -- the source -----------------------------------------------------------------------

    @property
    def capture(self) -> ManagedSource:
        return self

    @property
    def changed_since(self) -> ChangedSince | None:
        return None

    def prepare(self) -> int:
        return int(self._query("SELECT count(*) FROM documents")[0][0])

    def partition(self, size: int) -> Iterator[KeyRange]:
        return cut((row[0] for row in self._pages("id", None, None)), size)

    def scan(self, after: str | None = None, until: str | None = None) -> Iterator[Document]:
        for id, fields in self._pages("id, fields", after, until):
            yield self._document(id, fields)

    def get(self, ids: Sequence[str]) -> dict[str, Document]:
        found: dict[str, Document] = {}
        for start in range(0, len(ids), _IDS_A_QUERY):
            page = ids[start : start + _IDS_A_QUERY]
            marks = ", ".join("?" * len(page))
            for id, fields in self._query(
                f"SELECT id, fields FROM documents WHERE id IN ({marks})", *page
            ):
                found[id] = self._document(id, fields)
        return found

    def states(self) -> Iterator[DocumentState]:
        for document in self.scan():
            yield document.state

    # -- its recording --------------------------------------------------------------------

    def token(self) -> str | None:
        return str(self._query("SELECT token FROM about")[0][0])

    def head(self) -> int:
        rows = self._query("SELECT seq FROM sqlite_sequence WHERE name = 'changes'")
        return int(rows[0][0]) if rows else 0

    def read(self, after: int, limit: int) -> list[Captured]:
        rows = self._query(
            "SELECT number, id, change, tag FROM changes WHERE number > ? ORDER BY number LIMIT ?",
            after,
            limit,
        )
        return [Captured(*row) for row in rows]

    def forget(self, before: int) -> None:
        with self._transaction() as connection:
            connection.execute("DELETE FROM changes WHERE number < ?", (before,))

    def close(self) -> None:
        with self._lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()
            self._local = threading.local()

    # -- within ---------------------------------------------------------------------------

    def _row(self, number: int, document: Mapping[str, Any]) -> tuple[str, str]:
        place = f"document {number} for {self._collection}"
        try:
            if not isinstance(document, Mapping):
                raise UnusableRecord(
                    "is not a mapping", found=type(document).__name__, expected="field -> value"
                )
            fields = json_value(document)
            id = make_id(document.get(self._config.id))
        except UnusableRecord as error:
            raise error.at(place) from None
        self._make(place, id, fields)  # whoever reads it must be able to use it
        return id, json.dumps(fields, ensure_ascii=False)

    def _document(self, id: str, fields: str) -> Document:
        return self._make(f"document {id!r} in {self._path}", id, json.loads(fields))

    def _make(self, place: str, id: str, fields: Mapping[str, Any]) -> Document:
        maker = self._maker
        try:
            return maker.make(
                id,
                [fields.get(name) for name in maker.text],
                [fields.get(name) for name in maker.metadata],
            )
        except UnusableRecord as error:
            raise error.at(place) from None

    def _record(self, connection: sqlite3.Connection, ids: Sequence[str], change: str) -> None:
        connection.executemany(
            "INSERT INTO changes (id, change, tag) VALUES (?, ?, lower(hex(randomblob(8))))",
            ((id, change) for id in ids),
        )

    def _pages(
        self, columns: str, after: str | None, until: str | None
    ) -> Iterator[tuple[str, ...]]:
        """Rows in order of id, a page at a time: nothing stays open on the file in between."""
        last, bound = after, until
        while True:
            conditions = [
                condition
                for value, condition in ((last, "id > :last"), (bound, "id <= :bound"))
                if value is not None
            ]
            where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
            rows = self._named(
                f"SELECT {columns} FROM documents{where} ORDER BY id LIMIT {_PAGE}",
                {"last": last, "bound": bound},
            )
            yield from rows
            if len(rows) < _PAGE:
                return
            last = rows[-1][0]

    def _query(self, sql: str, *values: Any) -> list[Any]:
        return self._named(sql, values)

    def _named(self, sql: str, values: Any) -> list[Any]:
        with self._translated():
            return self._connection().execute(sql, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._translated():
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _connection(self) -> sqlite3.Connection:
        """A connection of this thread's own."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._open()
            self._local.connection = connection
            with self._lock:
                self._connections.append(connection)
        return connection

    def _open(self) -> sqlite3.Connection:
        if not self._path.absolute().parent.is_dir():
            raise ConfigError(
                f"the folder of the documents does not exist: {self._path.absolute().parent}",
                expected="a folder that exists",
                next_step="make it, or correct `path` of the source in the configuration",
            )
        refuse_network_filesystem(Path(self._path))
        connection = sqlite3.connect(
            self._path, timeout=30, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            if not connection.execute(
                "SELECT 1 FROM sqlite_master WHERE name = 'about'"
            ).fetchone():
                self._create(connection)
            (owner,) = connection.execute("SELECT collection FROM about").fetchone()
        except BaseException:
            connection.close()
            raise
        if owner != self._collection:
            connection.close()
            raise Refused(
                f"{self._path} holds the documents of another collection",
                found=owner,
                expected=self._collection,
                next_step="give each managed collection a `path` of its own",
            )
        return connection

    def _create(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        for statement in filter(str.strip, _SCHEMA.split(";")):
            connection.execute(statement)
        if not connection.execute("SELECT 1 FROM about").fetchone():
            connection.execute(
                "INSERT INTO about VALUES (?, ?)", (self._collection, uuid.uuid4().hex)
            )
        connection.execute("COMMIT")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StorageUnavailable(
                f"the documents in {self._path} cannot be used now: {error}",
                next_step="free the disk, the permission or the lock; then do the same again",
            ) from error
        except sqlite3.DatabaseError as error:
            raise ConfigError(
                f"{self._path} does not hold documents of embedmigrate: {error}",
                expected="an SQLite file that it made, or none",
                next_step="correct `path` of the source, or restore the file from a backup",
            ) from error
