"""The documents that embedmigrate owns, in an SQLite file.

One writer at a time: the numbers of the changes are in the order of the commits.
"""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from embedmigrate.catalog.sqlite import refuse_network_filesystem
from embedmigrate.errors import ConfigError, Refused, StorageUnavailable
from embedmigrate.sources.base import Captured

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


class SqliteDocuments:
    """The documents of one collection, and the recording of their changes."""

    def __init__(self, path: Path, collection: str) -> None:
        self._path, self._collection = path, collection
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._lock = threading.Lock()

    @property
    def place(self) -> str:
        return str(self._path)

    # -- writing --------------------------------------------------------------------------

    def write(self, rows: Mapping[str, str]) -> None:
        with self._transaction() as connection:
            connection.executemany(
                "INSERT INTO documents (id, fields) VALUES (?, ?) "
                "ON CONFLICT (id) DO UPDATE SET fields = excluded.fields",
                rows.items(),
            )
            self._record(connection, list(rows), "changed")

    def delete(self, ids: Sequence[str]) -> int:
        with self._transaction() as connection:
            gone = [
                id
                for id in ids
                if connection.execute("DELETE FROM documents WHERE id = ?", (id,)).rowcount
            ]
            self._record(connection, gone, "deleted")
        return len(gone)

    # -- reading --------------------------------------------------------------------------

    def count(self) -> int:
        return int(self._query("SELECT count(*) FROM documents")[0][0])

    def ids(self) -> Iterator[str]:
        return (row[0] for row in self._pages("id", None, None))

    def scan(self, after: str | None, until: str | None) -> Iterator[tuple[str, str]]:
        yield from self._pages("id, fields", after, until)

    def find(self, ids: Sequence[str]) -> Iterator[tuple[str, str]]:
        for start in range(0, len(ids), _IDS_A_QUERY):
            page = ids[start : start + _IDS_A_QUERY]
            marks = ", ".join("?" * len(page))
            yield from self._query(f"SELECT id, fields FROM documents WHERE id IN ({marks})", *page)

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

    def _record(self, connection: sqlite3.Connection, ids: Sequence[str], change: str) -> None:
        connection.executemany(
            "INSERT INTO changes (id, change, tag) VALUES (?, ?, lower(hex(randomblob(8))))",
            ((id, change) for id in ids),
        )

    def _pages(self, columns: str, after: str | None, until: str | None) -> Iterator[Any]:
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
