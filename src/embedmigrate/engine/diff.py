"""Comparing a source with an index: the last resort that always works."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from embedmigrate.catalog.dead_letters import DeadState
from embedmigrate.engine.passages import stored_documents
from embedmigrate.errors import Refused, StorageUnavailable
from embedmigrate.sources.base import NO_TEXT, DocumentState, Source
from embedmigrate.stores.base import IndexReader, StoredState

MASS_DELETE_SHARE = 0.1
"""A diff that would delete more than this share of an index asks first."""


class Difference(NamedTuple):
    """``kind``: missing, stale or metadata (the source is ahead), orphan (the index is), lapsed
    (the list of dead letters is)."""

    document_id: str
    kind: str
    wanted: str = ""
    """Digest of what the source wants there, or the seq of an orphan's row: two passes that agree
    on it saw no change between."""


@dataclass
class Comparison:
    """What a pass over both sides counted, in documents."""

    source: int = 0
    index: int = 0
    skipped: int = 0
    """Documents of the source that have no text."""
    missing: int = 0
    stale: int = 0
    metadata: int = 0
    orphan: int = 0
    failed: int = 0
    """Documents without a vector that are known to be dead, with the text that they have now."""
    lapsed: int = 0
    """Dead letters of documents that the index holds, or the source has no text for, any more."""

    @property
    def differences(self) -> int:
        return self.missing + self.stale + self.metadata + self.orphan + self.lapsed


class Diff:
    """The differences between a source and an index, found in one pass over both.

    Iterate it once; afterwards ``comparison`` holds what was counted. Memory is bounded: both sides
    stream in the byte order of ids; a source that cannot do so is staged in a temporary file.
    """

    def __init__(
        self,
        source: Source,
        reader: IndexReader,
        work_dir: Path,
        dead: Iterable[DeadState] = (),
    ) -> None:
        """``dead`` are the dead letters of the index, in the byte order of their ids."""
        self._source, self._reader, self._work_dir = source, reader, work_dir
        self._dead = iter(dead)
        self.comparison = Comparison()

    def __iter__(self) -> Iterator[Difference]:
        for difference in self._differences():
            counted = getattr(self.comparison, difference.kind)
            setattr(self.comparison, difference.kind, counted + 1)
            yield difference

    def _differences(self) -> Iterator[Difference]:
        if self._source.bytewise:
            yield from self._merge(self._source.states())
            return
        with temporary_space():
            self._work_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._work_dir, prefix="diff-") as folder:
                yield from self._merge(_sorted_by_id(self._source.states(), Path(folder)))

    def _merge(self, states: Iterator[DocumentState]) -> Iterator[Difference]:
        stored_documents = self._stored_documents()
        stored = next(stored_documents, None)
        for state, letter in self._with_letters(states):
            if state is None:
                assert letter is not None
                yield Difference(letter.id, "lapsed")
                continue
            while stored is not None and stored.id < state.id:
                yield Difference(stored.id, "orphan", _row(stored))
                stored = next(stored_documents, None)
            here = None
            if stored is not None and stored.id == state.id:
                here, stored = stored, next(stored_documents, None)
            has_text = state.content_hash != NO_TEXT
            if kind := self._kind(state, here, letter) if has_text else self._rest(here, letter):
                wanted = (
                    (state.content_hash + state.metadata_hash).hex() if has_text else _row(here)
                )
                yield Difference(state.id, kind, wanted)
        while stored is not None:
            yield Difference(stored.id, "orphan", _row(stored))
            stored = next(stored_documents, None)

    def _kind(
        self, state: DocumentState, here: StoredState | None, letter: DeadState | None
    ) -> str | None:
        """How a document with a text differs from what the index holds of it."""
        self.comparison.source += 1
        if here is None:
            if letter is None or letter.content_hash != state.content_hash:
                return "missing"
            self.comparison.failed += 1
            return None
        if here.content_hash != state.content_hash:
            return "stale"
        if here.metadata_hash != state.metadata_hash:
            return "metadata"
        return None if letter is None else "lapsed"

    def _rest(self, here: StoredState | None, letter: DeadState | None) -> str | None:
        """What there still is of a document that has no text."""
        self.comparison.skipped += 1
        if here is not None:
            return "orphan"
        return None if letter is None else "lapsed"

    def _with_letters(
        self, states: Iterator[DocumentState]
    ) -> Iterator[tuple[DocumentState | None, DeadState | None]]:
        """Each document with its dead letter; a letter without a document stands alone."""
        dead = next(self._dead, None)
        for state in states:
            while dead is not None and dead.id < state.id:
                yield None, dead
                dead = next(self._dead, None)
            if dead is not None and dead.id == state.id:
                yield state, dead
                dead = next(self._dead, None)
            else:
                yield state, None
        while dead is not None:
            yield None, dead
            dead = next(self._dead, None)

    def _stored_documents(self) -> Iterator[StoredState]:
        for document in stored_documents(self._reader.states()):
            self.comparison.index += 1
            yield document


def _row(stored: StoredState | None) -> str:
    return "" if stored is None else f"seq {stored.seq}"


@contextmanager
def temporary_space() -> Iterator[None]:
    """Turn what a full disk does to temporary files into ``StorageUnavailable``."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        raise StorageUnavailable(
            f"a temporary file cannot be written: {error}",
            next_step="make room, or set TMPDIR; then run the same command again",
        ) from error


def refuse_mass_delete(collection: str, orphans: int, indexed: int) -> None:
    """``Refused`` when applying a diff would delete more than a tenth of an index."""
    if orphans > MASS_DELETE_SHARE * indexed and orphans > 1:
        raise Refused(
            f"the source of {collection!r} no longer has {orphans} of {indexed} indexed documents",
            found=f"{orphans / indexed:.0%} to delete",
            expected=f"at most {MASS_DELETE_SHARE:.0%} without being asked",
            next_step="check the source; if the documents are really gone, add --yes",
        )


def _sorted_by_id(states: Iterable[DocumentState], folder: Path) -> Iterator[DocumentState]:
    with closing(sqlite3.connect(folder / "stage.sqlite", isolation_level=None)) as stage:
        stage.execute("PRAGMA journal_mode = OFF")
        stage.execute("PRAGMA synchronous = OFF")
        stage.execute("CREATE TABLE stage (id TEXT, content_hash BLOB, metadata_hash BLOB)")
        stage.execute("BEGIN")
        stage.executemany("INSERT INTO stage VALUES (?, ?, ?)", states)
        stage.execute("COMMIT")
        for row in stage.execute("SELECT * FROM stage ORDER BY id"):
            yield DocumentState(*row)
