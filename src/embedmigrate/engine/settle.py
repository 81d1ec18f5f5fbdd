"""What an index needs outside a run: catching up, before a rollback and after a cut-over."""

from __future__ import annotations

from contextlib import closing

from embedmigrate.catalog import indexes, locks, routes
from embedmigrate.catalog.dead_letters import forget_container
from embedmigrate.catalog.locks import Lease
from embedmigrate.catalog.records import IndexState
from embedmigrate.engine import dead_letters
from embedmigrate.engine.belonging import check_store
from embedmigrate.engine.follow import Followed, follow, note_differences
from embedmigrate.engine.job import Job
from embedmigrate.errors import Refused


def catch_up(job: Job, lease: Lease, index_name: str, *, generation: int | None = None) -> Followed:
    """Bring an index up to what the source is now. Loads the model only if a text changed.

    ``generation`` is recorded in the index when it is live. A container that somebody else made
    stays as it is.
    """
    with job.catalog.read() as connection:
        index = indexes.get(connection, index_name)
    if index.adopted is not None:
        job.reporter.note(f"{index.name} is not ours to write, and is served as it is")
        return Followed()
    with (
        closing(job.open_source(index.spec.recipe)) as source,
        closing(job.writer(index, lease, run="follow")) as writer,
    ):
        if generation is not None and writer.manifest.generation < generation:
            writer.set_generation(generation)
        job.reporter.phase(job.collection, "comparing")
        source.prepare()
        note_differences(job, lease, source, index)
        followed = follow(job, lease, source, writer, index_name)
        if followed.changes:
            writer.build()
        return followed


def settle(job: Job, lease: Lease) -> Followed | None:
    """After a switch: what changed around it flows into the live index, if that is our own.

    Also finishes what a crash left: idempotent, and None when there is nothing to settle.
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
