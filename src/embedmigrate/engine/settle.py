"""What an index needs outside a run: catching up, before a rollback and after a cut-over."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from embedmigrate.catalog import indexes, journal, locks, routes
from embedmigrate.catalog.dead_letters import forget_container
from embedmigrate.catalog.dead_letters import states as letters_of
from embedmigrate.catalog.locks import Lease
from embedmigrate.catalog.records import IndexRecord, IndexState
from embedmigrate.engine import dead_letters, intake
from embedmigrate.engine.belonging import check_store
from embedmigrate.engine.diff import Diff
from embedmigrate.engine.follow import Followed, compare, follow
from embedmigrate.engine.job import Job
from embedmigrate.errors import Refused

IDS_NAMED = 20


def catch_up(
    job: Job,
    lease: Lease,
    index_name: str,
    *,
    generation: int | None = None,
    anew: bool | None = None,
    seconds: float | None = None,
) -> Followed:
    """Bring an index up to what the source is now. Loads the model only if a text changed.

    Source and index are compared where the journal does not hold every difference; with ``anew``
    in any case, and where it is False only once: not again for a source that never tells of all its
    changes. ``generation`` is recorded in the index when it is live. After ``seconds`` it ends
    between two pages, with ``more`` to do. A container that somebody else made stays as it is.
    """
    with job.catalog.read() as connection:
        index = indexes.get(connection, index_name)
    if index.adopted is not None:
        job.reporter.note(f"{index.name} is not ours to write, and is served as it is")
        return Followed()
    with closing(job.open_source(index.spec.recipe)) as source:
        token = intake.take_in(job, source)
        with job.catalog.read() as connection:
            index = indexes.get(connection, index_name)
            tracked = intake.is_tracked(index, token)
            if anew is None or (anew is False and token is not None):
                anew = not tracked
            pending = journal.head(connection, job.collection) > index.position
        if not (anew or pending or generation is not None):
            return Followed()
        if anew:
            job.reporter.phase(job.collection, "comparing")
            source.prepare()
        with closing(job.writer(index, lease, run="follow")) as writer:
            if generation is not None and writer.manifest.generation < generation:
                writer.set_generation(generation)
            if anew:
                compare(job, lease, source, index)
            followed = follow(job, lease, source, writer, index_name, seconds=seconds)
            if followed.changes:
                # nothing older than what stands there can come any more: every text is read anew
                writer.forget_tombstones(index.position)
                writer.build()
            return followed


@dataclass(frozen=True)
class Outstanding:
    """What an index lacks that only its model could make."""

    stale: int = 0
    missing: int = 0
    ids: tuple[str, ...] = ()
    """The first of them."""

    def __str__(self) -> str:
        counted = f"{self.stale} stale and {self.missing} missing documents"
        more = self.stale + self.missing - len(self.ids)
        named = ", ".join(map(repr, self.ids)) + (f" and {more} more" if more else "")
        return f"{counted}: {named}" if self.ids else counted


def outstanding(job: Job, index: IndexRecord) -> Outstanding:
    """Compare source and index without a model, and change nothing."""
    ids: list[str] = []
    with (
        closing(job.open_source(index.spec.recipe)) as source,
        closing(job.reader(index)) as reader,
    ):
        source.prepare()
        diff = Diff(source, reader, job.work_dir, letters_of(job.catalog, index.container))
        for difference in diff:
            if difference.kind in ("stale", "missing") and len(ids) < IDS_NAMED:
                ids.append(difference.document_id)
    found = diff.comparison
    return Outstanding(found.stale, found.missing, tuple(ids))


def settle(job: Job, lease: Lease) -> Followed | None:
    """After a switch: what changed around it flows into the live index, if that is our own.

    Also finishes what a crash left: idempotent, and None when there is nothing to settle. The lease
    is the follower's.
    """
    with job.catalog.read() as connection:
        route = routes.get(connection, job.collection)
        live = None if route.live_index is None else indexes.get(connection, route.live_index)
    if route.settled_generation == route.generation:
        return None
    followed = None
    if live is not None and not live.adopted:
        followed = catch_up(job, lease, live.name, generation=route.generation)
    with job.catalog.write() as connection:
        routes.note_settled(connection, lease, route.generation)
    return followed


def retry_live(job: Job, lease: Lease) -> None:
    """Try the dead documents of the live index again; ``DeadLetters`` when some of them remain."""
    live = dead_letters.of_live_index(job)
    if live is None or not live[1]:
        return
    index, _ = live
    dead_letters.retry(job, lease, index)
    catch_up(job, lease, index.name)
    with job.catalog.read() as connection:
        remaining = dead_letters.refusal(connection, index, 0)
    if remaining is not None:
        raise remaining


def contract(job: Job, lease: Lease, *, retain_seconds: float, now: float) -> list[str]:
    """Drop the retained indexes whose grace is over; returns their names.

    I20: never the live index, never the candidate, nothing before its grace; a container goes with
    the last index that uses it, and one that somebody else made stays. ``Refused`` when there is
    something retained but nothing is due.
    """
    with job.catalog.read() as connection:
        route = routes.get(connection, job.collection)
        retained = indexes.of_collection(connection, job.collection, IndexState.RETAINED)
    check_store(job, route.generation)  # also finishes a drop that was cut short
    due = [
        index
        for index in retained
        if index.name not in (route.live_index, route.candidate_index)
        and now - (index.retained_at or index.created_at) >= retain_seconds
    ]
    if retained and not due:
        wait = min(
            retain_seconds - (now - (index.retained_at or index.created_at)) for index in retained
        )
        raise Refused(
            f"no retained index of {job.collection!r} is past its grace",
            found=", ".join(index.name for index in retained),
            expected=f"{retain_seconds:.0f} s since it was live; {max(wait, 0):.0f} s to go",
            next_step="wait, or shorten `retain_seconds` in the configuration",
        )
    for index in due:
        with job.catalog.write() as connection:
            locks.renew(connection, lease)
            indexes.move(connection, index.name, (IndexState.RETAINED,), IndexState.DROPPED)
            in_use = index.container in indexes.containers(connection)
            if not in_use:
                forget_container(connection, index.container)
        if not in_use and index.adopted is None:
            job.store.drop(index.container)
    return [index.name for index in due]
