"""A session of PostgreSQL that holds an advisory lock as long as its runner lives.

The lease in the catalog decides who may write; it has to run out before anybody else dares to take
over from a machine that went dark. The server knows earlier: with the process its connection dies,
and with that the lock. It is a sign of life and no more, as it says nothing of a process that is
frozen: an epoch is what stops that one.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from embedmigrate import postgres
from embedmigrate.catalog import postgresql
from embedmigrate.catalog.database import Catalog
from embedmigrate.errors import ConfigError, StorageUnavailable

if TYPE_CHECKING:
    import psycopg

_MARK = "embedmigrate.session"
_LOOKS = 3
_FREE_AGAIN_SECONDS = 2.0


class Session(Protocol):
    """A sign of life that others can see."""

    def take(self) -> bool | None:
        """Give it, again if it was lost; False while another process gives it.

        None where a database has no such thing. Raises ``StorageUnavailable``.
        """

    def oust(self) -> None:
        """End the session of another process, if that is allowed, and ``take``."""

    def close(self) -> None:
        """Give it no longer. Idempotent."""


class NoSession:
    """For SQLite, where a process is asked for by its number."""

    def take(self) -> bool | None:
        return None

    def oust(self) -> None:
        pass

    def close(self) -> None:
        pass


class PostgresSession:
    """An advisory lock on a connection of its own."""

    _direct: ClassVar[set[str]] = set()
    """URLs behind which no pooler was found."""

    def __init__(self, url: str, where: str, *names: str) -> None:
        """``names`` are what the lock stands for, ``where`` what messages call the database."""
        self._url, self._where = url, where
        self._key = postgresql.lock_key(*names)
        self._connection: psycopg.Connection[Any] | None = None

    def take(self) -> bool | None:
        with self._translated():
            if self._connection is not None and not self._is_whole(self._connection):
                self.close()
            if self._connection is None:
                self._connection = self._connect()
                if self._url not in self._direct:
                    refuse_transaction_pooling(self._connection, self._connect, self._where)
                    self._direct.add(self._url)
            return self._lock(self._connection)

    def oust(self) -> None:
        import psycopg

        if self._connection is None:
            return
        deadline = time.monotonic() + _FREE_AGAIN_SECONDS
        with suppress(psycopg.errors.InsufficientPrivilege), self._translated():
            self._connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
                " AND classid = (%(key)s >> 32 & 4294967295)::oid"
                " AND objid = (%(key)s & 4294967295)::oid AND objsubid = 1"
                " AND granted AND pid <> pg_backend_pid()",
                {"key": self._key},
            )
            while not self._lock(self._connection) and time.monotonic() < deadline:
                time.sleep(0.02)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> psycopg.Connection[Any]:
        import psycopg

        return psycopg.connect(
            postgres.conninfo(self._url), autocommit=True, **postgres.connect_args()
        )

    def _lock(self, connection: psycopg.Connection[Any]) -> bool:
        """Hold the lock once: taken twice in one session, it would have to be given back twice."""
        row = connection.execute(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory'"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND classid = (%(key)s >> 32 & 4294967295)::oid"
            " AND objid = (%(key)s & 4294967295)::oid AND objsubid = 1"
            " AND granted AND pid = pg_backend_pid()) OR pg_try_advisory_lock(%(key)s)",
            {"key": self._key},
        ).fetchone()
        return row is not None and bool(row[0])

    def _is_whole(self, connection: psycopg.Connection[Any]) -> bool:
        import psycopg

        try:
            connection.execute("SELECT 1")
        except psycopg.Error:
            return False
        return True

    @contextmanager
    def _translated(self) -> Iterator[None]:
        import psycopg

        try:
            yield
        except psycopg.Error as error:
            raise (
                postgres.contracted(error, self._where)
                or StorageUnavailable(
                    f"{self._where} does not give a lock",
                    found=postgres.headline(error),
                    next_step="run the same command again",
                )
            ) from None


def session_for(catalog: Catalog, collection: str, role: str) -> Session:
    """The sign of life of whoever holds one of a collection's locks."""
    if catalog.engine.dialect.name != "postgresql":
        return NoSession()
    url = catalog.engine.url.render_as_string(hide_password=False)
    return PostgresSession(url, f"the catalog at {catalog.place}", catalog.id, collection, role)


def refuse_transaction_pooling(
    connection: psycopg.Connection[Any], connect: Any, where: str
) -> None:
    """``ConfigError`` when a proxy gives every transaction another session of the server.

    A mark is left in the session. While a second client keeps a transaction open, a pooler has
    either lent it the session with the mark, or has to serve this client from another one.
    """
    mark = secrets.token_hex(8)
    connection.execute("SELECT set_config(%s, %s, false)", (_MARK, mark))
    for _ in range(_LOOKS):
        with connect() as other:
            other.autocommit = False
            if _mark_of(other) == mark or _mark_of(connection) != mark:
                raise ConfigError(
                    f"{where} is reached through a proxy that pools transactions",
                    found="a connection whose sessions change",
                    expected="a connection to the server itself, or a proxy that pools sessions",
                    next_step="let `catalog` name the server itself for the commands of "
                    "embedmigrate; applications that only search may go through the proxy",
                )


def _mark_of(connection: psycopg.Connection[Any]) -> str | None:
    row = connection.execute("SELECT current_setting(%s, true)", (_MARK,)).fetchone()
    return None if row is None else row[0]
