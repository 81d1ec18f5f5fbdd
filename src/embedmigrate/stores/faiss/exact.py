"""Exact search over the mapped vector files, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from embedmigrate.embedders.base import Vectors
from embedmigrate.stores.faiss.database import BoolArray, Positions
from embedmigrate.stores.faiss.library import load_faiss
from embedmigrate.stores.faiss.similarity import Candidates, Similarity
from embedmigrate.stores.faiss.vectors import MappedVectors

BLOCK_ROWS = 65_536
COPY_ROWS = 4_096
"""Rows that are copied at a time where they cannot be searched where they lie."""
_FEW_QUERIES = 16
"""From here on FAISS multiplies matrices, which takes no selector but repays a copy."""


def nearest(
    vectors: MappedVectors,
    allowed: BoolArray,
    queries: Vectors,
    k: int,
    similarity: Similarity,
    first: int = 0,
) -> Candidates:
    """The ``k`` nearest of the positions from ``first`` on that ``allowed (through,)`` admits."""
    best = Candidates.none(len(queries), k)
    for start, block in vectors.runs(first, len(allowed), BLOCK_ROWS):
        mask = allowed[start : start + len(block)]
        for positions, rows, bits in _pieces(start, block, mask, similarity, len(queries)):
            distances, labels = _knn(queries, rows, min(k, len(rows)), similarity, bits)
            found = np.where(labels < 0, -1, positions[labels])
            best = best.merged(similarity.candidates(distances, found))
    return best


def _pieces(
    start: int, block: Vectors, mask: BoolArray, similarity: Similarity, queries: int
) -> Iterator[tuple[Positions, Vectors, npt.NDArray[np.uint8] | None]]:
    """The admitted rows of a block as positions, rows, and bits that select among the rows."""
    admitted = int(np.count_nonzero(mask))
    if admitted == 0:
        return
    positions = np.arange(start, start + len(block), dtype=np.int64)
    if similarity.as_stored and admitted == len(block):
        yield positions, block, None
    elif similarity.as_stored and queries < _FEW_QUERIES:
        yield positions, block, np.packbits(mask, bitorder="little")
    else:
        chosen = np.flatnonzero(mask)
        for at in range(0, admitted, COPY_ROWS):
            some = chosen[at : at + COPY_ROWS]
            yield positions[some], similarity.rows(block[some]), None


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
