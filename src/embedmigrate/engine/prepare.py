"""Prepare: bring the index that a revision wants to ``ready``, resumably.

planned > backfilling > catching_up > building > verifying > ready. Each change of state is one
guarded transaction, taken after its post-condition was checked; whatever dies in between is done
again by the same command.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Protocol

from embedmigrate.catalog import events, indexes, routes, runs
from embedmigrate.catalog.locks import Lease
from embedmigrate.catalog.records import STICKY, IndexRecord, IndexState, RunRecord, RunState
from embedmigrate.engine import dead_letters, intake
from embedmigrate.engine.backfill import backfill, discard_window
from embedmigrate.engine.belonging import check_store, manifest_of
from embedmigrate.engine.building import build
from embedmigrate.engine.diff import Comparison
from embedmigrate.engine.fitting import note_cut_off, refuse_too_long
from embedmigrate.engine.follow import compare, follow
from embedmigrate.engine.job import Job
from embedmigrate.engine.verify import Finding, verification_failed, verify
from embedmigrate.errors import (
    BadAnswer,
    DamagedIndex,
    DigestMismatch,
    Drifted,
    EmbedMigrateError,
    IndexGone,
    ModelMismatch,
    Refused,
    SourceMismatch,
    StickyState,
    Stopped,
    Temporary,
)
from embedmigrate.models import EmbeddingModel, IndexSpec
from embedmigrate.sources.base import KeyRange, Source
from embedmigrate.stores.base import IndexWriter

MAX_ROUNDS = 5
"""Times that catch-up compares again before it calls what is left a fault or a lag."""


@dataclass(frozen=True)
class Transition:
    """What a revision wants for a collection."""

    revision: str
    spec: IndexSpec
    leaves: str | None
    """Fingerprint that must be live before; None for a first index."""
    allow_lag: bool = False
    """Whether it is enough that the index is as the source was when they were last compared."""
    allow_failed: int = 0
    """Documents that may lack a vector at the cut-over because they cannot be embedded."""

    @property
    def model(self) -> EmbeddingModel:
        return self.spec.model


class Change(Protocol):
    """What every kind of revision says of a collection."""

    @property
    def revision(self) -> str: ...

    @property
    def leaves(self) -> str | None: ...


def prepare(
    job: Job,
    lease: Lease,
    transition: Transition,
    *,
    again: str | None = None,
    recall_target: float = 0.9,
    retry_failed: bool = False,
) -> RunRecord:
    """Bring the index of ``transition`` to ``ready`` and return its run.

    ``again`` is the reason for which a run that a person rolled back or cancelled is taken up once
    more; ``retry_failed`` tries documents again that could not be embedded. Raises
    ``SourceMismatch``, ``StickyState``, ``VerificationFailed``, ``DeadLetters`` and whatever a
    source, a store or a model raises; the live index is not touched in any case.
    """
    job.store.check_writable()
    check_leaves(job, transition)
    refuse_sticky(job, transition, again)
    check_store(job, route_generation(job))
    with closing(job.open_source(transition.spec.recipe)) as source:
        # what is wrong with the model or the source is said before anything is made
        _refuse_lag(job, transition, source)
        refuse_too_long(job, transition.spec)
        try:
            guard = job.guard(transition.spec.model)
        except (Drifted, ModelMismatch, DigestMismatch, BadAnswer) as error:
            _discard_open_windows(job, lease, transition.spec, str(error.found))
            raise
        job.reporter.phase(job.collection, "reading the source")
        intake.begin(job, source)  # before anything is read
        source.prepare()
        note_cut_off(job, transition.spec, source, guard.embedder)
        job.stop.check()  # before anything is made
        return _prepare(job, lease, transition, source, again, recall_target, retry_failed)


def _prepare(
    job: Job,
    lease: Lease,
    transition: Transition,
    source: Source,
    again: str | None,
    recall_target: float,
    retry_failed: bool,
) -> RunRecord:
    run, index = _open_run(job, lease, transition, again)
    was_ready = run.state is RunState.READY
    if not was_ready:
        job.tell("on_start", run)
    if index.container == index.name:
        job.store.create(manifest_of(job, index))
    try:
        with closing(job.writer(index, lease, run=str(run.id))) as writer:
            preparation = _Preparation(
                job, lease, index, source, writer, recall_target, transition.allow_failed
            )
            ready = preparation.go(run, retry_failed=retry_failed)
    except (Stopped, Temporary):
        raise
    except Exception as error:
        _note_failure(job, lease, run, error)
        raise
    if not was_ready:
        job.tell("on_ready", ready)
    return ready


def _refuse_lag(job: Job, transition: Transition, source: Source) -> None:
    """``Refused`` for a source whose changes only a comparison tells, unless the script allows it.

    Invariants 1, 2 and 5 hold there as of the last comparison and no longer.
    """
    means = intake.means_of(source, told=job.told_by_application)
    if transition.allow_lag or means in intake.COMPLETE:
        return
    raise Refused(
        f"the source of {job.collection!r} does not tell of its changes",
        found=f"changes are learned of by {means.replace('updated_at', 'updated_at as a hint')}",
        expected=f"a recording of them, or allow_lag=True in revision {transition.revision}",
        next_step=f"embedmigrate capture install {job.collection}; or state allow_lag=True in the "
        "script, if it is enough that the index is as the source was when last compared",
    )


def route_generation(job: Job) -> int:
    with job.catalog.read() as connection:
        return routes.get(connection, job.collection).generation


def check_leaves(job: Job, change: Change) -> None:
    """``SourceMismatch`` unless the model that the revision leaves is the one that is live."""
    with job.catalog.read() as connection:
        live = routes.live_fingerprint(connection, job.collection)
    if live != change.leaves:
        raise SourceMismatch(
            f"revision {change.revision} does not start from what {job.collection!r} serves",
            found=f"live model {live or 'none'}",
            expected=f"live model {change.leaves or 'none'}",
            next_step="embedmigrate current, then rebase the revision on what is live",
        )


def refuse_sticky(job: Job, change: Change, again: str | None) -> None:
    """``StickyState`` when the last thing that happened to the revision is that a person undid it.

    That holds for every revision of a block that went back as one, whether it had a run or not.
    """
    if again is not None:
        return
    with job.catalog.read() as connection:
        last = events.last(
            connection, job.collection, "run_started", *STICKY, revision=change.revision
        )
    if last is None or last["kind"] not in STICKY:
        return
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(last["at"]))
    raise StickyState(
        f"revision {change.revision} of {job.collection!r} was "
        f"{last['kind'].replace('_', ' ')} by a person",
        found=f"{last['actor']}, {when}: {last['data'].get('reason') or 'no reason given'}",
        expected="a person's decision to try again",
        next_step=f'embedmigrate upgrade {change.revision} --again "reason"',
    )


def _open_run(
    job: Job, lease: Lease, transition: Transition, again: str | None
) -> tuple[RunRecord, IndexRecord]:
    with job.catalog.read() as connection:
        candidates = indexes.reusable(connection, job.collection, transition.spec)
        wrong = {it.name for it in candidates if runs.holds_wrong_vectors(connection, it.name)}
    ours = (it for it in candidates if it.adopted is None and it.name not in wrong)
    usable = {index.name: index for index in ours if _is_sound(job, index)}
    with job.catalog.write() as connection:
        last = runs.latest(connection, job.collection, revision=transition.revision)
        if last is not None and last.state not in STICKY and last.index_name in usable:
            return runs.take_over(connection, lease, last), usable[last.index_name]
        reused = next(iter(usable.values()), None)
        index = reused or indexes.create(connection, job.collection, transition.spec)
        return runs.create(connection, lease, transition.revision, index.name, again), index


def _discard_open_windows(job: Job, lease: Lease, spec: IndexSpec, reason: str) -> None:
    """What runners that died had embedded last has its closing check now, and fails it.

    That holds for every run that built an index of this spec, whichever revision it was for, and
    for rows that were stored and not yet counted: nobody may copy them by their content.
    """
    with job.catalog.read() as connection:
        open_runs = [
            (index, run)
            for index in indexes.of_collection(connection, job.collection, IndexState.BUILDING)
            if index.spec_digest == spec.digest
            for run in runs.of_index(connection, index.name)
            if run.state is not RunState.READY
        ]
    for index, run in open_runs:
        with suppress(IndexGone), closing(job.writer(index, lease, run=str(run.id))) as writer:
            discard_window(job, lease, run, writer, reason)


def _is_sound(job: Job, index: IndexRecord) -> bool:
    """Whether an index may be built on. One that is not there yet, or any more, is made again,
    unless another index made its container."""
    try:
        job.reader(index).close()
    except IndexGone:
        return index.container == index.name
    except DamagedIndex as error:
        job.reporter.note(f"{index.name} is not used again: {error.message}")
        return False
    return True


def _note_failure(job: Job, lease: Lease, run: RunRecord, error: Exception) -> None:
    reason = error.message if isinstance(error, EmbedMigrateError) else type(error).__name__
    with suppress(EmbedMigrateError), job.catalog.write() as connection:
        now = runs.get(connection, run.id)
        runs.move(connection, lease, now, RunState.FAILED, reason=reason)


@dataclass
class _Preparation:
    """The steps of one run, with the parts that they share."""

    job: Job
    lease: Lease
    index: IndexRecord
    source: Source
    writer: IndexWriter
    recall_target: float
    allow_failed: int = 0

    def go(self, run: RunRecord, *, retry_failed: bool = False) -> RunRecord:
        complete = self.index.state in (IndexState.READY, IndexState.RETAINED)
        if run.state in (RunState.FAILED, RunState.PAUSED):
            run = self._move(run, RunState.BACKFILLING if run.total else RunState.PLANNED)
        if run.state is RunState.PLANNED and not complete:
            ranges = self._stoppable(self.source.partition(self.job.batch_size))
            total = runs.plan_batches(self.job.catalog, self.lease, run, ranges)
            run = self._move(run, RunState.BACKFILLING, total=total)
        if run.state is RunState.BACKFILLING:
            self._backfill(run)
        run = self._move(run, RunState.CATCHING_UP)
        retried = self._retry_failed() if retry_failed else 0
        comparison, lagging, embedded = self._catch_up()
        run = self._move(
            run,
            RunState.BUILDING,
            total=comparison.source + comparison.skipped,
            done=comparison.source - comparison.missing - comparison.failed,
            skipped=comparison.skipped,
            failed=comparison.failed,
            embedded=run.embedded + retried + embedded,
        )
        self._phase("building")
        build(self.job, self.writer)
        run = self._move(run, RunState.VERIFYING)
        findings = self._verify(comparison, lagging)
        return self._finish(run, findings)

    def _backfill(self, run: RunRecord) -> None:
        self._phase("embedding", run.total, run.total - run.pending)
        embedder = self.job.embedder(self.index.model)
        backfill(self.job, self.lease, run, self.source, self.writer, embedder)

    def _retry_failed(self) -> int:
        """Try dead documents again; returns the texts that were embedded."""
        dead_letters.retry(self.job, self.lease, self.index)
        return follow(self.job, self.lease, self.source, self.writer, self.index.name).embedded

    def _catch_up(self) -> tuple[Comparison, int, int]:
        """Compare and apply until a comparison finds nothing.

        Returns the last comparison, how many of its differences are a lag, and the texts embedded.
        On a source that never stands still the last differences are a lag, as long as none of them
        was there, unchanged, one round before: such a one was applied and did not hold.
        """
        before: set[object] = set()
        embedded = 0
        for round_number in range(1, MAX_ROUNDS + 1):
            self._phase("comparing")
            if round_number > 1:
                self.source.prepare()
            noted = compare(self.job, self.lease, self.source, self.index)
            found = noted.comparison.differences
            stuck = len(before & noted.remembered)
            if found == 0 or stuck or round_number == MAX_ROUNDS:
                break
            before = set(noted.remembered)
            done = follow(self.job, self.lease, self.source, self.writer, self.index.name)
            embedded += done.embedded
        return noted.comparison, 0 if stuck else found, embedded

    def _verify(self, comparison: Comparison, lagging: int) -> list[Finding]:
        self._phase("verifying")
        with closing(self.job.reader(self.index)) as reader:
            return verify(
                self.index.spec,
                reader,
                self.source,
                self.job.embedder(self.index.model),
                comparison,
                spaces=self.job.spaces(self.index),
                lagging=lagging,
                recall_target=self.recall_target,
            )

    def _finish(self, run: RunRecord, findings: list[Finding]) -> RunRecord:
        broken = [finding for finding in findings if not finding.holds]
        with self.job.catalog.write() as connection:
            for finding in findings:
                runs.add_evidence(
                    connection,
                    self.index.name,
                    finding.invariant,
                    finding.holds,
                    finding.measured,
                    run.id,
                )
            refusal: EmbedMigrateError | None = (
                verification_failed(self.index.name, broken)
                if broken
                else dead_letters.refusal(connection, self.index, self.allow_failed)
            )
            if refusal is None:
                state = indexes.get(connection, self.index.name).state
                if state is not IndexState.READY:
                    indexes.move(connection, self.index.name, (state,), IndexState.READY)
                routes.offer_candidate(connection, self.lease, self.index.name)
                return runs.move(
                    connection,
                    self.lease,
                    run,
                    RunState.READY,
                    values={"ready_at": time.time()},
                )
        raise refusal

    def _stoppable(self, ranges: Iterable[KeyRange]) -> Iterator[KeyRange]:
        for key_range in ranges:
            self.job.stop.check()
            yield key_range

    def _move(self, run: RunRecord, after: RunState, **values: int) -> RunRecord:
        self.job.stop.check()
        with self.job.catalog.write() as connection:
            return runs.move(connection, self.lease, run, after, values=values)

    def _phase(self, name: str, total: int | None = None, done: int = 0) -> None:
        self.job.stop.check()
        self.job.reporter.phase(self.job.collection, name, total, done)
