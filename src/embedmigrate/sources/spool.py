"""The spool: an index over a file, so that its documents can be read by id, in order of their ids.

One SQLite file, written under another name and renamed when it is complete: whoever is killed
leaves the old spool or the new one. It holds nothing that could not be made again from the file.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from embedmigrate.errors import SourceChanged, StorageUnavailable
from embedmigrate.sources.base import DocumentState

# `number` is the place in the file (a line, a row), from 1: the rows are written in that order.
_SCHEMA = """
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    PRAGMA locking_mode = EXCLUSIVE;
    CREATE TABLE made (signature TEXT NOT NULL, settled INTEGER NOT NULL, documents INTEGER);
    CREATE TABLE documents (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL,
        content_hash BLOB NOT NULL,
        metadata_hash BLOB NOT NULL,
        offset INTEGER NOT NULL,
        length INTEGER NOT NULL,
        payload BLOB
    );
    BEGIN;
"""
_COLUMNS = "number, id, content_hash, metadata_hash, offset, length, payload"
_IDS_A_QUERY = 500
_ABANDONED_AFTER = 24 * 3600.0


class SpoolRow(NamedTuple):
    """One document: its place in the file, id and hashes, and where its text is.

    The text is ``length`` bytes at ``offset`` of the file, or in ``payload`` when the file cannot
    be read at an offset.
    """

    number: int
    id: str
    content_hash: bytes
    metadata_hash: bytes
    offset: int
    length: int
    payload: bytes | None

    @property
    def state(self) -> DocumentState:
        return DocumentState(self.id, self.content_hash, self.metadata_hash)


class RepeatedId(Exception):
    """An id stands at two places of the file. ``ids`` counts the ids to which this happens."""

    def __init__(self, id: str, first: int, second: int, ids: int) -> None:
        super().__init__(id)
        self.id, self.first, self.second, self.ids = id, first, second, ids


class Spool:
    """The spool at ``path``. Every reading method opens the file anew, in the calling thread."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def documents(self, signature: str) -> int | None:
        """How many documents the spool of this signature holds; None when it must be built."""
        try:
            with closing(self._open()) as spool:
                made = spool.execute("SELECT signature, settled, documents FROM made").fetchone()
        except (SourceChanged, sqlite3.DatabaseError):
            return None
        if made is None or made[0] != signature or not made[1]:
            return None
        return int(made[2])

    def build(self, signature: str, settled: bool, rows: Iterable[SpoolRow]) -> int:
        """Replace the spool by one of ``rows`` and return their number.

        ``settled`` is False when the file was modified so recently that its signature proves
        nothing; such a spool is used, and never reused. Raises ``RepeatedId``.
        """
        temporary = self.path.with_name(
            f"{self.path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
        )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._sweep()
            try:
                with closing(sqlite3.connect(temporary, isolation_level=None)) as spool:
                    documents = _fill(spool, signature, settled, rows)
                with temporary.open("rb") as written:
                    os.fsync(written.fileno())
                temporary.replace(self.path)
            finally:
                temporary.unlink(missing_ok=True)
        except (OSError, sqlite3.OperationalError) as error:
            raise StorageUnavailable(
                f"the index over the source file cannot be written to {self.path.parent}: {error}",
                next_step="make room or correct the permissions, then run the same command again",
            ) from error
        return documents

    def rows(self, after: str | None = None, until: str | None = None) -> Iterator[SpoolRow]:
        """The rows with ``after < id <= until``, in order of id."""
        bounds = {"id > ?": after, "id <= ?": until}
        where = " AND ".join(sql for sql, id in bounds.items() if id is not None) or "TRUE"
        given = [id for id in bounds.values() if id is not None]
        with closing(self._open()) as spool:
            query = f"SELECT {_COLUMNS} FROM documents WHERE {where} ORDER BY id"
            yield from map(SpoolRow._make, spool.execute(query, given))

    def find(self, ids: Sequence[str]) -> Iterator[SpoolRow]:
        """The rows of these ids, as far as there are any, in no particular order."""
        possible = [id for id in dict.fromkeys(ids) if _is_utf8(id)]
        with closing(self._open()) as spool:
            for start in range(0, len(possible), _IDS_A_QUERY):
                some = possible[start : start + _IDS_A_QUERY]
                marks = ", ".join("?" * len(some))
                query = f"SELECT {_COLUMNS} FROM documents WHERE id IN ({marks})"
                yield from map(SpoolRow._make, spool.execute(query, some))

    def ids(self) -> Iterator[str]:
        """Every id, in order."""
        with closing(self._open()) as spool:
            for (id,) in spool.execute("SELECT id FROM documents ORDER BY id"):
                yield id

    def states(self) -> Iterator[DocumentState]:
        """Id and hashes of every document, in order of id."""
        query = "SELECT id, content_hash, metadata_hash FROM documents ORDER BY id"
        with closing(self._open()) as spool:
            yield from map(DocumentState._make, spool.execute(query))

    def _open(self) -> sqlite3.Connection:
        # A spool is never written after its renaming, so no lock is needed. A generator may be
        # closed by another thread than the one that read from it.
        try:
            return sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode=ro&immutable=1",
                uri=True,
                check_same_thread=False,
            )
        except sqlite3.OperationalError as error:
            raise SourceChanged(
                f"the index over the source file, {self.path}, is gone",
                next_step="run the same command again: it is made anew",
            ) from error

    def _sweep(self) -> None:
        """Remove what killed processes left behind."""
        for leftover in self.path.parent.glob(f"{self.path.name}.*.tmp"):
            try:
                if time.time() - leftover.stat().st_mtime > _ABANDONED_AFTER:
                    leftover.unlink()
            except FileNotFoundError:
                continue


def _fill(
    spool: sqlite3.Connection, signature: str, settled: bool, rows: Iterable[SpoolRow]
) -> int:
    spool.executescript(_SCHEMA)
    spool.executemany(f"INSERT INTO documents ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    try:
        spool.execute("CREATE UNIQUE INDEX by_id ON documents (id)")
    except sqlite3.IntegrityError:
        raise _repeated(spool) from None
    (documents,) = spool.execute("SELECT COUNT(*) FROM documents").fetchone()
    spool.execute("INSERT INTO made VALUES (?, ?, ?)", (signature, settled, documents))
    spool.execute("COMMIT")
    return int(documents)


def _repeated(spool: sqlite3.Connection) -> RepeatedId:
    """The first id that occurs twice, its first two places, and how many such ids there are."""
    groups = "SELECT id, MIN(number) AS first FROM documents GROUP BY id HAVING COUNT(*) > 1"
    (ids,) = spool.execute(f"SELECT COUNT(*) FROM ({groups})").fetchone()
    (id, first) = spool.execute(f"{groups} ORDER BY first LIMIT 1").fetchone()
    query = "SELECT MIN(number) FROM documents WHERE id = ? AND number > ?"
    (second,) = spool.execute(query, (id, first)).fetchone()
    return RepeatedId(id, first, second, ids)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
