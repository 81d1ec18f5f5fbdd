"""Connections to the database of the indexes, and what every transaction on them begins with.

Nothing is set for a session and nothing is prepared, so that a pooler between here and the server
may hand each transaction to another backend.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from embedmigrate import postgres
from embedmigrate.errors import ConfigError, DamagedIndex, IndexGone

Connection = psycopg.Connection[tuple[Any, ...]]
T = TypeVar("T")

LOCK_MILLISECONDS = 10_000
"""Longest wait for a lock of another transaction; then ``StorageUnavailable``."""
_CONNECTION: Mapping[str, str | int] = {
    "application_name": "embedmigrate",
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}
"""What holds unless the URL says otherwise: a network that swallows packets is noticed in a minute,
and not after the two hours that the system takes."""
_IDLE_KEPT = 16
"""Connections that wait for the next read; a rush opens more, and closes them again."""
_UNDEFINED = frozenset({"42P01", "3F000"})
_NO_TYPE = frozenset({"42704", "42883"})
_CORRUPT = frozenset({"XX001", "XX002"})
_SET = sql.SQL("set_config({name}, {value}, true)")


class Database:
    """A PostgreSQL database and the schema in it that holds the indexes."""

    def __init__(self, url: str, schema: str) -> None:
        """``ConfigError`` for a URL that is not one of PostgreSQL. Connects to nothing."""
        given = conninfo_to_dict(postgres.conninfo(url))
        parameters: dict[str, Any] = {**_CONNECTION, **given, "client_encoding": "utf8"}
        self._conninfo = make_conninfo(**parameters)
        self.schema = schema
        self.place = postgres.place(url)

    def connect(self) -> Connection:
        """A new connection; the caller closes it. Each message is a transaction of its own."""
        return psycopg.connect(self._conninfo, autocommit=True, prepare_threshold=None)

    @contextmanager
    def opened(self) -> Iterator[Connection]:
        """A connection for the length of a block, and errors with a contracted exit code."""
        with self.translated():
            connection = self.connect()
            try:
                yield connection
            finally:
                connection.close()

    @contextmanager
    def translated(self, index: str | None = None) -> Iterator[None]:
        """Errors of the driver as those of this program; of ``index``, ``IndexGone`` too."""
        try:
            with postgres.translated(self.place):
                yield
        except psycopg.Error as error:
            if index is not None and error.sqlstate in _UNDEFINED:
                raise self.gone(index) from None
            if error.sqlstate in _CORRUPT:
                raise self.damaged(index or "of ours", postgres.headline(error)) from None
            if error.sqlstate in _NO_TYPE:
                raise self.no_extension(postgres.headline(error)) from None
            raise

    def gone(self, index: str) -> IndexGone:
        return IndexGone(
            f"there is no index {index!r} in schema {self.schema} of {self.place}",
            next_step="resolve the route once more: embedmigrate status",
        )

    def damaged(self, index: str, what: str, *, expected: object = None) -> DamagedIndex:
        return DamagedIndex(
            f"index {index} in schema {self.schema} of {self.place} is damaged",
            found=what,
            expected=expected,
            next_step="restore the database from a backup; or leave the index: embedmigrate "
            "rollback COLLECTION, then embedmigrate upgrade --again REASON builds a new one",
        )

    def no_extension(self, found: str) -> ConfigError:
        return ConfigError(
            f"{self.place} does not have pgvector as it is needed",
            found=found,
            expected="the extension vector, 0.8 or later",
            next_step="psql: CREATE EXTENSION vector; or ALTER EXTENSION vector UPDATE",
        )


def settings(values: Mapping[str, object]) -> sql.Composed:
    """A statement that makes settings for the rest of the transaction."""
    parts = [
        _SET.format(name=sql.Literal(name), value=sql.Literal(str(value)))
        for name, value in values.items()
    ]
    return sql.SQL("SELECT {}").format(sql.SQL(", ").join(parts))


def is_lost(connection: Connection, error: psycopg.Error) -> bool:
    """Whether it was the connection that failed, and not what was asked of it."""
    return connection.closed or postgres.is_away(error)


class Connections:
    """Connections for reading, as many as there were threads at once; one thread uses one."""

    def __init__(self, database: Database, prepare: Callable[[Connection], None]) -> None:
        """``prepare`` is shown each new connection."""
        self._database, self._prepare = database, prepare
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._closed = False

    def run(self, work: Callable[[Connection], T]) -> T:
        """Do something that may be done twice: once more where an idle connection was dead."""
        with self.taken() as connection:
            try:
                return work(connection)
            except psycopg.Error as error:
                if not is_lost(connection, error):
                    raise
        self._close_idle()
        with self.taken() as connection:
            return work(connection)

    @contextmanager
    def begun(self, begin: str) -> Iterator[Connection]:
        """The same for a transaction that ``begin`` begins; it ends with the block."""
        with ExitStack() as stack:
            connection = stack.enter_context(self.taken())
            try:
                connection.execute(sql.SQL(begin))
            except psycopg.Error as error:
                if not is_lost(connection, error):
                    raise
                stack.close()
                self._close_idle()
                connection = stack.enter_context(self.taken())
                connection.execute(sql.SQL(begin))
            try:
                yield connection
            finally:
                if not connection.closed:
                    connection.execute("ROLLBACK")

    @contextmanager
    def taken(self) -> Iterator[Connection]:
        """A connection for this thread. It comes back to the others unless it is of no use."""
        with self._lock:
            if self._closed:
                raise ValueError("the index reader is closed")
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = self._opened()
        try:
            yield connection
        finally:
            self._give_back(connection)

    def _opened(self) -> Connection:
        connection = self._database.connect()
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _give_back(self, connection: Connection) -> None:
        idle = psycopg.pq.TransactionStatus.IDLE
        with self._lock:
            wanted = not self._closed and len(self._idle) < _IDLE_KEPT
            if wanted and connection.info.transaction_status == idle:
                self._idle.append(connection)
                return
        connection.close()

    def _close_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def close(self) -> None:
        """Close what is idle now, and the others when they come back. Idempotent."""
        with self._lock:
            self._closed = True
        self._close_idle()
