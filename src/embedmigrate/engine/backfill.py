"""Backfill: every document of the source, batch by batch, into the target index."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from embedmigrate.catalog import dead_letters, indexes, journal, runs
from embedmigrate.catalog.locks import Lease
from embedmigrate.catalog.records import BatchRecord, IndexRecord, RunRecord, RunState
from embedmigrate.embedders.base import Embedder, Vectors
from embedmigrate.engine.dead_letters import failed_at, refuse_many, take_out
from embedmigrate.engine.embedding import EmbeddedBatch, embed_documents
from embedmigrate.engine.executor import Executor, LocalExecutor
from embedmigrate.engine.guard import Guard
from embedmigrate.engine.job import Job
from embedmigrate.engine.passages import rows_of
from embedmigrate.errors import (
    BadAnswer,
    DigestMismatch,
    Drifted,
    EmbedMigrateError,
    ModelMismatch,
)
from embedmigrate.sources.base import Document, Source
from embedmigrate.stores.base import IndexWriter


def backfill(
    job: Job,
    lease: Lease,
    run: RunRecord,
    source: Source,
    writer: IndexWriter,
    embedder: Embedder,
    executor: Executor | None = None,
) -> None:
    """Work off the pending batches of ``run``. Resumable: finished batches are not looked at.

    Window by window: the check that closes one decides whether its batches count (I18). One that
    fails is discarded and done again once, in case the trouble passed; ``Drifted`` if it stays.
    """
    guard, executor = job.guard(embedder.model), executor or LocalExecutor()
    _close_window_of_the_dead(job, lease, run, writer, embedder)
    failed = False
    while True:
        try:
            if not _work_off_window(job, lease, run, source, writer, embedder, executor):
                return
            guard.check()
        except Drifted as error:
            discard_window(job, lease, run, writer, str(error.found))
            if failed:
                raise
            failed = True
            job.reporter.note(f"a window of batches is discarded and done again: {error.found}")
        except Exception as error:
            _close_early(job, lease, run, writer, guard, error)
            raise
        else:
            _confirm(job, lease, run)
            failed = False


def _work_off_window(
    job: Job,
    lease: Lease,
    run: RunRecord,
    source: Source,
    writer: IndexWriter,
    embedder: Embedder,
    executor: Executor,
) -> bool:
    """Embed the batches of the next window; False when there is none."""
    window = list(islice(runs.pending_batches(job.catalog, run.id), job.witness_batches))
    if not window:
        return False
    with job.catalog.read() as connection:
        writer.begin(runs.window(connection, run.id))
        index = indexes.get(connection, run.index_name)
    executor.run(window, _BackfillWork(job, lease, index, source, writer, embedder))
    return True


def _close_window_of_the_dead(
    job: Job, lease: Lease, run: RunRecord, writer: IndexWriter, embedder: Embedder
) -> None:
    """Decide about the window of a runner that was killed, now that the guard has opened.

    Files that are the pinned ones made it, so that this check closes it. What a server answered in
    between nobody knows: its window is done again, at the price of what was embedded in it. So is
    the last window of a run that was cancelled, whose vectors this one would use for equal texts.
    """
    with job.catalog.read() as connection:
        is_open = runs.has_open_window(connection, run.id)
        others = [it for it in runs.of_index(connection, run.index_name) if it.id < run.id]
    if not run.done and not embedder.model.artifacts:
        for other in others:
            if other.state is RunState.CANCELLED:
                reason = "the last window of a cancelled run of a server's model"
                discard_window(job, lease, other, writer, reason)
    if is_open and not embedder.model.artifacts:
        discard_window(job, lease, run, writer, "a window of a server's model that was not closed")
    else:
        _confirm(job, lease, run)


def _close_early(
    job: Job, lease: Lease, run: RunRecord, writer: IndexWriter, guard: Guard, error: Exception
) -> None:
    """Check the witness of a window that something else ended, as long as its model is there.

    A model that answered as another one fails the check by that. Where neither the model nor the
    catalog can be asked, the window stays open, and the next runner decides.
    """
    with suppress(EmbedMigrateError):
        try:
            if isinstance(error, ModelMismatch | DigestMismatch):
                raise Drifted(error.message, found=error.found)
            if isinstance(error, BadAnswer) and not guard.embedder.model.artifacts:
                raise Drifted(error.message, found=error.found)
            guard.check()
        except Drifted as drifted:
            discard_window(job, lease, run, writer, str(drifted.found))
        else:
            _confirm(job, lease, run)


def _confirm(job: Job, lease: Lease, run: RunRecord) -> None:
    with job.catalog.write() as connection:
        runs.confirm_window(connection, lease, run)


def discard_window(
    job: Job, lease: Lease, run: RunRecord, writer: IndexWriter, reason: str
) -> None:
    """Take back what was embedded since the witness last held; store first (I14)."""
    with job.catalog.read() as connection:
        stamp = runs.window(connection, run.id)
    writer.discard(stamp)
    with job.catalog.write() as connection:
        runs.discard_window(connection, lease, run, reason)


@dataclass
class _Reading:
    batch: BatchRecord
    seq: int
    documents: list[Document]
    skipped: int


@dataclass
class _Embedded:
    reading: _Reading
    result: EmbeddedBatch


@dataclass
class _BackfillWork:
    """The stages of a backfill batch, as the executor calls them."""

    job: Job
    lease: Lease
    index: IndexRecord
    source: Source
    writer: IndexWriter
    embedder: Embedder
    _unsaved: dict[bytes, Vectors] = field(default_factory=dict)
    _writer_lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, batch: BatchRecord) -> _Reading:
        # The position is noted before the texts are read: a change that comes between is in the
        # journal with a greater seq and will be applied over what is read here.
        with self.job.catalog.read() as connection:
            seq = journal.head(connection, self.job.collection)
        found = list(self.source.scan(batch.after, batch.until))
        documents = [document for document in found if document.text]
        return _Reading(batch, seq, documents, skipped=len(found) - len(documents))

    def embed(self, reading: _Reading) -> _Embedded:
        self.job.stop.check()
        result = embed_documents(
            reading.documents,
            self.embedder,
            self._find_vectors,
            self.job.stop,
            probe=self.job.guard(self.embedder.model).check,
            believe=self.job.allow_mass_delete,
        )
        for passage, vector in zip(result.passages, result.vectors, strict=True):
            self._unsaved[passage.content_hash] = vector
        return _Embedded(reading, result)

    def save(self, embedded: _Embedded) -> None:
        reading, batch, result = embedded.reading, embedded.reading.batch, embedded.result
        failures = failed_at(result.failed, reading.seq)
        refuse_many(self.job, self.index, failures)
        with self._writer_lock:
            if result.documents:
                self.writer.write(
                    rows_of(result.documents, reading.seq),
                    result.vectors,
                    space=self.embedder.model.fingerprint,
                )
            if failures:
                take_out(self.writer, failures)
        with self.job.catalog.write() as connection:
            runs.finish_batch(
                connection,
                self.lease,
                batch,
                done=len(result.documents),
                skipped=reading.skipped,
                embedded=result.embedded,
                failed=len(failures),
            )
            dead_letters.forget(
                connection, self.index.container, [document.id for document in result.documents]
            )
            dead_letters.record(
                connection, self.index.container, failures, (batch.run_id, batch.ordinal)
            )
        for passage in result.passages:
            self._unsaved.pop(passage.content_hash, None)
        self.job.reporter.advance(len(reading.documents) + reading.skipped)

    def _find_vectors(self, hashes: Sequence[bytes]) -> dict[bytes, Vectors]:
        # Order matters: a batch that is saved between the two look-ups must be seen by one of them.
        unsaved = {key: vector for key in hashes if (vector := self._unsaved.get(key)) is not None}
        with self._writer_lock:
            stored = self.writer.find_vectors([key for key in hashes if key not in unsaved])
        return {**stored, **unsaved}
