"""Search as SQL: all queries of a call in one statement, each through the index or exactly."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from embedmigrate.models.index_spec import Metric
from embedmigrate.stores.base import Filter, Hit
from embedmigrate.stores.pgvector.factory import MAX_VECTOR, Factory, operator
from embedmigrate.stores.pgvector.filters import condition
from embedmigrate.stores.pgvector.layout import Found
from embedmigrate.stores.pgvector.names import document_id

SPARE = 16
"""Candidates beyond k, so that a tie at the cut is decided by id."""
_MAX_EF_SEARCH, _EF_SEARCH, _MIN_PROBES = 1000, 128, 16

# The order of the inner query decides whether an ANN index can answer it. One that goes on
# searching is only roughly in order: `+ 0` keeps the planner from taking its rows for sorted.
_SEARCH = """
SELECT q.number, h.id, h.chunk, h.distance, COALESCE(h.metadata_text, h.metadata::text)
FROM unnest(%(queries)s) WITH ORDINALITY AS q (query, number)
CROSS JOIN LATERAL (
    SELECT * FROM (
        SELECT id, chunk, {distance} AS distance, metadata, metadata_text
        FROM {table}
        WHERE {condition}
        ORDER BY {order}
        LIMIT %(candidates)s
    ) AS candidates
    ORDER BY distance + 0, id, chunk
    LIMIT %(k)s
) AS h
ORDER BY q.number, h.distance + 0, h.id, h.chunk
"""
_NEAREST = "embedding {operator} q.query"
_HALF_NEAREST = "embedding::halfvec({n}) {operator} q.query::halfvec({n})"
_DEFINED = "COALESCE(NULLIF({nearest}, 'NaN'), 1)"
"""The cosine of a vector without a direction is as good as any other: nought."""


@dataclass(frozen=True)
class Effort:
    """How hard an ANN search tries; None leaves it to what was built."""

    probes: int | None = None
    ef_search: int | None = None

    def settings(self, factory: Factory, candidates: int, ann_rows: int) -> dict[str, object]:
        """pgvector's settings. It goes on where a filter, or they, would leave too few."""
        if factory.kind == "ivfflat":
            lists = factory.lists_for(ann_rows)
            probes = self.probes or max(_MIN_PROBES, lists // 16)
            return {
                "ivfflat.probes": min(probes, lists),
                "ivfflat.iterative_scan": "relaxed_order",
            }
        ef_search = max(self.ef_search or _EF_SEARCH, candidates)
        return {
            "hnsw.ef_search": min(ef_search, _MAX_EF_SEARCH),
            "hnsw.iterative_scan": "relaxed_order",
        }


@dataclass(frozen=True)
class Search:
    """Statements for one index, and the hits that their rows are."""

    found: Found
    effort: Effort

    def settings(self, candidates: int, ann_rows: int, *, filtered: bool) -> dict[str, object]:
        """For a search through the ANN index.

        With a filter the planner chooses between it and looking at every row that matches;
        without one it has no choice: it does not know how much slower a whole table is.
        """
        factory = Factory.parse(self.found.manifest.factory)
        tuned = self.effort.settings(factory, candidates, ann_rows)
        by_index = {"enable_seqscan": "off", "enable_sort": "off", "enable_bitmapscan": "off"}
        return self.found.settings(jit="off", **tuned, **({} if filtered else by_index))

    def candidates(self, k: int) -> int:
        """How many to take from the ANN index; halves of single precision need more."""
        return SPARE + (2 * k if self.found.manifest.dimensions > MAX_VECTOR else k)

    def statement(
        self, filter: Filter | None, *, exact: bool
    ) -> tuple[sql.Composed, dict[str, Any]]:
        """The statement and the parameters of its filter."""
        manifest = self.found.manifest
        near = sql.SQL(operator(manifest.metric))
        nearest = sql.SQL(_NEAREST).format(operator=near)
        distance = nearest
        if manifest.metric == "cosine":
            distance = sql.SQL(_DEFINED).format(nearest=nearest)
        if exact:
            # No index answers this order, whatever the planner thinks of its cost.
            order: sql.Composable = sql.SQL("({}) + 0, id, chunk").format(distance)
        elif manifest.dimensions > MAX_VECTOR:
            n = sql.Literal(manifest.dimensions)
            order = sql.SQL(_HALF_NEAREST).format(operator=near, n=n)
        else:
            order = nearest
        where, parameters = condition(filter or {})
        composed = self.found.layout.statement(
            _SEARCH, distance=distance, condition=where, order=order
        )
        return composed, parameters

    def hits(self, queries: int, rows: Iterable[tuple[Any, ...]]) -> list[list[Hit]]:
        """The hits of each of so many queries."""
        results: list[list[Hit]] = [[] for _ in range(queries)]
        metric = self.found.manifest.metric
        for number, id, chunk, distance, metadata in rows:
            hit = Hit(document_id(id), chunk, _score(metric, distance), json.loads(metadata))
            results[number - 1].append(hit)
        return results


def _score(metric: Metric, distance: float) -> float:
    """What pgvector calls a distance as a score that is greater for nearer."""
    if metric == "cosine":
        return 1.0 - distance
    return -distance * distance if metric == "l2" else -distance
