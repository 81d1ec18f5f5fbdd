"""Dead letters: documents that the model of an index cannot embed. Ids and hashes, never a text.

They belong to the container that would hold their vectors. Every change of them is part of the
transaction that checkpoints the work which found them out, so that none is lost or counted twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from embedmigrate.catalog import schema
from embedmigrate.catalog.database import Catalog

_letter = schema.dead_letter.c
_PAGE = 1000


class Failed(NamedTuple):
    """What is recorded of a document that could not be embedded."""

    document_id: str
    content_hash: bytes
    reason: str
    seq: int
    chunk: int = 0


class DeadState(NamedTuple):
    """What a diff compares: the text that failed, by its hash."""

    id: str
    content_hash: bytes


@dataclass(frozen=True)
class DeadLetter:
    """A row of ``embedmigrate_dead_letter``, as it is shown. Times are seconds since 1970, UTC."""

    document_id: str
    chunk: int
    reason: str
    attempts: int
    seq: int
    first_at: float
    last_at: float


def record(
    connection: Connection,
    container: str,
    failures: Sequence[Failed],
    batch: tuple[int, int] | None = None,
) -> None:
    """Put documents on the list, or count one more attempt of those that are on it.

    ``batch`` is the run and the ordinal of the backfill batch that found them.
    """
    now, (run_id, ordinal) = time.time(), batch or (None, None)
    known = of_documents(connection, container, [it.document_id for it in failures])
    for failed in failures:
        values: dict[str, Any] = {
            "chunk": failed.chunk,
            "content_hash": failed.content_hash,
            "reason": failed.reason,
            "seq": failed.seq,
            "run_id": run_id,
            "ordinal": ordinal,
            "last_at": now,
        }
        if failed.document_id in known:
            connection.execute(
                schema.dead_letter.update()
                .where(_letter.index_name == container, _letter.document_id == failed.document_id)
                .values(attempts=_letter.attempts + 1, **values)
            )
        else:
            connection.execute(
                schema.dead_letter.insert().values(
                    index_name=container,
                    document_id=failed.document_id,
                    attempts=1,
                    first_at=now,
                    **values,
                )
            )


def forget(connection: Connection, container: str, ids: Sequence[str]) -> None:
    """Take documents off the list: they were embedded, or are gone. Others are no matter."""
    known = of_documents(connection, container, ids)
    if known:
        connection.execute(
            schema.dead_letter.delete().where(
                _letter.index_name == container, _letter.document_id.in_(known)
            )
        )


def forget_batches(connection: Connection, run_id: int, ordinals: sa.Select[Any]) -> None:
    """Take back what batches of a run found that do not count."""
    connection.execute(
        schema.dead_letter.delete().where(
            _letter.run_id == run_id, _letter.ordinal.in_(ordinals.scalar_subquery())
        )
    )


def forget_container(connection: Connection, container: str) -> None:
    """Empty the list of a container that is dropped."""
    connection.execute(schema.dead_letter.delete().where(_letter.index_name == container))


def of_documents(connection: Connection, container: str, ids: Sequence[str]) -> dict[str, bytes]:
    """Which of these documents are on the list, and the hash of the text that failed."""
    rows = connection.execute(
        sa.select(_letter.document_id, _letter.content_hash).where(
            _letter.index_name == container, _letter.document_id.in_(list(ids))
        )
    )
    return {row.document_id: bytes(row.content_hash) for row in rows}


def count(connection: Connection, container: str) -> int:
    """How many documents are on the list."""
    return int(
        connection.execute(
            sa.select(sa.func.count()).where(_letter.index_name == container)
        ).scalar_one()
    )


def first(connection: Connection, container: str, limit: int) -> list[DeadLetter]:
    """The first of them by id."""
    rows = connection.execute(
        sa.select(
            _letter.document_id,
            _letter.chunk,
            _letter.reason,
            _letter.attempts,
            _letter.seq,
            _letter.first_at,
            _letter.last_at,
        )
        .where(_letter.index_name == container)
        .order_by(_letter.document_id)
        .limit(limit)
    )
    return [DeadLetter(*row) for row in rows]


def states(catalog: Catalog, container: str) -> Iterator[DeadState]:
    """All of them in ascending order of the bytes of their ids; reads a page at a time."""
    last = None
    while True:
        with catalog.read() as connection:
            bytewise = sa.collate(
                _letter.document_id, "BINARY" if connection.dialect.name == "sqlite" else "C"
            )
            query = sa.select(_letter.document_id, _letter.content_hash).where(
                _letter.index_name == container
            )
            if last is not None:
                query = query.where(bytewise > last)
            page = connection.execute(query.order_by(bytewise).limit(_PAGE)).all()
        for row in page:
            yield DeadState(row.document_id, bytes(row.content_hash))
        if len(page) < _PAGE:
            return
        last = page[-1].document_id
