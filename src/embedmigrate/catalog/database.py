"""Opening the catalog, and the two kinds of transaction on it."""

from __future__ import annotations

import getpass
import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from embedmigrate import postgres
from embedmigrate.catalog import announcing, postgresql, schema, sqlite
from embedmigrate.errors import ConfigError, EmbedMigrateError, UnknownCatalog


class _Kind(Protocol):
    """What is different in each kind of database."""

    def make_engine(self, url: URL) -> Engine: ...

    def listen(self, engine: Engine) -> None: ...

    def translate(self, error: DBAPIError, place: str) -> EmbedMigrateError | None: ...


_KINDS: dict[str, _Kind] = {"sqlite": sqlite, "postgresql": postgresql}
_READ = {sqlite.READ_ONLY: True}


class Catalog:
    """A catalog that exists and has the schema that this program knows.

    ``write()`` is a transaction that may change it; there is one at a time, so that no guard can
    fail half-way. ``read()`` never blocks a writer. No I/O belongs inside either.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        """Open the catalog at ``url``.

        ``create`` makes it when there is none; otherwise a missing one is ``UnknownCatalog``.
        Raises ``UnknownCatalog`` for a newer schema, ``StorageUnavailable`` for a catalog that
        cannot be read or written now, ``Refused`` for SQLite on a network filesystem.
        """
        self.engine = make_engine(url)
        self.schema = schema_of(self.engine)
        try:
            self.id = self._open(create)
        except BaseException:
            self.engine.dispose()
            raise

    def _open(self, create: bool) -> str:
        file = sqlite.file_of(self.engine.url)
        if not create and file is not None and not file.exists():
            raise self._missing()  # connecting would make an empty file
        with self.read() as connection:
            exists = sa.inspect(connection).has_table(schema.catalog.name, schema=self.schema)
            found = connection.execute(sa.select(schema.catalog)).first() if exists else None
        if found is None:
            if not create:
                raise self._missing()
            return self._create()
        if found.schema_version > schema.SCHEMA_VERSION:
            raise UnknownCatalog(
                f"the catalog at {self.place} was made by a newer embedmigrate",
                found=f"catalog schema {found.schema_version}",
                expected=f"at most {schema.SCHEMA_VERSION}",
                next_step="pip install --upgrade embedmigrate",
            )
        if found.schema_version < schema.SCHEMA_VERSION:
            self._bring_up_to_date()
        return str(found.catalog_id)

    def _bring_up_to_date(self) -> None:
        """Add the tables and columns that an older version did not have; none was ever removed."""
        with self.write() as connection:
            schema.metadata.create_all(connection)
            inspector = sa.inspect(connection)
            preparer = connection.dialect.identifier_preparer
            for table in schema.metadata.sorted_tables:
                there = {
                    column["name"] for column in inspector.get_columns(table.name, self.schema)
                }
                for column in table.columns:
                    if column.name not in there:
                        kind = column.type.compile(connection.dialect)
                        connection.exec_driver_sql(
                            f"ALTER TABLE {self._prefix}{preparer.format_table(table)} "
                            f"ADD COLUMN {preparer.format_column(column)} {kind}"
                        )
            if inspector.has_table(_LOCKS_OF_OLD, schema=self.schema):
                _take_over_epochs(connection)
            connection.execute(schema.catalog.update().values(schema_version=schema.SCHEMA_VERSION))

    def _missing(self) -> UnknownCatalog:
        return UnknownCatalog(
            f"there is no catalog at {self.place}",
            expected="a catalog that an upgrade made",
            next_step="embedmigrate upgrade, or correct `catalog` in the configuration; if it was "
            "lost: embedmigrate doctor --rebuild-catalog",
        )

    def _create(self) -> str:
        with self.write() as connection:
            if self.schema is not None:
                postgresql.create_schema(connection)
            schema.metadata.create_all(connection)
            existing = connection.execute(sa.select(schema.catalog.c.catalog_id)).scalar()
            if existing is not None:  # another process was faster
                return str(existing)
            catalog_id = str(uuid.uuid4())
            connection.execute(
                schema.catalog.insert().values(
                    id=1,
                    catalog_id=catalog_id,
                    schema_version=schema.SCHEMA_VERSION,
                    created_at=time.time(),
                )
            )
            return catalog_id

    @property
    def _prefix(self) -> str:
        return "" if self.schema is None else f"{self.schema}."

    @property
    def place(self) -> str:
        """Where the catalog is, without its password."""
        return self.engine.url.render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view of one moment; it waits for nobody."""
        with self.translated(), self.engine.connect() as connection:
            yield connection.execution_options(**_READ)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction, committed when the block ends without an exception."""
        with self.translated(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn what the database says of locks and disks into errors with a contracted code."""
        try:
            yield
        except DBAPIError as error:
            translate = _KINDS[self.engine.dialect.name].translate
            if (found := translate(error, self.place)) is None:
                raise
            raise found from error

    def watch(self) -> sqlite3.Connection | None:
        """A read-only connection whose ``PRAGMA data_version`` tells that something was committed.

        None where the catalog is not SQLite. The caller closes it and serialises its use.
        """
        file = sqlite.file_of(self.engine.url)
        return None if file is None else sqlite.watch(file)

    def close(self) -> None:
        self.engine.dispose()

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


_LOCKS_OF_OLD = "embedmigrate_lock"
"""Where schemas 1 and 2 kept one lock a collection."""


def _take_over_epochs(connection: Connection) -> None:
    """An epoch only grows, whatever table it stands in; an owner is asked to come again."""
    names = ("collection", "epoch", "heartbeat_at", "lease_seconds")
    old = sa.table(_LOCKS_OF_OLD, *map(sa.column, names))
    connection.execute(
        schema.lease.insert().from_select(
            ["role", *names], sa.select(sa.literal("runner"), *(old.c[name] for name in names))
        )
    )
    connection.execute(sa.schema.DropTable(sa.Table(_LOCKS_OF_OLD, sa.MetaData())))


def catalog_exists(url: str) -> bool:
    """Whether a catalog was made at ``url``; makes nothing itself."""
    file = sqlite.file_of(_parse(url))
    if file is not None and not file.exists():
        return False
    try:
        Catalog(url, create=False).close()
    except UnknownCatalog as error:
        if error.found is not None:
            raise
        return False
    return True


def make_engine(url: str) -> Engine:
    """An engine for the catalog, with the rules that its database needs."""
    parsed = _parse(url)
    kind = _KINDS.get(parsed.get_backend_name())
    if kind is None:
        raise ConfigError(
            "the catalog cannot be kept in this kind of database",
            found=parsed.drivername,
            expected="sqlite:///catalog.db, or postgresql://user@host/database",
            next_step="edit `catalog` in the configuration",
        )
    try:
        engine = kind.make_engine(parsed)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the catalog's database driver is not installed: {error.name}",
            found=parsed.drivername,
            next_step="pip install 'embedmigrate[pgvector]'",
        ) from None
    announcing.listen(engine)
    kind.listen(engine)
    return engine


def schema_of(engine: Engine) -> str | None:
    """The schema that the catalog's tables are in; None where there are no schemas."""
    return postgres.SCHEMA if engine.dialect.name == "postgresql" else None


def now(connection: Connection) -> Any:
    """Seconds since 1970 by the one clock of the catalog, as a value that a statement takes."""
    return postgresql.server_time() if connection.dialect.name == "postgresql" else time.time()


def clock(connection: Connection) -> float:
    """The same as a number."""
    moment = now(connection)
    if isinstance(moment, float):
        return moment
    return float(connection.execute(sa.select(moment)).scalar_one())


def _parse(url: str) -> URL:
    try:
        parsed = postgres.with_driver(make_url(url))
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError):
        raise ConfigError(
            "`catalog` is not a database URL",
            expected="for example sqlite:///catalog.db, or postgresql://user@host/database",
            next_step="edit `catalog` in the configuration",
        ) from None
    return parsed


def actor() -> str:
    """Who acts: ``user@host``, for the record of runs and events."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"[:128]
