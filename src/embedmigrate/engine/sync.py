"""Sync: keep what is live up to date, under the pins that it was made with.

One round at a time, each under the follower's lock: a migration of the same collection goes on
beside it, and whoever switches the route waits for the end of a round. What is live is looked up
anew in each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass

from embedmigrate.catalog import indexes, journal, locks, routes
from embedmigrate.catalog.locks import Lease
from embedmigrate.catalog.records import IndexRecord, IndexState
from embedmigrate.engine.follow import Followed
from embedmigrate.engine.job import Job
from embedmigrate.engine.settle import catch_up
from embedmigrate.errors import ConfigError, DamagedIndex, FencedOut, IndexGone, Refused, Temporary
from embedmigrate.models import Recipe

ROUND_SECONDS = 10.0
"""A round ends between two pages after so long, so that whoever waits for the lock gets it."""
JOURNAL_KEPT = 1_000_000
"""Entries that are kept for a retained index. One that lags more is compared before it is used."""
_IDS_A_CALL = 500


@dataclass(frozen=True)
class Round:
    """What one round did."""

    index: str
    generation: int
    followed: Followed


def sync(job: Job, lease: Lease, *, anew: bool | None = None, compared: str | None = None) -> Round:
    """One round for the live index; ``IndexGone`` when nothing is live.

    ``anew`` is whether source and index are compared as a whole; None: where nothing else tells of
    every change. False is for the index ``compared`` alone, and is None for another one that went
    live meanwhile. Also finishes what a switch left to do, and takes deleted documents out of the
    retained indexes at once.
    """
    with job.catalog.read() as connection:
        route = routes.get(connection, job.collection)
        live = None if route.live_index is None else indexes.get(connection, route.live_index)
    if live is None:
        raise nothing_live(job.collection)
    unsettled = route.settled_generation != route.generation
    followed = catch_up(
        job,
        lease,
        live.name,
        generation=route.generation if unsettled else None,
        anew=None if anew is False and live.name != compared else anew,
        seconds=ROUND_SECONDS,
    )
    with job.catalog.write() as connection:
        locks.renew(connection, lease)
        if unsettled and not followed.more:
            routes.note_settled(connection, lease, route.generation)
    delete_in_retained(job, lease)
    prune(job, lease)
    return Round(live.name, route.generation, followed)


def nothing_live(collections: str) -> IndexGone:
    """The error for collections, by name, that have no index to keep up to date."""
    return IndexGone(
        f"nothing of {collections} is live that could be kept up to date",
        expected="a first index",
        next_step="embedmigrate upgrade",
    )


def delete_in_retained(job: Job, lease: Lease, *, beside_runner: bool = False) -> int:
    """Delete what the source no longer has from the retained indexes; edits wait for a rollback.

    So that a rollback that cannot wait brings no deleted document back (I2). Left to the runner
    where one is at work, unless it is this process (``beside_runner``): it may be writing to such
    an index. Returns the number of documents.
    """
    with job.catalog.read() as connection:
        if not beside_runner and locks.holder(connection, job.collection) is not None:
            return 0
        head = journal.head(connection, job.collection)
        live = routes.get(connection, job.collection).live_index
        served = None if live is None else indexes.get(connection, live)
        pending = [
            (index, entries)
            for index in indexes.of_collection(connection, job.collection, IndexState.RETAINED)
            if index.adopted is None and (served is None or index.container != served.container)
            for after in [max(index.position, index.deleted_through or 0)]
            if (entries := journal.deletes(connection, job.collection, after, head))
        ]
    # of what the live index has yet to follow, not every delete is known to be one
    through = head if served is None or served.adopted else min(head, served.position)
    deleted = 0
    for index, entries in pending:
        seqs = {entry.document_id: entry.seq for entry in entries}
        recipes = [it.spec.recipe for it in (index, served) if it is not None]
        with suppress(FencedOut, IndexGone, DamagedIndex):  # whoever uses it next follows it
            with closing(job.writer(index, lease, run="follow")) as writer:
                gone = _gone(job, recipes, seqs, believe=beside_runner)
                for start in range(0, len(gone), _IDS_A_CALL):
                    deleted += writer.delete(gone[start : start + _IDS_A_CALL]).applied
            with job.catalog.write() as connection:
                locks.renew(connection, lease)
                indexes.note_deleted(connection, index.name, through)
    return deleted


def _gone(
    job: Job, recipes: Sequence[Recipe], seqs: Mapping[str, int], *, believe: bool
) -> list[tuple[str, int]]:
    """(id, seq) of the documents among these that the source does not have now.

    The source is read by the first recipe that it still fits: columns may be gone that an old one
    names. ``believe`` takes the journal's word where it cannot be read at all: a document that came
    back has a later entry.
    """
    ids = list(seqs)
    for left, recipe in zip(range(len(recipes) - 1, -1, -1), recipes, strict=True):
        try:
            with closing(job.open_source(recipe)) as source:
                there = {
                    id
                    for start in range(0, len(ids), _IDS_A_CALL)
                    for id, document in source.get(ids[start : start + _IDS_A_CALL]).items()
                    if document.text
                }
            return [(id, seq) for id, seq in seqs.items() if id not in there]
        except (ConfigError, Refused, Temporary):
            if not left and not believe:
                raise
    return list(seqs.items())


def prune(job: Job, lease: Lease) -> int:
    """Drop the journal entries that no index needs any more; returns how many.

    An index that is built, ready, live or tracked needs all behind its position. One that is kept
    and will be compared before it is used needs what its deletes are known from. None but the live
    one keeps more than ``JOURNAL_KEPT``: beyond that it is compared.
    """
    with job.catalog.read() as connection:
        head = journal.head(connection, job.collection)
        live = routes.get(connection, job.collection).live_index
        ours = [
            index
            for index in indexes.of_collection(connection, job.collection)
            if index.adopted is None
        ]
    oldest = min([head - JOURNAL_KEPT, *(it.position for it in ours if it.name == live)])
    through = max(oldest, min(map(_needed_after, ours), default=head))
    with job.catalog.write() as connection:
        locks.renew(connection, lease)
        for index in ours:
            if index.tracked_by and index.position < oldest:
                indexes.untrack(connection, index.name)
        return journal.prune(connection, job.collection, through)


def _needed_after(index: IndexRecord) -> int:
    """The journal position whose later entries an index still needs."""
    if index.tracked_by or index.state is not IndexState.RETAINED:
        return index.position
    return max(index.position, index.deleted_through or 0)
