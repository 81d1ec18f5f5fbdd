"""Collections, models and indexes: guarded transactions on their rows.

Every function works inside the caller's transaction and changes exactly what it names. A guard
that does not match raises ``Refused``: nothing is changed by a stale view of the world.
"""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from embedmigrate.catalog import schema
from embedmigrate.catalog.records import IndexRecord, IndexState
from embedmigrate.errors import Refused
from embedmigrate.models import EmbeddingModel, IndexSpec

_index = schema.index.c
_container = sa.func.coalesce(_index.container, _index.name)


def ensure_collection(connection: Connection, name: str) -> None:
    """Make the collection's row and its route (to nothing) unless they exist."""
    exists = connection.execute(
        sa.select(schema.collection.c.name).where(schema.collection.c.name == name)
    ).first()
    if exists is None:
        now = time.time()
        connection.execute(
            schema.collection.insert().values(
                name=name, journal_head=0, indexes_made=0, created_at=now
            )
        )
        connection.execute(
            schema.route.insert().values(
                collection=name, generation=0, settled_generation=0, updated_at=now
            )
        )


def create(
    connection: Connection,
    collection: str,
    spec: IndexSpec,
    *,
    rebinds: IndexRecord | None = None,
) -> IndexRecord:
    """A new index row in state ``building``, under a name that was never used before.

    One that ``rebinds`` another has no container of its own: it is the other's vectors, with
    another model to ask.
    """
    connection.execute(
        schema.collection.update()
        .where(schema.collection.c.name == collection)
        .values(indexes_made=schema.collection.c.indexes_made + 1)
    )
    row = connection.execute(
        sa.select(schema.collection).where(schema.collection.c.name == collection)
    ).one()
    name = _name(collection, row.indexes_made)
    remember_model(connection, spec.model)
    connection.execute(
        schema.index.insert().values(
            name=name,
            collection=collection,
            spec_digest=spec.digest,
            spec=spec.model_dump(mode="json"),
            fingerprint=spec.model.fingerprint,
            query_side=spec.model.query_side,
            state=IndexState.BUILDING,
            position=row.journal_head if rebinds is None else rebinds.position,
            created_at=time.time(),
            container=rebinds and rebinds.container,
            adopted=(rebinds and rebinds.adopted) or sa.null(),
        )
    )
    return get(connection, name)


def next_name(connection: Connection, collection: str) -> str:
    """The name that ``create`` would give now; it stays so while the collection's lock is held."""
    columns = schema.collection.c
    made = connection.execute(
        sa.select(columns.indexes_made).where(columns.name == collection)
    ).scalar_one()
    return _name(collection, made + 1)


def _name(collection: str, number: int) -> str:
    return f"{collection}-{number:04d}"


def remember_model(connection: Connection, model: EmbeddingModel) -> None:
    key = {"fingerprint": model.fingerprint, "query_side": model.query_side}
    columns = schema.model.c
    known = connection.execute(
        sa.select(columns.fingerprint).where(
            columns.fingerprint == model.fingerprint, columns.query_side == model.query_side
        )
    ).first()
    if known is None:
        connection.execute(
            schema.model.insert().values(
                **key,
                name=model.name,
                identity=model.model_dump(mode="json"),
                created_at=time.time(),
            )
        )


def get(connection: Connection, name: str) -> IndexRecord:
    """The index of that name, dropped or not."""
    return IndexRecord.of(
        connection.execute(sa.select(schema.index).where(_index.name == name)).one()
    )


def of_collection(
    connection: Connection, collection: str, *states: IndexState
) -> list[IndexRecord]:
    """The indexes of a collection in these states (by default all but dropped), oldest first."""
    query = sa.select(schema.index).where(_index.collection == collection)
    if states:
        query = query.where(_index.state.in_(states))
    else:
        query = query.where(_index.state != IndexState.DROPPED)
    return [IndexRecord.of(row) for row in connection.execute(query.order_by(_index.name))]


def reusable(connection: Connection, collection: str, spec: IndexSpec) -> list[IndexRecord]:
    """The indexes of this spec that are neither dropped nor live, newest first."""
    rows = of_collection(
        connection, collection, IndexState.BUILDING, IndexState.READY, IndexState.RETAINED
    )
    return [row for row in reversed(rows) if row.spec.answers_like(spec)]


def containers(connection: Connection) -> set[str]:
    """What holds the vectors of an index that this catalog knows and has not dropped."""
    return set(
        connection.execute(
            sa.select(_container).where(_index.state != IndexState.DROPPED)
        ).scalars()
    )


LEFT_ALONE = "left_alone"
"""Event of a container that a catalog met when it was rebuilt, and could make nothing of."""


def left_alone(connection: Connection) -> set[str]:
    """Containers that are no index of this catalog, and that a person knows of."""
    data = connection.execute(
        sa.select(schema.event.c.data).where(schema.event.c.kind == LEFT_ALONE)
    ).scalars()
    return {it["index"] for it in data}


def known_fingerprints(connection: Connection) -> set[str]:
    """The space of every model that an index was ever made for."""
    return set(connection.execute(sa.select(schema.model.c.fingerprint)).scalars())


def dropped_containers(connection: Connection) -> set[str]:
    """Containers that only dropped indexes used; what is left of one in a store is rubbish."""
    dropped = connection.execute(
        sa.select(_container).where(_index.state == IndexState.DROPPED)
    ).scalars()
    return set(dropped) - containers(connection)


def move(
    connection: Connection, name: str, before: tuple[IndexState, ...], after: IndexState
) -> None:
    """Change the state of one index, if it is in one of ``before``."""
    values: dict[str, Any] = {"state": after}
    if after is IndexState.RETAINED:
        values["retained_at"] = time.time()
    elif after is IndexState.LIVE:
        values["retained_at"] = None
    elif after is IndexState.DROPPED:
        values["dropped_at"] = time.time()
    moved = connection.execute(
        schema.index.update().where(_index.name == name, _index.state.in_(before)).values(**values)
    )
    if moved.rowcount != 1:
        state = get(connection, name).state
        raise Refused(
            f"index {name} cannot become {after}",
            found=state,
            expected=" or ".join(before),
            next_step="embedmigrate status",
        )


def track(connection: Connection, name: str, token: str | None) -> None:
    """A comparison that began just now has put every difference to the source into the journal, and
    every later change will be there by the recording ``token``; None: only as of now."""
    connection.execute(
        schema.index.update()
        .where(_index.name == name)
        .values(tracked_by=token, compared_at=time.time())
    )


def untrack(connection: Connection, name: str) -> None:
    """The journal no longer holds every difference: a comparison has to tell."""
    connection.execute(schema.index.update().where(_index.name == name).values(tracked_by=None))


def note_deleted(connection: Connection, name: str, through: int) -> None:
    """Record that the deletes of the journal through ``through`` were applied to an index."""
    connection.execute(
        schema.index.update().where(_index.name == name).values(deleted_through=through)
    )


def note_left(connection: Connection, name: str, when: float | None) -> None:
    """When an adopted index stopped being live; None for one that is live again."""
    connection.execute(schema.index.update().where(_index.name == name).values(retained_at=when))


def retain_ready(connection: Connection, collection: str) -> None:
    """Retain what was made ready and not chosen, so that it can be used again, or dropped."""
    connection.execute(
        schema.index.update()
        .where(_index.collection == collection, _index.state == IndexState.READY)
        .values(state=IndexState.RETAINED, retained_at=time.time())
    )


def advance(connection: Connection, name: str, position: int) -> None:
    """Record that the index reflects the journal through ``position``; it never goes back.

    So does every other index of the same container.
    """
    container = get(connection, name).container
    connection.execute(
        schema.index.update()
        .where(_container == container, _index.position < position)
        .values(position=position)
    )
