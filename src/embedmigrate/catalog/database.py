"""Opening the catalog, and the two kinds of transaction on it."""

from __future__ import annotations

import getpass
import os
import socket
import sqlite3
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event as sa_event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError

from embedmigrate.catalog import announcing, schema
from embedmigrate.errors import ConfigError, Refused, StorageUnavailable, UnknownCatalog

BUSY_TIMEOUT_SECONDS = 30
_READ = {"embedmigrate_read": True}
_NETWORK_FILESYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "fuse.sshfs", "lustre"}


class Catalog:
    """A catalog that exists and has the schema that this program knows.

    ``write()`` is a transaction that may change it: on SQLite it takes the write lock at once, so
    that no guard can fail half-way. ``read()`` never blocks a writer. No I/O belongs inside either.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        """Open the catalog at ``url``.

        ``create`` makes it when there is none; otherwise a missing one is ``UnknownCatalog``.
        Raises ``UnknownCatalog`` for a newer schema, ``StorageUnavailable`` for a catalog that
        cannot be read or written now, ``Refused`` for SQLite on a network filesystem.
        """
        self.engine = make_engine(url)
        try:
            self.id = self._open(create)
        except BaseException:
            self.engine.dispose()
            raise

    def _open(self, create: bool) -> str:
        file = _sqlite_file(self.engine.url)
        if not create and file is not None and not file.exists():
            raise self._missing()  # connecting would make an empty file
        with self.read() as connection:
            exists = sa.inspect(connection).has_table(schema.catalog.name)
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
                there = {column["name"] for column in inspector.get_columns(table.name)}
                for column in table.columns:
                    if column.name not in there:
                        kind = column.type.compile(connection.dialect)
                        connection.exec_driver_sql(
                            f"ALTER TABLE {preparer.format_table(table)} "
                            f"ADD COLUMN {preparer.format_column(column)} {kind}"
                        )
            if inspector.has_table(_LOCKS_OF_OLD):
                _take_over_epochs(connection)
            connection.execute(schema.catalog.update().values(schema_version=schema.SCHEMA_VERSION))

    def _missing(self) -> UnknownCatalog:
        return UnknownCatalog(
            f"there is no catalog at {self.place}",
            expected="a catalog that an upgrade made",
            next_step="embedmigrate upgrade, or correct `catalog` in the configuration",
        )

    def _create(self) -> str:
        with self.write() as connection:
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
    def place(self) -> str:
        """Where the catalog is, without its password."""
        return self.engine.url.render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view; on SQLite it takes no write lock."""
        with translated(self.place), self.engine.connect() as connection:
            yield connection.execution_options(**_READ)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction, committed when the block ends without an exception."""
        with translated(self.place), self.engine.begin() as connection:
            yield connection

    def watch(self) -> sqlite3.Connection | None:
        """A read-only connection whose ``PRAGMA data_version`` tells that something was committed.

        None where the catalog is not SQLite. The caller closes it and serialises its use.
        """
        file = _sqlite_file(self.engine.url)
        if file is None:
            return None
        return sqlite3.connect(
            f"{file.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False
        )

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
    connection.exec_driver_sql(f"DROP TABLE {_LOCKS_OF_OLD}")


def catalog_exists(url: str) -> bool:
    """Whether a catalog was made at ``url``; makes nothing itself."""
    file = _sqlite_file(_parse(url))
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
    """An engine for the catalog, with the rules that SQLite needs."""
    parsed = _parse(url)
    options: dict[str, Any] = {}
    if parsed.get_backend_name() == "sqlite":
        file = _sqlite_file(parsed)
        if file is None:
            raise ConfigError(
                "the catalog must outlive the process",
                found=url,
                expected="a file, for example sqlite:///catalog.db",
                next_step="edit `catalog` in the configuration",
            )
        if not file.absolute().parent.is_dir():
            raise ConfigError(
                f"the folder of the catalog does not exist: {file.absolute().parent}",
                expected="a folder that exists",
                next_step="make it, or edit `catalog` in the configuration",
            )
        refuse_network_filesystem(file)
        options["connect_args"] = {"timeout": BUSY_TIMEOUT_SECONDS}
    try:
        engine = sa.create_engine(parsed, **options)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the catalog's database driver is not installed: {error.name}",
            found=parsed.drivername,
            next_step=f"pip install {error.name}",
        ) from None
    announcing.listen(engine)
    if engine.dialect.name == "sqlite":
        sa_event.listen(engine, "connect", _prepare_sqlite)
        sa_event.listen(engine, "begin", _begin_sqlite)
    return engine


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError):
        raise ConfigError(
            "`catalog` is not a database URL",
            expected="for example sqlite:///catalog.db",
            next_step="edit `catalog` in the configuration",
        ) from None
    return parsed


def _sqlite_file(url: URL) -> Path | None:
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    return Path(url.database)


def _prepare_sqlite(dbapi_connection: Any, _record: object) -> None:
    dbapi_connection.isolation_level = None  # transactions begin where we say, see _begin_sqlite
    cursor = dbapi_connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_SECONDS * 1000}")
    # SQLITE_READONLY here means a read-only folder; reading still works without WAL.
    with suppress(sqlite3.OperationalError):
        cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get("embedmigrate_read", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def refuse_network_filesystem(file: Path) -> None:
    """SQLite's locks do not hold on network filesystems: ``Refused`` when ``file`` is on one."""
    if not sys.platform.startswith("linux"):
        return
    folder = file.resolve().parent
    best, kind = "", ""
    with suppress(OSError), Path("/proc/self/mounts").open(encoding="utf-8") as mounts:
        for line in mounts:
            mount, filesystem = line.split(" ")[1:3]
            mount = mount.replace("\\040", " ")
            if folder.is_relative_to(mount) and len(mount) >= len(best):
                best, kind = mount, filesystem
    if kind in _NETWORK_FILESYSTEMS:
        raise Refused(
            f"the SQLite file {file} lies on a network filesystem, where locks are not kept",
            found=f"{kind} at {best}",
            expected="a local disk, or a PostgreSQL catalog",
            next_step="move the file, and edit the configuration",
        )


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Turn what the database says of locks and disks into errors with a contracted exit code."""
    try:
        yield
    except DBAPIError as error:
        said = str(error.orig)
        foreign = type(error.orig) in (sqlite3.OperationalError, sqlite3.DatabaseError)
        if foreign and not any(sign in said for sign in _PASSING):
            raise UnknownCatalog(
                f"the file at {place} is not a catalog that this program can use",
                found=said,
                expected="a catalog that embedmigrate made",
                next_step="restore it from a backup, or correct `catalog` in the configuration",
            ) from error
        if isinstance(error, OperationalError):
            raise StorageUnavailable(
                f"the catalog at {place} cannot be used now: {said}",
                next_step="free the disk, the permission or the lock; then run the same command "
                "again",
            ) from error
        raise


_PASSING = ("locked", "full", "readonly", "unable to open", "disk I/O")
"""What SQLite says of troubles that pass."""


def actor() -> str:
    """Who acts: ``user@host``, for the record of runs and events."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"[:128]
