"""The catalog in SQLite: one file, one writer at a time."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event as sa_event
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError

from embedmigrate.errors import (
    ConfigError,
    EmbedMigrateError,
    Refused,
    StorageUnavailable,
    UnknownCatalog,
)

BUSY_TIMEOUT_SECONDS = 30
READ_ONLY = "embedmigrate_read"
"""Execution option of a connection whose transactions only read."""
_NETWORK_FILESYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "fuse.sshfs", "lustre"}
_PASSING = ("locked", "full", "readonly", "unable to open", "disk I/O")
"""What SQLite says of troubles that pass."""


def make_engine(url: URL) -> Engine:
    """An engine for a file in a folder that exists."""
    file = file_of(url)
    if file is None:
        raise ConfigError(
            "the catalog must outlive the process",
            found=url.render_as_string(),
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
    return sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_SECONDS})


def listen(engine: Engine) -> None:
    """Begin transactions the way that ``Catalog`` promises."""
    sa_event.listen(engine, "connect", _prepare)
    sa_event.listen(engine, "begin", _begin)


def file_of(url: URL) -> Path | None:
    """The file of a SQLite URL; None for memory, and for another database."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    return Path(url.database)


def _prepare(dbapi_connection: Any, _record: object) -> None:
    dbapi_connection.isolation_level = None  # transactions begin where we say, see _begin
    cursor = dbapi_connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_SECONDS * 1000}")
    # SQLITE_READONLY here means a read-only folder; reading still works without WAL.
    with suppress(sqlite3.OperationalError):
        cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    read_only = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def translate(error: DBAPIError, place: str) -> EmbedMigrateError | None:
    """The error for the person on call; None for a fault of this program."""
    said = str(error.orig)
    foreign = type(error.orig) in (sqlite3.OperationalError, sqlite3.DatabaseError)
    if foreign and not any(sign in said for sign in _PASSING):
        return UnknownCatalog(
            f"the file at {place} is not a catalog that this program can use",
            found=said,
            expected="a catalog that embedmigrate made",
            next_step="restore it from a backup, or correct `catalog` in the configuration",
        )
    if isinstance(error, OperationalError):
        return StorageUnavailable(
            f"the catalog at {place} cannot be used now: {said}",
            next_step="free the disk, the permission or the lock; then run the same command again",
        )
    return None


def watch(file: Path) -> sqlite3.Connection:
    """A read-only connection whose ``PRAGMA data_version`` tells that something was committed."""
    return sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)


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
