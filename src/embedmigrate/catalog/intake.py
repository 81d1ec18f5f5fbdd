"""The intake: how far the changes that a source records itself have entered the journal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from embedmigrate.catalog import journal, schema

_intake = schema.intake.c


class Intake(NamedTuple):
    """``cursor`` counts in the recording ``token``; both are nothing where none was ever met."""

    token: str | None = None
    cursor: int = 0
    watermark: Any = None
    compared_at: float | None = None


def get(connection: Connection, collection: str) -> Intake:
    row = connection.execute(
        sa.select(_intake.token, _intake.cursor, _intake.watermark, _intake.compared_at).where(
            _intake.collection == collection
        )
    ).first()
    return Intake() if row is None else Intake(*row)


def begin(connection: Connection, collection: str, token: str | None, cursor: int) -> None:
    """Count in another recording from ``cursor`` on; what came before is for a comparison.

    Nothing is changed when somebody else was faster: their cursor is the earlier one.
    """
    if get(connection, collection).token != token:
        _update(connection, collection, token=token, cursor=cursor)


def take_in(
    connection: Connection,
    collection: str,
    before: Intake,
    cursor: int,
    changes: Sequence[tuple[str, str]],
) -> bool:
    """Enter (document id, change) recorded between ``before`` and ``cursor`` into the journal.

    False, and nothing is entered, when somebody else was faster.
    """
    moved = connection.execute(
        schema.intake.update()
        .where(
            _intake.collection == collection,
            _intake.token == before.token,
            _intake.cursor == before.cursor,
        )
        .values(cursor=cursor)
    )
    if moved.rowcount != 1:
        return False
    journal.append(connection, collection, changes)
    return True


def note_hinted(
    connection: Connection, collection: str, before: Any, watermark: Any, ids: Sequence[str]
) -> None:
    """Enter documents whose ``updated_at`` lies between two watermarks, unless that was done."""
    if get(connection, collection).watermark == before:
        _update(connection, collection, watermark=watermark)
        journal.append(connection, collection, [(id, journal.CHANGED) for id in ids])


def note_compared(connection: Connection, collection: str) -> None:
    """Record that every difference between source and live index is in the journal."""
    _update(connection, collection, compared_at=time.time())


def _update(connection: Connection, collection: str, **values: Any) -> None:
    changed = connection.execute(
        schema.intake.update().where(_intake.collection == collection).values(**values)
    )
    if changed.rowcount == 0:
        row = {"collection": collection, "cursor": 0, **values}
        connection.execute(schema.intake.insert().values(**row))
