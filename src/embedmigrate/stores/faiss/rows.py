"""What every kind of reader asks of ``rows.sqlite``: hits, states, stamps, filters."""

from __future__ import annotations

import json
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from embedmigrate.embedders.base import Vectors
from embedmigrate.stores.base import Filter, Hit, Stamp, StoredState
from embedmigrate.stores.faiss.database import BoolArray, Positions, in_parts, marks
from embedmigrate.stores.faiss.filters import condition
from embedmigrate.stores.faiss.similarity import Candidates, Similarity

SPARE = 16
"""Candidates beyond k. They are scored again, so that a tie at the cut is decided by id."""


def ranked(
    connection: sqlite3.Connection,
    gather: Callable[[Positions], Vectors],
    similarity: Similarity,
    queries: Vectors,
    candidates: Candidates,
    k: int,
) -> list[list[Hit]]:
    """Score the candidates, order them by score, id and chunk, and add what belongs to them."""
    companions: dict[int, tuple[str, int, str]] = {}
    for some in in_parts(candidates.positions[candidates.positions >= 0].tolist()):
        rows = connection.execute(
            f"SELECT position, id, chunk, metadata FROM rows WHERE position IN ({marks(some)})",
            some,
        )
        companions.update((position, (id, chunk, text)) for position, id, chunk, text in rows)
    results = []
    for query, positions in zip(queries, candidates.positions, strict=True):
        found = positions[positions >= 0]
        scores = similarity.scores(query, gather(found))
        by_rank = sorted(
            (-score, *companions[position])
            for score, position in zip(scores, found.tolist(), strict=True)
        )
        results.append(
            [
                Hit(id, chunk, -negated, json.loads(metadata))
                for negated, id, chunk, metadata in by_rank[:k]
            ]
        )
    return results


def read_live_states(connection: sqlite3.Connection) -> Iterator[StoredState]:
    """Every live row, in ascending order of the bytes of (id, chunk)."""
    cursor = connection.execute(
        "SELECT id, chunk, seq, content_hash, metadata_hash"
        " FROM rows INDEXED BY live_rows WHERE deleted = 0 ORDER BY id, chunk"
    )
    for row in cursor:
        yield StoredState(*row)


def count_documents(connection: sqlite3.Connection) -> int:
    (documents,) = connection.execute(
        "SELECT COUNT(DISTINCT id) FROM rows INDEXED BY live_rows WHERE deleted = 0"
    ).fetchone()
    return int(documents)


def count_stamps(connection: sqlite3.Connection, through: int, sample: int | None) -> list[Stamp]:
    """Live rows by provenance; with ``sample``, of about so many positions below ``through``."""
    counts: Counter[tuple[str, str]] = Counter()
    chosen: Iterable[list[int] | None] = (
        [None] if sample is None else in_parts(_sampled(through, sample))
    )
    for some in chosen:
        where = "" if some is None else f" AND position IN ({marks(some)})"
        cursor = connection.execute(
            "SELECT COALESCE(fingerprint, ''), COALESCE(run, ''), COUNT(*)"
            f" FROM rows LEFT JOIN stamps USING (stamp) WHERE deleted = 0{where}"
            " GROUP BY 1, 2",
            some or (),
        )
        for fingerprint, run, vectors in cursor:
            counts[fingerprint, run] += vectors
    return [Stamp(*key, vectors) for key, vectors in sorted(counts.items())]


def _sampled(through: int, size: int) -> list[int]:
    """About ``size`` positions below ``through``: a quarter are the newest, where mixing begins."""
    newest = range(max(0, through - size // 4), through)
    return sorted({*newest, *random.sample(range(through), min(through, size - len(newest)))})


def admitted(
    connection: sqlite3.Connection,
    filter: Filter,
    through: int,
    kept: dict[tuple[str, ...], BoolArray],
) -> BoolArray:
    """The positions that a metadata filter admits ``(through,)``; the last few stay in ``kept``."""
    sql, parameters = condition(filter)
    key = (sql, *parameters)
    if (allowed := kept.get(key)) is None:
        cursor = connection.execute(f"SELECT position FROM rows WHERE {sql}", parameters)
        allowed = np.zeros(through, dtype=np.bool_)
        allowed[np.fromiter((position for (position,) in cursor), dtype=np.int64)] = True
        if len(kept) >= _FILTERS_KEPT:
            kept.clear()
        kept[key] = allowed
    return allowed


_FILTERS_KEPT = 8
