"""The route, and the only transactions that change which index is live.

``cut_over`` and ``undo`` run inside the transaction that writes the version row, so that both
commit together (I10). They are O(1): conditional updates, no I/O, no embedding.
"""

from __future__ import annotations

import time
from dataclasses import fields

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from embedmigrate.catalog import events, indexes, schema
from embedmigrate.catalog.locks import Lease, renew
from embedmigrate.catalog.records import AppliedRecord, IndexState, Route, RunState
from embedmigrate.errors import Refused

_route, _applied = schema.route.c, schema.applied.c


def get(connection: Connection, collection: str) -> Route:
    """The route of a collection; to nothing, generation 0, when there never was one."""
    row = connection.execute(
        sa.select(
            _route.collection,
            _route.live_index,
            _route.candidate_index,
            _route.generation,
            _route.settled_generation,
        ).where(_route.collection == collection)
    ).first()
    return Route(collection, None, None, 0) if row is None else Route(*row)


def live_fingerprint(connection: Connection, collection: str) -> str | None:
    """The space that is served now."""
    route = get(connection, collection)
    return (
        None if route.live_index is None else indexes.get(connection, route.live_index).fingerprint
    )


def offer_candidate(connection: Connection, lease: Lease, index_name: str | None) -> None:
    """Tell readers which index may go live next, so that they open it before the switch."""
    renew(connection, lease)
    connection.execute(
        schema.route.update()
        .where(_route.collection == lease.collection)
        .values(candidate_index=index_name, updated_at=time.time())
    )


def cut_over(
    connection: Connection,
    lease: Lease,
    *,
    revision: str,
    down_revision: str | None,
    index_name: str,
    run_id: int,
) -> int:
    """Make a ready index live and retain the one that was; returns the new generation."""
    renew(connection, lease)
    before = get(connection, lease.collection)
    indexes.move(connection, index_name, (IndexState.READY,), IndexState.LIVE)
    if before.live_index is not None:
        indexes.move(connection, before.live_index, (IndexState.LIVE,), IndexState.RETAINED)
    indexes.retain_ready(connection, lease.collection)
    generation = _switch(connection, before, index_name)
    _add_applied(
        connection,
        AppliedRecord(
            revision=revision,
            collection=lease.collection,
            down_revision=down_revision,
            index_name=index_name,
            previous_index=before.live_index,
            superseded_by=None,
            run_id=run_id,
        ),
    )
    events.record(
        connection,
        "cut_over",
        lease.collection,
        {
            "revision": revision,
            "from": before.live_index,
            "to": index_name,
            "generation": generation,
        },
        run_id=run_id,
    )
    return generation


def note_settled(connection: Connection, lease: Lease, generation: int) -> None:
    """Record that what changed around the switch to ``generation`` has been applied."""
    renew(connection, lease)
    connection.execute(
        schema.route.update()
        .where(_route.collection == lease.collection, _route.generation == generation)
        .values(settled_generation=generation)
    )


def note_superseded(
    connection: Connection,
    lease: Lease,
    *,
    revision: str,
    down_revision: str | None,
    superseded_by: str,
) -> None:
    """Record that a revision's version row was written without a cut-over of its own."""
    renew(connection, lease)
    _add_applied(
        connection,
        AppliedRecord(
            revision=revision,
            collection=lease.collection,
            down_revision=down_revision,
            index_name=None,
            previous_index=None,
            superseded_by=superseded_by,
            run_id=None,
        ),
    )


def undo(
    connection: Connection,
    lease: Lease,
    record: AppliedRecord,
    *,
    target_index: str | None,
    switch: bool,
    reason: str | None,
) -> None:
    """Undo an applied revision; with ``switch`` the route goes to ``target_index`` (None: nowhere).

    Its run becomes ``rolled_back`` and stays so until a person asks again.
    """
    renew(connection, lease)
    if record.run_id is not None:
        connection.execute(
            schema.run.update()
            .where(schema.run.c.id == record.run_id)
            .values(state=RunState.ROLLED_BACK, reason=reason)
        )
    connection.execute(schema.applied.delete().where(_applied.revision == record.revision))
    before = get(connection, lease.collection)
    generation = before.generation
    if switch and before.live_index != target_index:
        if before.live_index is not None:
            indexes.move(connection, before.live_index, (IndexState.LIVE,), IndexState.RETAINED)
        if target_index is not None:
            indexes.move(
                connection, target_index, (IndexState.RETAINED, IndexState.READY), IndexState.LIVE
            )
        generation = _switch(connection, before, target_index)
    events.record(
        connection,
        "rolled_back",
        lease.collection,
        {
            "revision": record.revision,
            "from": before.live_index,
            "to": target_index if switch else before.live_index,
            "generation": generation,
            "reason": reason,
        },
        run_id=record.run_id,
    )


def _switch(connection: Connection, before: Route, live_index: str | None) -> int:
    switched = connection.execute(
        schema.route.update()
        .where(
            _route.collection == before.collection,
            _route.generation == before.generation,
            _route.live_index == before.live_index
            if before.live_index is not None
            else _route.live_index.is_(None),
        )
        .values(
            live_index=live_index,
            candidate_index=None,
            generation=before.generation + 1,
            updated_at=time.time(),
        )
    )
    if switched.rowcount != 1:
        raise Refused(
            f"the route of {before.collection!r} changed while it was being switched",
            next_step="run the same command again",
        )
    return before.generation + 1


def applied_of(connection: Connection, collection: str) -> list[AppliedRecord]:
    """Every applied revision of a collection, the last one first."""
    rows = connection.execute(
        sa.select(*(_applied[field.name] for field in fields(AppliedRecord)))
        .where(_applied.collection == collection)
        .order_by(_applied.id.desc())
    )
    return [AppliedRecord(*row) for row in rows]


def note_rebuilt(connection: Connection, lease: Lease, *, revision: str, index_name: str) -> None:
    """Record that the index of an applied revision was dropped and built again."""
    renew(connection, lease)
    connection.execute(
        schema.applied.update().where(_applied.revision == revision).values(index_name=index_name)
    )


def _add_applied(connection: Connection, record: AppliedRecord) -> None:
    connection.execute(schema.applied.insert().values(applied_at=time.time(), **vars(record)))
