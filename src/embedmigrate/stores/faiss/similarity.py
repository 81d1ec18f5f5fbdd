"""What nearer means: metric, normalisation and the score that a hit carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embedmigrate.embedders.base import Vectors
from embedmigrate.models.index_spec import Metric
from embedmigrate.stores.base import IndexManifest
from embedmigrate.stores.faiss.database import Positions


class Candidates(NamedTuple):
    """Possible hits: ``(queries, k)`` similarities, greater for nearer, best first.

    Where there are fewer than ``k``, the position is -1 and the similarity minus infinity.
    """

    similarities: Vectors
    positions: Positions

    @classmethod
    def none(cls, queries: int, k: int) -> Candidates:
        return cls(
            np.full((queries, k), -np.inf, dtype=np.float32),
            np.full((queries, k), -1, dtype=np.int64),
        )

    def merged(self, other: Candidates) -> Candidates:
        """The best of both, as many a query as there are here."""
        similarities = np.concatenate([self.similarities, other.similarities], axis=1)
        positions = np.concatenate([self.positions, other.positions], axis=1)
        order = np.argsort(-similarities, axis=1, kind="stable")[:, : self.positions.shape[1]]
        return Candidates(
            np.take_along_axis(similarities, order, axis=1),
            np.take_along_axis(positions, order, axis=1),
        )


@dataclass(frozen=True)
class Similarity:
    """The metric of an index. ``unit_rows`` says whether the stored vectors have norm 1."""

    metric: Metric
    unit_rows: bool

    @classmethod
    def of(cls, manifest: IndexManifest) -> Similarity:
        return cls(manifest.metric, manifest.normalized)

    @property
    def as_stored(self) -> bool:
        """Whether stored vectors can be compared as they stand."""
        return self.metric != "cosine" or self.unit_rows

    def queries(self, queries: Vectors) -> Vectors:
        """Query vectors as they are compared."""
        return _unit(queries) if self.metric == "cosine" else queries

    def rows(self, rows: Vectors) -> Vectors:
        """Stored vectors as they are compared."""
        return rows if self.as_stored else _unit(rows)

    def candidates(self, distances: Vectors, labels: Positions) -> Candidates:
        """What FAISS answered, with greater for nearer."""
        similarities = -distances if self.metric == "l2" else distances
        return Candidates(np.where(labels < 0, np.float32(-np.inf), similarities), labels)

    def scores(self, query: Vectors, rows: Vectors) -> list[float]:
        """The score of each of ``rows`` for one query.

        Computed in double precision, one row like the other: whatever structure found a row, and
        wherever it is stored, its score is the same, and equal vectors have equal scores.
        """
        wide: npt.NDArray[np.float64] = self.rows(rows).astype(np.float64)
        if self.metric == "l2":
            wide -= query
            scores = -np.einsum("ij,ij->i", wide, wide)
        else:
            scores = np.einsum("ij,j->i", wide, query.astype(np.float64))
        return [float(score) for score in scores.astype(np.float32)]


def _unit(vectors: Vectors) -> Vectors:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(norms == 0, 1, norms), dtype=np.float32)
