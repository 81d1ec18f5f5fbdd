"""Runs and their batches: the work of building one index, and how far it is."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from embedmigrate.catalog import dead_letters, events, schema
from embedmigrate.catalog.database import Catalog, actor
from embedmigrate.catalog.locks import Lease, renew
from embedmigrate.catalog.records import STICKY, BatchRecord, IndexState, RunRecord, RunState
from embedmigrate.errors import FencedOut

_run, _batch = schema.run.c, schema.batch.c


def get(connection: Connection, run_id: int) -> RunRecord:
    return RunRecord.of(connection.execute(sa.select(schema.run).where(_run.id == run_id)).one())


def latest(
    connection: Connection,
    collection: str,
    *,
    revision: str | None = None,
    index: str | None = None,
) -> RunRecord | None:
    """The newest run of a collection, of one revision or for one index."""
    query = sa.select(schema.run).where(_run.collection == collection)
    if revision is not None:
        query = query.where(_run.revision == revision)
    if index is not None:
        query = query.where(_run.index_name == index)
    row = connection.execute(query.order_by(_run.id.desc()).limit(1)).first()
    return None if row is None else RunRecord.of(row)


def of_collection(connection: Connection, collection: str) -> list[RunRecord]:
    """The runs of a collection, oldest first."""
    query = sa.select(schema.run).where(_run.collection == collection).order_by(_run.id)
    return [RunRecord.of(row) for row in connection.execute(query)]


def of_index(connection: Connection, index: str) -> list[RunRecord]:
    """The runs that built one index, oldest first."""
    query = sa.select(schema.run).where(_run.index_name == index).order_by(_run.id)
    return [RunRecord.of(row) for row in connection.execute(query)]


def under_way(connection: Connection, collection: str) -> RunRecord | None:
    """The newest run of a collection, if it is not cut over, and no person took it back."""
    run = latest(connection, collection)
    return run if run is not None and is_open(connection, run) else None


def is_open(connection: Connection, run: RunRecord) -> bool:
    """Whether there is still something to do for a run, or to cancel."""
    state = connection.execute(
        sa.select(schema.index.c.state).where(schema.index.c.name == run.index_name)
    ).scalar_one()
    over = (IndexState.LIVE, IndexState.ADOPTED, IndexState.DROPPED)
    return run.state not in STICKY and state not in over


def note_waiting(connection: Connection, lease: Lease, reason: str | None) -> None:
    """Record why the runner that holds ``lease`` waits; None when it goes on."""
    renew(connection, lease)
    connection.execute(
        schema.run.update()
        .where(_run.collection == lease.collection, _run.epoch == lease.epoch)
        .values(waiting=reason)
    )


def holds_wrong_vectors(connection: Connection, index: str) -> bool:
    """Whether an index was last found to hold vectors of another space or of other texts (I4, I6).

    Catching up does not heal that: such an index is never built on again.
    """
    evidence = schema.evidence.c
    last = connection.execute(
        sa.select(evidence.invariant, evidence.holds)
        .where(evidence.index_name == index, evidence.invariant.in_((4, 6)))
        .order_by(evidence.id)
    )
    return not all({row.invariant: row.holds for row in last}.values())


def create(
    connection: Connection, lease: Lease, revision: str, index_name: str, reason: str | None
) -> RunRecord:
    """A new run in state ``planned``."""
    renew(connection, lease)
    key = connection.execute(
        schema.run.insert().values(
            collection=lease.collection,
            revision=revision,
            index_name=index_name,
            state=RunState.PLANNED,
            epoch=lease.epoch,
            total=0,
            done=0,
            skipped=0,
            failed=0,
            embedded=0,
            started_at=time.time(),
            actor=actor(),
            reason=reason,
        )
    ).inserted_primary_key
    assert key is not None
    run_id = int(key[0])
    events.record(
        connection,
        "run_started",
        lease.collection,
        {"revision": revision, "index": index_name, "again": reason},
        run_id=run_id,
    )
    return get(connection, run_id)


def take_over(connection: Connection, lease: Lease, run: RunRecord) -> RunRecord:
    """Carry on a run under this lease's epoch; clears what stopped it before."""
    renew(connection, lease)
    connection.execute(
        schema.run.update()
        .where(_run.id == run.id)
        .values(epoch=lease.epoch, reason=None, waiting=None)
    )
    return get(connection, run.id)


def move(
    connection: Connection,
    lease: Lease,
    run: RunRecord,
    after: RunState,
    *,
    reason: str | None = None,
    values: Mapping[str, Any] | None = None,
) -> RunRecord:
    """Take a run from the state it was read in to ``after``; ``FencedOut`` if it moved on."""
    renew(connection, lease)
    moved = connection.execute(
        schema.run.update()
        .where(_run.id == run.id, _run.state == run.state, _run.epoch == lease.epoch)
        .values(state=after, reason=reason, **(values or {}))
    )
    if moved.rowcount != 1:
        raise FencedOut(
            f"run {run.id} was changed by somebody else",
            found=get(connection, run.id).state,
            expected=run.state,
            next_step="embedmigrate status",
        )
    if after is not run.state:
        events.record(
            connection,
            "run_state",
            run.collection,
            {"from": run.state, "to": after, "reason": reason},
            run_id=run.id,
        )
    return get(connection, run.id)


def plan_batches(
    catalog: Catalog,
    lease: Lease,
    run: RunRecord,
    ranges: Iterable[tuple[str | None, str | None, int]],
) -> int:
    """Replace the batches of a planned run by ``ranges``; returns the number of documents.

    Written page by page: a crash leaves a run that is still ``planned`` and is planned again.
    """
    with catalog.write() as connection:
        renew(connection, lease)
        connection.execute(schema.batch.delete().where(_batch.run_id == run.id))
    total = 0
    for page in _pages(enumerate(ranges), 1000):
        with catalog.write() as connection:
            renew(connection, lease)
            connection.execute(
                schema.batch.insert(),
                [
                    {
                        "run_id": run.id,
                        "ordinal": ordinal,
                        "after": after,
                        "until": until,
                        "documents": documents,
                    }
                    for ordinal, (after, until, documents) in page
                ],
            )
        total += sum(documents for _, (_, _, documents) in page)
    return total


def pending_batches(catalog: Catalog, run_id: int, page: int = 1000) -> Iterator[BatchRecord]:
    """The batches that are not finished, in order; reads a page at a time."""
    last = -1
    while True:
        with catalog.read() as connection:
            rows = connection.execute(
                sa.select(
                    _batch.run_id, _batch.ordinal, _batch.after, _batch.until, _batch.documents
                )
                .where(_batch.run_id == run_id, _batch.finished_at.is_(None), _batch.ordinal > last)
                .order_by(_batch.ordinal)
                .limit(page)
            ).all()
        if not rows:
            return
        yield from (BatchRecord(*row) for row in rows)
        last = rows[-1].ordinal


def finish_batch(
    connection: Connection,
    lease: Lease,
    batch: BatchRecord,
    *,
    done: int,
    skipped: int,
    embedded: int,
    failed: int = 0,
) -> None:
    """Checkpoint: the batch is durable in the store (I14), so it counts from now on.

    A range may hold more or fewer documents than when it was planned; the total follows, so that
    the accounts always balance (I16).
    """
    renew(connection, lease)
    finished = connection.execute(
        schema.batch.update()
        .where(
            _batch.run_id == batch.run_id,
            _batch.ordinal == batch.ordinal,
            _batch.finished_at.is_(None),
        )
        .values(
            finished_at=time.time(), done=done, skipped=skipped, embedded=embedded, failed=failed
        )
    )
    if finished.rowcount == 1:
        connection.execute(
            schema.run.update()
            .where(_run.id == batch.run_id)
            .values(
                done=_run.done + done,
                skipped=_run.skipped + skipped,
                failed=_run.failed + failed,
                embedded=_run.embedded + embedded,
                total=_run.total + done + skipped + failed - batch.documents,
            )
        )


def window(connection: Connection, run_id: int) -> str:
    """The stamp of what is written in the present window of a run.

    It follows from the batches that are confirmed, so that a runner that carries on, after the
    check that opens its work, stamps anew.
    """
    confirmed = connection.execute(
        sa.select(sa.func.count()).where(_batch.run_id == run_id, _batch.confirmed_at.is_not(None))
    ).scalar_one()
    return f"{run_id}.{confirmed}"


def has_open_window(connection: Connection, run_id: int) -> bool:
    """Whether a run has finished batches that are not confirmed."""
    open_batches = sa.select(_batch.ordinal).where(
        _batch.run_id == run_id, _batch.finished_at.is_not(None), _batch.confirmed_at.is_(None)
    )
    return connection.execute(open_batches.limit(1)).first() is not None


def confirm_window(connection: Connection, lease: Lease, run: RunRecord) -> None:
    """The witness held after them: the finished batches of ``run`` count for good (I18)."""
    renew(connection, lease)
    connection.execute(
        schema.batch.update()
        .where(
            _batch.run_id == run.id,
            _batch.finished_at.is_not(None),
            _batch.confirmed_at.is_(None),
        )
        .values(confirmed_at=time.time())
    )


def discard_window(connection: Connection, lease: Lease, run: RunRecord, reason: str) -> int:
    """Take back the batches that were finished since the witness last held; returns how many.

    Their rows must be gone from the store before (I14); what they found dead is tried again. What
    they cost stays counted.
    """
    renew(connection, lease)
    unconfirmed = (
        _batch.run_id == run.id,
        _batch.finished_at.is_not(None),
        _batch.confirmed_at.is_(None),
    )
    found = connection.execute(
        sa.select(
            sa.func.count(),
            sa.func.coalesce(sa.func.sum(_batch.done), 0),
            sa.func.coalesce(sa.func.sum(_batch.skipped), 0),
            sa.func.coalesce(sa.func.sum(_batch.failed), 0),
            sa.func.coalesce(sa.func.sum(_batch.documents), 0),
        ).where(*unconfirmed)
    ).one()
    batches, done, skipped, failed, documents = found
    if batches:
        dead_letters.forget_batches(
            connection, run.id, sa.select(_batch.ordinal).where(*unconfirmed)
        )
        connection.execute(
            schema.batch.update()
            .where(*unconfirmed)
            .values(finished_at=None, done=None, skipped=None, embedded=None, failed=None)
        )
        connection.execute(
            schema.run.update()
            .where(_run.id == run.id)
            .values(
                done=_run.done - done,
                skipped=_run.skipped - skipped,
                failed=_run.failed - failed,
                total=_run.total + documents - done - skipped - failed,
            )
        )
    events.record(
        connection,
        "window_discarded",
        lease.collection,
        {"batches": int(batches), "documents": int(done), "reason": reason},
        run_id=run.id,
    )
    return int(batches)


def add_evidence(
    connection: Connection,
    index_name: str,
    invariant: int,
    holds: bool,
    measured: Mapping[str, Any],
    run_id: int | None,
) -> None:
    """Keep what was measured for an invariant, in figures."""
    connection.execute(
        schema.evidence.insert().values(
            run_id=run_id,
            index_name=index_name,
            invariant=invariant,
            holds=holds,
            measured=dict(measured),
            at=time.time(),
        )
    )


def _pages(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    page: list[Any] = []
    for item in items:
        page.append(item)
        if len(page) == size:
            yield page
            page = []
    if page:
        yield page
