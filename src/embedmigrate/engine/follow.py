"""Follow: bring one index up to a journal position.

The one mechanism behind catch-up, sync and rollback. Entries only say *which* documents changed;
what they are now is read from the source, so applying an entry late or twice does no harm.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

from embedmigrate.catalog import dead_letters, indexes, journal, locks
from embedmigrate.catalog.dead_letters import Failed
from embedmigrate.catalog.journal import Entry
from embedmigrate.catalog.locks import Lease
from embedmigrate.catalog.records import IndexRecord
from embedmigrate.engine import intake
from embedmigrate.engine.dead_letters import RETRY, failed_at, refuse_many, take_out
from embedmigrate.engine.diff import (
    Comparison,
    Diff,
    Difference,
    refuse_mass_delete,
    temporary_space,
)
from embedmigrate.engine.embedding import embed_documents
from embedmigrate.engine.job import Job
from embedmigrate.engine.passages import in_groups, rows_of, stored_documents
from embedmigrate.sources.base import Document, Source
from embedmigrate.stores.base import IndexWriter, Row

_PAGE = 1000


@dataclass
class Followed:
    """What following did, in documents."""

    written: int = 0
    metadata: int = 0
    deleted: int = 0
    unchanged: int = 0
    embedded: int = 0
    more: bool = False
    """Whether it ended by time, with entries left."""
    failed: int = 0
    """Documents that the model cannot embed: tried now, or known and not tried again."""

    @property
    def changes(self) -> int:
        return self.written + self.metadata + self.deleted


REMEMBERED_DIFFERENCES = 10_000


@dataclass
class Noted:
    """A diff whose differences are in the journal now."""

    comparison: Comparison
    remembered: set[Difference]
    """The first ``REMEMBERED_DIFFERENCES`` of them."""


def note_differences(job: Job, lease: Lease, source: Source, index: IndexRecord) -> Noted:
    """Compare source and index and enter every difference into the journal.

    Nothing is entered before all is compared, so that a source that lost its documents is refused
    as a whole (``Refused``, unless the job allows it).
    """
    remembered: set[Difference] = set()
    with (
        closing(job.reader(index)) as reader,
        temporary_space(),
        tempfile.TemporaryFile("w+", encoding="utf-8") as found,
    ):
        dead = dead_letters.states(job.catalog, index.container)
        diff = Diff(source, reader, job.work_dir, dead)
        for difference in diff:
            job.stop.check()
            if len(remembered) < REMEMBERED_DIFFERENCES:
                remembered.add(difference)
            found.write(json.dumps([difference.document_id, difference.kind]) + "\n")
        if not job.allow_mass_delete:
            refuse_mass_delete(job.collection, diff.comparison.orphan, diff.comparison.index)
        found.seek(0)
        page: list[tuple[str, str]] = []
        for line in found:
            document_id, kind = json.loads(line)
            page.append((document_id, kind))
            if len(page) == _PAGE:
                _append(job, lease, page)
                page = []
        _append(job, lease, page)
    return Noted(diff.comparison, remembered)


def compare(job: Job, lease: Lease, source: Source, index: IndexRecord) -> Noted:
    """Enter all that the source recorded, and all in which it differs from ``index``.

    What changes later is recorded, or is found by the next comparison.
    """
    token = intake.take_in(job, source)
    noted = note_differences(job, lease, source, index)
    intake.track(job, lease, index, token)
    return noted


def _append(job: Job, lease: Lease, page: Sequence[tuple[str, str]]) -> None:
    if page:
        with job.catalog.write() as connection:
            locks.renew(connection, lease)
            journal.append(connection, job.collection, page)


def follow(
    job: Job,
    lease: Lease,
    source: Source,
    writer: IndexWriter,
    index: str,
    *,
    seconds: float | None = None,
) -> Followed:
    """Apply every journal entry that ``index`` has not seen yet, for about ``seconds`` at most.

    The model is loaded only when a text has to be embedded. The position in the catalog follows
    what is durable in the store, never the other way round (I14).
    """
    followed, started = Followed(), time.monotonic()
    with job.catalog.read() as connection:
        entries = journal.head(connection, job.collection)
        entries -= indexes.get(connection, index).position
    if entries:
        job.reporter.phase(job.collection, "catching up", entries)
    while True:
        job.stop.check()
        with job.catalog.read() as connection:
            record = indexes.get(connection, index)
            page = journal.entries(connection, job.collection, record.position, job.batch_size)
        if not page:
            return followed
        if seconds is not None and time.monotonic() - started > seconds:
            followed.more = True
            return followed
        found = _apply(job, source, writer, record, page, followed)
        with job.catalog.write() as connection:
            locks.renew(connection, lease)
            dead_letters.forget(connection, record.container, found.alive)
            dead_letters.record(connection, record.container, found.dead)
            journal.note_gone(connection, job.collection, found.gone)
            indexes.advance(connection, index, page[-1].seq)


class _Found(NamedTuple):
    """What is recorded of a page, in the transaction that says that it was applied."""

    alive: list[str]
    """Documents that are no dead letters: embedded, up to date, or gone."""
    dead: list[Failed]
    gone: list[int]
    """Entries that speak of a change, of documents that the source does not have any more: a row
    that left the source's ``where``, for one, or a text that was emptied."""


def _apply(
    job: Job,
    source: Source,
    writer: IndexWriter,
    index: IndexRecord,
    page: Sequence[Entry],
    followed: Followed,
) -> _Found:
    last = {entry.document_id: entry for entry in page}  # the last entry of a document counts
    seqs = {document_id: entry.seq for document_id, entry in last.items()}
    now = source.get(list(seqs))
    retried = {entry.document_id for entry in page if entry.change == RETRY}
    with job.catalog.read() as connection:
        letters = dead_letters.of_documents(connection, index.container, list(seqs))
    existing = sorted(writer.existing(list(seqs)), key=lambda state: state.id)
    stored = {state.id: state for state in stored_documents(existing)}
    # what stands there and is newer came with an entry of its own: it is not paid for twice
    due = {id: seq for id, seq in seqs.items() if id not in stored or stored[id].seq <= seq}
    followed.unchanged += len(seqs) - len(due)
    deletes: list[tuple[str, int]] = []
    metadata: list[Row] = []
    changed: list[Document] = []
    known_dead: set[str] = set()
    failures: list[Failed] = []
    for document_id, seq in due.items():
        document, state = now.get(document_id), stored.get(document_id)
        if document is None or not document.text:
            if state is not None:
                deletes.append((document_id, seq))
            else:
                followed.unchanged += 1
        elif (
            state is None
            and document_id not in retried
            and letters.get(document_id) == document.content_hash
        ):
            known_dead.add(document_id)
        elif state is None or state.content_hash != document.content_hash:
            changed.append(document)
        elif state.metadata_hash != document.metadata_hash:
            metadata += rows_of([document], seq)
        else:
            followed.unchanged += 1
    if deletes:
        followed.deleted += writer.delete(deletes).applied
    if metadata:
        followed.metadata += writer.write_metadata(metadata).applied
    for group in in_groups(changed, job.batch_size):  # each is durable before the next is embedded
        guard = job.guard(index.model)
        result = embed_documents(
            group,
            guard.embedder,
            writer.find_vectors,
            job.stop,
            probe=guard.check,
            believe=job.allow_mass_delete,
        )
        if result.embedded:
            guard.check()  # before anything is written, so that there is nothing to discard (I18)
        failed = [failed_at([failure], seqs[failure.document.id])[0] for failure in result.failed]
        failures += failed
        refuse_many(job, index, failures)
        followed.deleted += take_out(writer, failed)
        rows = [
            row for document in result.documents for row in rows_of([document], seqs[document.id])
        ]
        written = writer.write(rows, result.vectors, space=index.model.fingerprint)
        followed.written += written.applied
        followed.embedded += result.embedded
    dead = known_dead | {failed.document_id for failed in failures}
    followed.failed += len(dead)
    job.reporter.advance(len(page))
    gone = [
        entry.seq
        for document_id, entry in last.items()
        if entry.change not in (*journal.DELETES, RETRY)
        and ((document := now.get(document_id)) is None or not document.text)
    ]
    alive = [document_id for document_id in seqs if document_id not in dead]
    return _Found(alive, failures, gone)
