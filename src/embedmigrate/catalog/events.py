"""The record of what happened: who did what to which collection, when. Never document text."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from embedmigrate.catalog import schema
from embedmigrate.catalog.database import actor


def record(
    connection: Connection,
    kind: str,
    collection: str | None,
    data: Mapping[str, Any] | None = None,
    *,
    run_id: int | None = None,
    by: str | None = None,
) -> None:
    """Add an event in the caller's transaction; ``by`` is whose doing it is, if not this process's
    user's."""
    connection.execute(
        schema.event.insert().values(
            at=time.time(),
            actor=by or actor(),
            collection=collection,
            run_id=run_id,
            kind=kind,
            data=dict(data or {}),
        )
    )


def last(
    connection: Connection, collection: str, *kinds: str, revision: str | None = None
) -> dict[str, Any] | None:
    """The newest event of these kinds, about one revision if it is given."""
    query = sa.select(schema.event).where(
        schema.event.c.collection == collection, schema.event.c.kind.in_(kinds)
    )
    if revision is not None:
        query = query.where(schema.event.c.data["revision"].as_string() == revision)
    row = connection.execute(query.order_by(schema.event.c.id.desc()).limit(1)).first()
    return None if row is None else dict(row._mapping)
