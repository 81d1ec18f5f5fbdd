"""Small indexes, and the plain arithmetic that every store has to agree with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt

from embedmigrate.embedders.base import Vectors
from embedmigrate.models.index_spec import Metric
from embedmigrate.sources.base import content_hash, metadata_hash
from embedmigrate.stores.base import Filter, Hit, IndexManifest, IndexReader, Row, Store

DIMENSIONS = 16
SPACE = "space-1"
ENOUGH = 700
"""Vectors from which on the approximate index of each store that is tried is built."""


def manifest(
    index: str = "articles-0001",
    *,
    factory: str = "Flat",
    metric: Metric = "cosine",
    normalized: bool = False,
    dimensions: int = DIMENSIONS,
) -> IndexManifest:
    return IndexManifest(
        index=index,
        collection="articles",
        catalog_id="catalog-1",
        spec_digest="spec-1",
        fingerprint=SPACE,
        dimensions=dimensions,
        metric=metric,
        normalized=normalized,
        factory=factory,
    )


def vectors(n: int, *, seed: int = 0, dimensions: int = DIMENSIONS) -> Vectors:
    return np.random.default_rng(seed).standard_normal((n, dimensions), dtype=np.float32)


def row(
    id: str,
    seq: int = 1,
    *,
    chunk: int = 0,
    text: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Row:
    metadata = metadata or {}
    text = f"text of {id} at {seq}" if text is None else text
    return Row(id, chunk, seq, content_hash(text), metadata_hash(metadata), metadata)


def rows(numbers: Iterable[int], seq: int = 1) -> list[Row]:
    return [row(f"d{number:05d}", seq, metadata={"number": number}) for number in numbers]


def make_index(
    store: Store,
    about: IndexManifest,
    some_rows: Sequence[Row],
    their_vectors: Vectors,
    *,
    batch: int = 256,
    build: bool = False,
) -> str:
    """Create an index and write it in batches; returns its name."""
    store.create(about)
    with closing(store.writer(about.index, epoch=1, run="run-1")) as writer:
        for start in range(0, len(some_rows), batch):
            writer.write(
                some_rows[start : start + batch], their_vectors[start : start + batch], space=SPACE
            )
        if build:
            writer.build()
    return about.index


def brute_force(
    query: Vectors, keys: Sequence[str], stored: Vectors, k: int, metric: Metric = "cosine"
) -> list[tuple[str, float]]:
    """The ``k`` best (id, score) in double precision, by score and then by id."""
    wide: npt.NDArray[np.float64] = stored.astype(np.float64)
    wanted = query.astype(np.float64)
    scores = -((wide - wanted) ** 2).sum(axis=1) if metric == "l2" else wide @ wanted
    if metric == "cosine":
        scores /= np.linalg.norm(wide, axis=1) * np.linalg.norm(wanted)
    return sorted(zip(keys, scores.tolist(), strict=True), key=lambda hit: (-hit[1], hit[0]))[:k]


def ids(hits: Iterable[Hit]) -> list[str]:
    return [hit.id for hit in hits]


def hits_of(
    reader: IndexReader, query: Vectors, k: int = 10, filter: Filter | None = None
) -> list[Hit]:
    """What one query ``(dimensions,)`` finds."""
    (hits,) = reader.search(query[np.newaxis], k, filter)
    return hits


def chunks_of(reader: IndexReader) -> list[tuple[str, int, int]]:
    return [(state.id, state.chunk, state.seq) for state in reader.states()]
