"""Exact search over stored vectors, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from embedmigrate.embedders.base import Vectors
from embedmigrate.stores.faiss.database import BoolArray, Positions
from embedmigrate.stores.faiss.library import load_faiss
from embedmigrate.stores.faiss.similarity import Candidates, Similarity

_BLOCK_BYTES = 6 << 20
"""What a processor keeps close, so that the second query finds it there: half the time of blocks
of 65,536 rows at 384 dimensions."""
_MAX_BLOCK_ROWS = 65_536


class Runs(Protocol):
    """Vectors by position."""

    @property
    def dimensions(self) -> int: ...

    def runs(self, first: int, until: int, size: int) -> Iterator[tuple[int, Vectors]]:
        """Blocks of at most ``size`` rows over ``first <= position < until``, with their first."""


def nearest(
    vectors: Runs,
    allowed: BoolArray,
    queries: Vectors,
    k: int,
    similarity: Similarity,
    first: int = 0,
) -> Candidates:
    """The ``k`` nearest of the positions from ``first`` on that ``allowed (through,)`` admits.

    Rows are compared where they are mapped; only those that have to be normalised are copied, a
    block at a time.
    """
    best = Candidates.none(len(queries), k)
    size = min(_MAX_BLOCK_ROWS, max(1, _BLOCK_BYTES // (4 * vectors.dimensions)))
    for start, block in vectors.runs(first, len(allowed), size):
        rows, mask, bits = block, allowed[start : start + len(block)], None
        if not mask.any():
            continue
        positions = np.arange(start, start + len(block), dtype=np.int64)
        if not similarity.as_stored:
            positions, rows = positions[mask], similarity.rows(block[mask])
        elif not mask.all():
            bits = np.packbits(mask, bitorder="little")
        distances, labels = _knn(queries, rows, min(k, len(rows)), similarity, bits)
        found = np.where(labels < 0, -1, positions[labels])
        best = best.merged(similarity.candidates(distances, found))
    return best


def _knn(
    queries: Vectors,
    rows: Vectors,
    k: int,
    similarity: Similarity,
    bits: npt.NDArray[np.uint8] | None,
) -> tuple[Vectors, Positions]:
    faiss = load_faiss()
    if bits is None:
        metric = faiss_metric(similarity)
        distances, labels = faiss.knn(queries, rows, k, metric)
        return distances, labels
    distances = np.empty((len(queries), k), dtype=np.float32)
    labels = np.empty((len(queries), k), dtype=np.int64)
    pointer = faiss.swig_ptr
    sizes = (queries.shape[1], len(queries), len(rows), k)
    selector = faiss.IDSelectorBitmap(bits)
    # faiss.knn passes no selector on, so these are the two functions that it is made of.
    if similarity.metric == "l2":
        faiss.knn_L2sqr(
            pointer(queries), pointer(rows), *sizes, pointer(distances), pointer(labels),
            None, selector,
        )  # fmt: skip
    else:
        faiss.knn_inner_product(
            pointer(queries), pointer(rows), *sizes, pointer(distances), pointer(labels), selector
        )
    return distances, labels


def faiss_metric(similarity: Similarity) -> Any:
    """FAISS's number for the metric; cosine is the inner product of unit vectors."""
    faiss = load_faiss()
    return faiss.METRIC_L2 if similarity.metric == "l2" else faiss.METRIC_INNER_PRODUCT
