"""What every store refuses before it touches anything: rows, vectors and queries that do not fit.

These are faults of the caller, and ``ValueError``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedmigrate.embedders.base import Vectors
from embedmigrate.stores.base import IndexManifest, Row


def check_rows(rows: Sequence[Row]) -> dict[str, int]:
    """The ``seq`` of each document; refuses one of two, and a chunk that is there twice."""
    keys, seqs = set(), dict[str, int]()
    for row in rows:
        if seqs.setdefault(row.id, row.seq) != row.seq:
            raise ValueError(f"the chunks of document {row.id!r} are of more than one seq")
        if (row.id, row.chunk) in keys:
            raise ValueError(f"document {row.id!r}, chunk {row.chunk} is there twice in one write")
        keys.add((row.id, row.chunk))
    return seqs


def check_vectors(manifest: IndexManifest, rows: Sequence[Row], vectors: Vectors) -> None:
    """Refuses vectors that are not finite float32 ``(len(rows), dimensions)``."""
    expected = (len(rows), manifest.dimensions)
    if vectors.shape != expected or vectors.dtype != np.float32:
        raise ValueError(
            f"vectors for index {manifest.index!r} are float32 {expected},"
            f" found {vectors.dtype} {vectors.shape}"
        )
    if not np.isfinite(vectors).all():
        bad = int((~np.isfinite(vectors).all(axis=1)).sum())
        raise ValueError(f"{bad} of {len(rows)} vectors have values that are not finite")


def check_queries(manifest: IndexManifest, queries: Vectors, k: int) -> None:
    """Refuses queries that are not finite float32 ``(n, dimensions)``, and k < 1."""
    dimensions = manifest.dimensions
    if queries.ndim != 2 or queries.shape[1] != dimensions or queries.dtype != np.float32:
        raise ValueError(
            f"queries for index {manifest.index!r} are float32 (n, {dimensions}),"
            f" found {queries.dtype} {queries.shape}"
        )
    if not np.isfinite(queries).all():
        raise ValueError("a query vector has values that are not finite")
    if k < 1:
        raise ValueError(f"k is at least 1, found {k}")
