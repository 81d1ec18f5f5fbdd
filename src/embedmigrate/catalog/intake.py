"""The intake: how far the changes that a source records itself have entered the journal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from embedmigrate.catalog import events, journal, schema

_intake = schema.intake.c


class Intake(NamedTuple):
    """``cursor`` counts in the recording ``token``; both are nothing where none was ever met."""

    token: str | None = None
    cursor: int = 0
    tag: str | None = None
    """Of the change that ``cursor`` stands on; None where there was none any more."""
    watermark: Any = None


def get(connection: Connection, collection: str) -> Intake:
    columns = (_intake[field] for field in Intake._fields)
    row = connection.execute(sa.select(*columns).where(_intake.collection == collection)).first()
    return Intake() if row is None else Intake(*row)


def begin(
    connection: Connection, collection: str, token: str, cursor: int, tag: str | None
) -> None:
    """Count in another recording from ``cursor`` on; what came before is for a comparison.

    Nothing is changed when somebody else was faster: their cursor is the earlier one.
    """
    if get(connection, collection).token != token:
        _update(connection, collection, token=token, cursor=cursor, tag=tag)


def give_up(connection: Connection, collection: str, before: Intake) -> bool:
    """The recording was set back, or lost something: what is tracked by it is so no more.

    False when the intake is no longer ``before``: somebody else took something in meanwhile.
    """
    if get(connection, collection) != before:
        return False
    _update(connection, collection, token=None, cursor=0, tag=None)
    connection.execute(
        schema.index.update().where(schema.index.c.collection == collection).values(tracked_by=None)
    )
    events.record(connection, "recording_given_up", collection, {"cursor": before.cursor})
    return True


def take_in(
    connection: Connection,
    collection: str,
    before: Intake,
    after: tuple[int, str],
    changes: Sequence[tuple[str, str]],
) -> bool:
    """Enter (document id, change) recorded between ``before`` and ``after`` into the journal.

    ``after`` are number and tag of the last change. False, and nothing is entered, when somebody
    else was faster.
    """
    moved = connection.execute(
        schema.intake.update()
        .where(
            _intake.collection == collection,
            _intake.token == before.token,
            _intake.cursor == before.cursor,
        )
        .values(cursor=after[0], tag=after[1])
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


def _update(connection: Connection, collection: str, **values: Any) -> None:
    changed = connection.execute(
        schema.intake.update().where(_intake.collection == collection).values(**values)
    )
    if changed.rowcount == 0:
        row = {"collection": collection, "cursor": 0, **values}
        connection.execute(schema.intake.insert().values(**row))
