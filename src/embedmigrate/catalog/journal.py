"""The journal: one ordered list of (seq, document id, change) a collection."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from embedmigrate.catalog import schema

_journal = schema.journal.c


CHANGED, DELETED = "changed", "deleted"
"""What a source or an application says of a document."""
DELETES = (DELETED, "orphan")
"""Changes that say that a document is gone; a diff calls it an orphan of the index."""


class Entry(NamedTuple):
    """One change. What it was is a hint: the document is read again before it is applied."""

    seq: int
    document_id: str
    change: str


def head(connection: Connection, collection: str) -> int:
    """The seq of the last entry; 0 when there is none."""
    return int(
        connection.execute(
            sa.select(schema.collection.c.journal_head).where(
                schema.collection.c.name == collection
            )
        ).scalar_one()
    )


def append(connection: Connection, collection: str, changes: Sequence[tuple[str, str]]) -> int:
    """Add (document id, change) entries in order; returns the new head."""
    if not changes:
        return head(connection, collection)
    connection.execute(
        schema.collection.update()
        .where(schema.collection.c.name == collection)
        .values(journal_head=schema.collection.c.journal_head + len(changes))
    )
    last, now = head(connection, collection), time.time()
    first = last - len(changes) + 1
    connection.execute(
        schema.journal.insert(),
        [
            {
                "collection": collection,
                "seq": seq,
                "document_id": document_id,
                "change": change,
                "at": now,
            }
            for seq, (document_id, change) in enumerate(changes, start=first)
        ],
    )
    return last


def entries(connection: Connection, collection: str, after: int, limit: int) -> list[Entry]:
    """At most ``limit`` entries with a seq greater than ``after``, in order."""
    rows = connection.execute(
        sa.select(_journal.seq, _journal.document_id, _journal.change)
        .where(_journal.collection == collection, _journal.seq > after)
        .order_by(_journal.seq)
        .limit(limit)
    )
    return [Entry(*row) for row in rows]


def deletes(connection: Connection, collection: str, after: int, through: int) -> list[Entry]:
    """The entries of deleted documents with ``after < seq <= through``, in order."""
    rows = connection.execute(
        sa.select(_journal.seq, _journal.document_id, _journal.change)
        .where(
            _journal.collection == collection,
            _journal.seq > after,
            _journal.seq <= through,
            _journal.change.in_(DELETES),
        )
        .order_by(_journal.seq)
    )
    return [Entry(*row) for row in rows]


def note_gone(connection: Connection, collection: str, seqs: Sequence[int]) -> None:
    """Say of entries that their documents were found to be gone: those are deletes, too."""
    if seqs:
        connection.execute(
            schema.journal.update()
            .where(_journal.collection == collection, _journal.seq.in_(seqs))
            .values(change=DELETED)
        )


def waiting_since(connection: Connection, collection: str, after: int) -> float | None:
    """When the oldest entry after ``after`` was entered; None when there is none."""
    at: float | None = connection.execute(
        sa.select(_journal.at)
        .where(_journal.collection == collection, _journal.seq > after)
        .order_by(_journal.seq)
        .limit(1)
    ).scalar()
    return at


def prune(connection: Connection, collection: str, through: int) -> int:
    """Drop the entries with a seq of at most ``through``; returns how many. Their seqs stay used.

    The caller knows that every index has passed them.
    """
    return connection.execute(
        schema.journal.delete().where(_journal.collection == collection, _journal.seq <= through)
    ).rowcount
