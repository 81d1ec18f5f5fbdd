"""What a person asked of a collection while somebody else may be working on it: one row.

A pause is the row: while it stands, nobody moves the collection forward. A cancel stands until
whoever holds the collection's lock has carried it out.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from embedmigrate.catalog import events, schema
from embedmigrate.catalog.database import actor
from embedmigrate.errors import AskedToStop

_request = schema.request.c


class Wanted(StrEnum):
    PAUSE = "pause"
    CANCEL = "cancel"


@dataclass(frozen=True)
class Request:
    """A row of ``embedmigrate_request``."""

    collection: str
    wanted: Wanted
    reason: str | None
    actor: str
    at: float
    run_id: int | None
    """The run that is to be cancelled; None: whatever is being begun."""

    @property
    def by(self) -> str:
        """Who, when and why, for people."""
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.at))
        return f"{self.actor}, {when}: {self.reason or 'no reason given'}"

    @classmethod
    def of(cls, row: Row[Any]) -> Request:
        values = dict(row._mapping)
        values["wanted"] = Wanted(values["wanted"])
        return cls(**values)


def get(connection: Connection, collection: str) -> Request | None:
    """What is asked of a collection now."""
    row = connection.execute(
        sa.select(schema.request).where(_request.collection == collection)
    ).first()
    return None if row is None else Request.of(row)


def every(connection: Connection) -> dict[str, Request]:
    """What is asked now, by collection."""
    rows = connection.execute(sa.select(schema.request))
    return {row.collection: Request.of(row) for row in rows}


def file(
    connection: Connection, collection: str, wanted: Wanted, reason: str | None, run_id: int | None
) -> tuple[Request, bool]:
    """Ask, and record who did; returns what is asked now, and whether that is new.

    What was asked first stays, but for a pause that becomes a cancel.
    """
    before = get(connection, collection)
    if before is not None and (before.wanted is wanted or before.wanted is Wanted.CANCEL):
        return before, False
    if before is not None:
        take_back(connection, collection)
    made = Request(collection, wanted, reason, actor(), time.time(), run_id)
    connection.execute(schema.request.insert().values(**vars(made)))
    data = {"wanted": wanted, "reason": reason}
    events.record(connection, "asked", collection, data, run_id=run_id)
    return made, True


def take_back(connection: Connection, collection: str) -> None:
    """Nothing is asked of the collection any more."""
    connection.execute(schema.request.delete().where(_request.collection == collection))


def obey(connection: Connection, collection: str) -> None:
    """``AskedToStop`` when something is asked: for the transaction that must not come after it."""
    request = get(connection, collection)
    if request is not None:
        raise asked_to_stop(request)


def paused_by(request: Request) -> str:
    """Why nothing is done to a collection, and what ends that, in words for people."""
    return f"paused by {request.by}; to carry on: embedmigrate resume {request.collection}"


def asked_to_stop(request: Request) -> AskedToStop:
    return AskedToStop(
        request.collection,
        f"{request.collection!r} was stopped by a person who asked to {request.wanted} it",
        found=request.by,
        expected="what is checkpointed stays; nothing is lost",
        next_step=f"embedmigrate resume {request.collection}"
        if request.wanted is Wanted.PAUSE
        else "embedmigrate status",
    )
