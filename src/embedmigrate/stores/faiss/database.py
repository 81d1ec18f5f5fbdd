"""``rows.sqlite``: the one file that says what is true of an index.

WAL, so that readers never wait for the writer and keep the snapshot that they began with;
``synchronous=FULL``, so that a commit that returned survives a power cut.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from embedmigrate.errors import DamagedIndex, IndexGone, StorageUnavailable, UnknownCatalog
from embedmigrate.stores.base import IndexManifest, StoredState
from embedmigrate.stores.recovering import Marks

FILE = "rows.sqlite"
SCHEMA = 1
_APPLICATION_ID = 0x656D6967
_BUSY_TIMEOUT_SECONDS = 30
_CHECKPOINT_PAGES = 8_000
"""32 MB of log: by then a page has changed several times and is copied to its place only once."""
_PARAMETERS = 500

_TABLES = """
CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    manifest TEXT NOT NULL,
    version INTEGER NOT NULL DEFAULT 0,     -- grows with every change that a reader must see
    owner_epoch INTEGER NOT NULL DEFAULT 0,
    owner_token TEXT NOT NULL DEFAULT ''    -- which writer object of that epoch
);
CREATE TABLE segments (
    first INTEGER PRIMARY KEY,              -- position of the first vector in the file
    file TEXT NOT NULL UNIQUE,
    writer TEXT                             -- token of who may still append; NULL: it closed
);
CREATE TABLE stamps (
    stamp INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    run TEXT NOT NULL,
    UNIQUE (fingerprint, run)
);
CREATE TABLE rows (
    position INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    chunk INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    content_hash BLOB NOT NULL,
    metadata_hash BLOB NOT NULL,
    stamp INTEGER NOT NULL REFERENCES stamps (stamp),
    metadata TEXT NOT NULL,
    written_at INTEGER NOT NULL,            -- seconds since 1970
    deleted INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX live_rows ON rows (id, chunk) WHERE deleted = 0;
CREATE INDEX live_contents ON rows (content_hash) WHERE deleted = 0;
CREATE TABLE deaths (                       -- append-only: a reader asks what died since
    n INTEGER PRIMARY KEY,
    position INTEGER NOT NULL
);
CREATE TABLE tombstones (id TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE writes (
    first INTEGER PRIMARY KEY,
    count INTEGER NOT NULL,
    crc32 INTEGER NOT NULL
);
CREATE TABLE ann (
    number INTEGER PRIMARY KEY,
    through INTEGER NOT NULL,               -- it knows the positions below this one
    deaths INTEGER NOT NULL,                -- it leaves out what had died by then
    vectors INTEGER NOT NULL,
    size INTEGER NOT NULL,                  -- of the file in bytes
    crcs BLOB NOT NULL                      -- of its blocks, little-endian uint32
);
"""

BoolArray = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.int64]

_T = TypeVar("_T")


def ann_file(number: int) -> str:
    return f"ann-{number}.faiss"


class AnnRecord(NamedTuple):
    """What is recorded of ``ann-<number>.faiss``."""

    number: int
    through: int
    deaths: int
    vectors: int
    size: int
    crcs: bytes

    @property
    def file(self) -> str:
        return ann_file(self.number)


# -- errors -----------------------------------------------------------------------------------


def damaged(
    path: Path, what: str, *, found: object = None, expected: object = None
) -> DamagedIndex:
    """The error for a file that is not what was written."""
    return DamagedIndex(
        f"{path} is damaged: {what}",
        found=found,
        expected=expected,
        next_step="restore the index folder from a backup; or leave the index: embedmigrate "
        "rollback COLLECTION, then embedmigrate upgrade --again REASON builds a new one",
    )


def gone(folder: Path) -> IndexGone:
    return IndexGone(
        f"there is no index {folder.name!r} in {folder.parent}",
        next_step="resolve the route once more: embedmigrate status",
    )


def unavailable(path: Path, what: str) -> StorageUnavailable:
    return StorageUnavailable(
        f"{path} cannot be used now: {what}",
        expected="a disk with space and permission to write, and no other program holding the file",
        next_step="free the disk or the file, then run the same command again",
    )


_UNAVAILABLE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
}


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what SQLite and the file system raise into errors that name ``path``."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        if code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise damaged(path, str(error)) from error
        if code & 0xFF in _UNAVAILABLE:
            raise unavailable(path, str(error)) from error
        raise
    except OSError as error:
        raise unavailable(path, error.strerror or type(error).__name__) from error


# -- opening ----------------------------------------------------------------------------------


def create_database(folder: Path, manifest: IndexManifest) -> None:
    """Write ``rows.sqlite`` of an empty index into ``folder``."""
    with closing(_connect(folder / FILE, "rwc")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA}")
        connection.executescript(f"BEGIN;{_TABLES}COMMIT;")
        connection.execute(
            "INSERT INTO state (one, manifest) VALUES (1, ?)", (json.dumps(asdict(manifest)),)
        )


def open_database(folder: Path) -> sqlite3.Connection:
    """A connection to the rows of an index that exists; the caller closes it.

    Raises ``IndexGone`` without a folder, ``DamagedIndex`` when the file is missing or not ours,
    ``UnknownCatalog`` when a newer program made it.
    """
    file = folder / FILE
    if not folder.is_dir():
        raise gone(folder)
    if not file.is_file():
        raise damaged(file, "the file is missing")
    connection = _connect(file, "rw")
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        schema = connection.execute("PRAGMA user_version").fetchone()[0]
        if application != _APPLICATION_ID:
            raise damaged(file, "another program made it", found=f"application id {application:#x}")
        if schema > SCHEMA:
            raise UnknownCatalog(
                f"{file} was made by a newer embedmigrate",
                found=f"index schema {schema}",
                expected=f"at most {SCHEMA}",
                next_step="pip install --upgrade embedmigrate",
            )
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(file: Path, mode: str) -> sqlite3.Connection:
    # Never check_same_thread: who may use a connection is decided by its owner, with a lock.
    connection = sqlite3.connect(
        f"{file.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=_BUSY_TIMEOUT_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    return connection


def identity(folder: Path) -> tuple[int, int]:
    """Which ``rows.sqlite`` lies there now. One that is open outlives its name when its index is
    dropped, so whoever holds one compares. Raises as ``open_database`` does."""
    try:
        found = (folder / FILE).stat()
    except FileNotFoundError:
        open_database(folder).close()
        raise gone(folder) from None
    return found.st_dev, found.st_ino


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """A writing transaction: it holds the write lock from the start and commits at the end."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.rollback()


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """A reading transaction: everything read inside it is of one moment."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.rollback()


# -- reading ----------------------------------------------------------------------------------


def read_manifest(connection: sqlite3.Connection, folder: Path) -> IndexManifest:
    """The manifest; ``DamagedIndex`` when it is not that of this folder."""
    row = connection.execute("SELECT manifest FROM state").fetchone()
    try:
        manifest = IndexManifest(**json.loads(row[0]))
    except (TypeError, ValueError) as error:
        raise damaged(folder / FILE, f"its manifest cannot be read ({error})") from error
    if manifest.index != folder.name:
        raise damaged(
            folder / FILE,
            "the folder was renamed or copied",
            found=folder.name,
            expected=manifest.index,
        )
    return manifest


def read_marks(connection: sqlite3.Connection) -> Marks:
    """How far the writers of an index were; a dead row counts as one that lives."""
    row = connection.execute(
        "SELECT owner_epoch, MAX(0, (SELECT COALESCE(MAX(seq), 0) FROM rows),"
        " (SELECT COALESCE(MAX(seq), 0) FROM tombstones)) FROM state"
    ).fetchone()
    return Marks(*row)


def read_through(connection: sqlite3.Connection) -> int:
    """The number of positions that are in use: the position of the next vector."""
    row = connection.execute("SELECT COALESCE(MAX(position) + 1, 0) FROM rows").fetchone()
    return int(row[0])


def read_deaths(connection: sqlite3.Connection) -> int:
    """The number of positions whose row is dead."""
    row = connection.execute("SELECT COALESCE(MAX(n), 0) FROM deaths").fetchone()
    return int(row[0])


def read_dead(connection: sqlite3.Connection, after: int = 0) -> Positions:
    """The positions that died, in order, without the first ``after`` of them."""
    cursor = connection.execute("SELECT position FROM deaths WHERE n > ?", (after,))
    return np.fromiter(chain.from_iterable(cursor), dtype=np.int64)


def read_ann(connection: sqlite3.Connection) -> AnnRecord | None:
    """The ANN structure that is recorded, if any."""
    row = connection.execute(
        "SELECT number, through, deaths, vectors, size, crcs FROM ann ORDER BY number DESC"
    ).fetchone()
    return None if row is None else AnnRecord(*row)


def read_states(
    connection: sqlite3.Connection, ids: Sequence[str]
) -> list[tuple[int, StoredState]]:
    """Position and state of every live row of these documents."""
    found = []
    for some in in_parts(ids):
        cursor = connection.execute(
            "SELECT position, id, chunk, seq, content_hash, metadata_hash FROM rows"
            f" WHERE deleted = 0 AND id IN ({marks(some)})",
            some,
        )
        found += [(position, StoredState(*state)) for position, *state in cursor]
    return found


def in_parts(values: Iterable[_T]) -> Iterator[list[_T]]:
    """Distinct ``values``, in lists that a statement can take as parameters."""
    distinct = list(dict.fromkeys(values))
    for start in range(0, len(distinct), _PARAMETERS):
        yield distinct[start : start + _PARAMETERS]


def marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


_compact = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_ascii = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def metadata_json(metadata: Mapping[str, Any]) -> str:
    """Metadata as it is stored. ``ValueError`` for what is no JSON value."""
    text = _compact(dict(metadata))
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which only an escape can hold
        return _ascii(dict(metadata))
    return text
