"""The connection of a SQL source: short, read-only transactions, and errors without secrets.

Only ``sql.py`` imports this module, and only when a source is made: SQLAlchemy is heavy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import URL, Connection, Engine, make_url

from embedmigrate import postgres
from embedmigrate.errors import ConfigError, EmbedMigrateError, Temporary

# PostgreSQL is told transaction by transaction, so that a connection pooler cannot mix it up.
_READ_ONLY = {
    "sqlite": "PRAGMA query_only = ON",
    "mysql": "SET SESSION TRANSACTION READ ONLY",
    "mariadb": "SET SESSION TRANSACTION READ ONLY",
}
_MYSQL = frozenset({"mysql", "mariadb"})
_SQLITE_MAY_PASS = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR", "SQLITE_CANTOPEN")
# too many connections, shutting down, lock wait timeout, deadlock, server gone, connection lost
_MYSQL_MAY_PASS = frozenset({1040, 1053, 1205, 1213, 2006, 2013})


class _StaleConnection(Exception):
    """A connection that was kept had been closed by the server, or by something in between.

    Instead of asking before each statement whether it is still there: a batch is one statement.
    """


class Database:
    """The database at a SQLAlchemy URL. A relative SQLite path starts from ``root``."""

    def __init__(self, url: str, root: Path) -> None:
        parsed = _parse(url, root)
        self.name = _name(parsed)
        self._secrets = _secrets(parsed)
        self._url = parsed
        try:
            self.engine = _make_engine(parsed)
        except ImportError as error:
            raise ConfigError(
                f"the driver of the source database {self.name} is not installed",
                found=error.name or parsed.drivername,
                next_step="pip install 'embedmigrate[pgvector]'"
                if error.name == postgres.DRIVER
                else f"pip install the driver of {parsed.drivername}, or name another one: "
                f"{parsed.get_backend_name()}+DRIVER://…",
            ) from None
        except (exc.ArgumentError, TypeError, ValueError):
            raise _bad_url(parsed.drivername) from None
        self.dialect = self.engine.dialect.name
        if self.dialect == "postgresql":
            self.engine = self.engine.execution_options(postgresql_readonly=True)
        if statement := _READ_ONLY.get(self.dialect):
            sa.event.listen(self.engine, "connect", _on_connect(statement))

    def rows(self, statement: sa.Select[Any] | sa.TextClause) -> Sequence[sa.Row[Any]]:
        """All rows of a statement, read in a transaction of its own."""
        try:
            return self._rows(statement)
        except _StaleConnection:
            return self._rows(statement)

    def _rows(self, statement: sa.Select[Any] | sa.TextClause) -> Sequence[sa.Row[Any]]:
        with self._connect() as connection:
            kept = connection.info.get("kept", False)
            connection.info["kept"] = True
            try:
                return connection.execute(statement).all()
            except exc.DBAPIError as error:
                if kept and error.connection_invalidated and self.dialect == "postgresql":
                    raise _StaleConnection from None
                # the text of the driver may quote what stands in the rows
                raise self._temporary(error) or ConfigError(
                    f"the database {self.name} cannot answer the queries of the source",
                    found=type(error.orig).__name__,
                    next_step="check `table`, `query`, `where` and the types of the columns",
                ) from None

    def probe(self, statement: sa.Select[Any], what: str) -> list[str]:
        """The column names of a statement that returns no row; its faults are shown in full."""
        with self._connect() as connection:
            try:
                return list(connection.execute(statement.limit(0)).keys())
            except exc.DBAPIError as error:
                raise self._temporary(error) or ConfigError(
                    f"the database {self.name} does not accept {what}",
                    found=self._message(error),
                    next_step="correct the source in the configuration",
                ) from None

    @contextmanager
    def inspect(self) -> Iterator[sa.Inspector]:
        """An inspector of tables and columns, for the length of a ``with`` block."""
        with self._connect() as connection:
            try:
                yield sa.inspect(connection)
            except exc.DBAPIError as error:
                raise self._temporary(error) or ConfigError(
                    f"the tables of {self.name} cannot be looked up",
                    found=self._message(error),
                    next_step="correct `table` of the source in the configuration",
                ) from None

    @contextmanager
    def writing(
        self,
        *,
        expected: str = "the right to create triggers and tables, and to delete from them",
        next_step: str = "embedmigrate capture install --sql prints what somebody else may run",
    ) -> Iterator[Connection]:
        """One transaction that may write, on a connection of its own.

        For a recording and for documents that are ours, whose faults ``expected`` and
        ``next_step`` describe.
        """
        try:
            with self._writer.connect() as connection:
                if self.dialect == "sqlite":
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield connection
                connection.commit()
        except exc.DBAPIError as error:
            raise self._temporary(error) or ConfigError(
                f"the database {self.name} cannot be changed",
                found=self._message(error),
                expected=expected,
                next_step=next_step,
            ) from None

    @cached_property
    def _writer(self) -> Engine:
        """Keeps no connection on SQLite, one on a server: a follower writes every few seconds."""
        if self.dialect == "sqlite":
            engine = sa.create_engine(self._url, hide_parameters=True, poolclass=sa.NullPool)
            sa.event.listen(engine, "connect", _on_connect("PRAGMA busy_timeout = 30000"))
            return engine
        return _make_engine(
            self._url, pool_size=1, pool_pre_ping=True, isolation_level="READ COMMITTED"
        )

    def can_hold(self, key: Sequence[object]) -> bool:
        """Whether a key of these values could stand in the database: else it cannot be asked."""
        largest = 2**64 if self.dialect in _MYSQL else 2**63
        return not any(
            (isinstance(value, int) and not -(2**63) <= value < largest)
            or (isinstance(value, str) and "\0" in value and self.dialect == "postgresql")
            for value in key
        )

    def close(self) -> None:
        self.engine.dispose()
        if "_writer" in self.__dict__:
            self._writer.dispose()

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        try:
            connection = self.engine.connect()
        except (exc.DBAPIError, exc.TimeoutError, OSError) as error:
            raise self._contracted(error) or Temporary(
                f"the source database {self.name} cannot be reached",
                found=self._message(error),
                next_step="check the database and `url`, then run the same command again",
            ) from None
        except (TypeError, ValueError) as error:
            # how drivers in Python answer a parameter that they do not know
            raise _bad_url(self._message(error)) from None
        with connection:
            yield connection

    def _temporary(self, error: exc.DBAPIError) -> EmbedMigrateError | None:
        """The error for what may be over in a minute; None for what will stay."""
        if (contracted := self._contracted(error)) is not None:
            return contracted
        # SQLite and MySQL say OperationalError for a lock and for a column that does not exist
        if self.dialect == "sqlite":
            name = getattr(error.orig, "sqlite_errorname", "")
            passes = name.startswith(_SQLITE_MAY_PASS)
        elif self.dialect in _MYSQL:
            code = next(iter(getattr(error.orig, "args", ())), None)
            passes = error.connection_invalidated or code in _MYSQL_MAY_PASS
        else:
            passes = error.connection_invalidated or isinstance(
                error, exc.OperationalError | exc.InterfaceError
            )
        if not passes:
            return None
        return Temporary(
            f"the source database {self.name} did not answer",
            found=type(error.orig).__name__,
            next_step="run the same command again",
        )

    def _contracted(self, error: Exception) -> EmbedMigrateError | None:
        """What all adapters for PostgreSQL say of an error; None where they have no word for it."""
        cause = error.orig if isinstance(error, exc.DBAPIError) else None
        if cause is None or self.engine.dialect.driver != postgres.DRIVER:
            return None
        import psycopg

        if not isinstance(cause, psycopg.Error):
            return None
        found = postgres.contracted(cause, f"the source database {self.name}")
        if found is not None:
            found.found = self._without_secrets(str(found.found))
        return found

    def _message(self, error: Exception) -> str:
        """The first line of what the driver says, without the secrets of the URL."""
        cause = error.orig if isinstance(error, exc.DBAPIError) and error.orig else error
        return self._without_secrets((str(cause).splitlines() or [type(cause).__name__])[0])

    def _without_secrets(self, message: str) -> str:
        for secret in self._secrets:
            # whole words: a secret of one letter would leave nothing of the message
            message = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", message)
        return message


def _make_engine(url: URL, **options: Any) -> Engine:
    if url.get_backend_name() != "postgresql":
        options["pool_pre_ping"] = True
        return sa.create_engine(url, hide_parameters=True, **options)
    if url.get_driver_name() != postgres.DRIVER:
        return sa.create_engine(url, hide_parameters=True, **options)
    given = {name: it for name, it in postgres.connect_args().items() if name not in url.query}
    engine = sa.create_engine(url, hide_parameters=True, connect_args=given, **options)
    from embedmigrate.sources.postgres_values import register_loaders

    sa.event.listen(engine, "connect", lambda connection, _: register_loaders(connection))
    return engine


def _parse(url: str, root: Path) -> URL:
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise _bad_url("text that is not a URL") from None
    parsed, database = postgres.with_driver(parsed), parsed.database
    if parsed.get_backend_name() != "sqlite" or not database or database.startswith(":memory:"):
        return parsed
    if database.startswith("file:"):
        return parsed
    path = root / database
    if not path.is_file():
        # SQLite would make an empty database of that name
        raise ConfigError(
            f"the source database {path} does not exist",
            expected="an SQLite file",
            next_step="correct `url` of the source in the configuration",
        )
    return parsed.set(database=str(path))


def _bad_url(found: str) -> ConfigError:
    return ConfigError(
        "`url` of the SQL source cannot be used",
        found=found,
        expected="a SQLAlchemy URL: dialect+driver://user:password@host/database",
        next_step="correct `url` of the source in the configuration",
    )


def _name(url: URL) -> str:
    """What errors call the database: never its user, password or parameters."""
    host = "" if url.host is None else url.host + (f":{url.port}" if url.port else "")
    return f"{url.get_backend_name()}://{host}/{url.database or ''}"


def _secrets(url: URL) -> list[str]:
    values = [str(url.password)] if url.password else []
    for value in url.query.values():
        values += [value] if isinstance(value, str) else value
    return [value for value in values if value]


def _on_connect(statement: str) -> Callable[[Any, object], None]:
    def read_only(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(statement)
        cursor.close()

    return read_only
