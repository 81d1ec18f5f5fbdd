"""The route, and the only transactions that change which index is live.

``cut_over`` and ``undo`` run inside the transaction that writes the version row, so that both
commit together (I10). They are O(1): conditional updates, no I/O, no embedding.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from embedmigrate.catalog import events, indexes, requests, schema
from embedmigrate.catalog.locks import Lease, renew
from embedmigrate.catalog.records import AppliedRecord, IndexState, Route, RunState
from embedmigrate.errors import Behind, Refused
from embedmigrate.models import IndexSpec

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
    """Make a ready index live and retain the one that was; returns the new generation.

    ``AskedToStop`` when a person asked before this transaction began.
    """
    renew(connection, lease)
    requests.obey(connection, lease.collection)
    before = get(connection, lease.collection)
    _refuse_behind(connection, before, index_name)
    indexes.move(connection, index_name, (IndexState.READY,), IndexState.LIVE)
    if before.live_index is not None:
        _retain(connection, before.live_index)
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


def adopt(
    connection: Connection,
    lease: Lease,
    *,
    revision: str,
    spec: IndexSpec,
    name: str,
    adopted: Mapping[str, Any],
) -> int:
    """Make a container that somebody else made the first live index; returns the generation.

    ``name`` is the index name that its side table has; ``adopted`` is how it was proven. Nothing is
    left to settle: nobody writes to it. ``Refused`` when something of the collection is there.
    """
    renew(connection, lease)
    before = get(connection, lease.collection)
    index = indexes.create(connection, lease.collection, spec)
    if index.name != name or before.live_index or applied_of(connection, lease.collection):
        raise Refused(
            f"{lease.collection!r} changed while its index was adopted",
            found=f"live index {before.live_index}, next index {index.name}",
            expected=f"no live index, next index {name}",
            next_step="embedmigrate status",
        )
    indexes.move(connection, name, (IndexState.BUILDING,), IndexState.ADOPTED)
    connection.execute(
        schema.index.update().where(schema.index.c.name == name).values(adopted=dict(adopted))
    )
    generation = _switch(connection, before, name)
    note_settled(connection, lease, generation)
    _add_applied(
        connection,
        AppliedRecord(
            revision=revision,
            collection=lease.collection,
            down_revision=None,
            index_name=name,
            previous_index=None,
            superseded_by=None,
            run_id=None,
        ),
    )
    events.record(
        connection,
        "adopted",
        lease.collection,
        {"revision": revision, "to": name, "generation": generation, **adopted},
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
    """Record that a revision's version row was written without a cut-over of its own.

    ``AskedToStop`` when a person asked before this transaction began.
    """
    renew(connection, lease)
    requests.obey(connection, lease.collection)
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
    now: bool = False,
) -> None:
    """Undo an applied revision; with ``switch`` the route goes to ``target_index`` (None: nowhere).

    Its run becomes ``rolled_back`` and stays so until a person asks again. ``Behind`` when that
    index lacks changes that readers have seen, unless a person wants it ``now`` (I11).
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
        if target_index is not None and not now:
            _refuse_behind(connection, before, target_index)
        if before.live_index is not None:
            _retain(connection, before.live_index)
        if target_index is not None:
            _revive(connection, target_index)
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


def _refuse_behind(connection: Connection, before: Route, index_name: str) -> None:
    """I1: what readers have seen of the source they go on seeing."""
    if before.live_index is None:
        return
    live, target = (indexes.get(connection, name) for name in (before.live_index, index_name))
    if target.adopted is None and target.position < live.position:
        raise Behind(
            f"{index_name} does not have every change that {live.name} has",
            found=f"position {target.position} in the journal",
            expected=f"at least {live.position}",
            next_step="run the same command again",
        )


def _retain(connection: Connection, name: str) -> None:
    """What was live is kept. Somebody else's container is ``adopted``, live or not (I20)."""
    if indexes.get(connection, name).state is IndexState.ADOPTED:
        indexes.note_left(connection, name, time.time())
    else:
        indexes.move(connection, name, (IndexState.LIVE,), IndexState.RETAINED)


def _revive(connection: Connection, name: str) -> None:
    if indexes.get(connection, name).state is IndexState.ADOPTED:
        indexes.note_left(connection, name, None)
    else:
        indexes.move(connection, name, (IndexState.RETAINED, IndexState.READY), IndexState.LIVE)


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
