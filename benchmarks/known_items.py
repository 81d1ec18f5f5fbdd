"""Known-item search: what a change of vectors does to people who look for one document.

A query is a few consecutive words of a document, drawn by a seed; that document is what is looked
for. So any collection of texts has queries, and no judgements are needed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embedmigrate.embedders.base import Vectors

EXAMPLE = Path(__file__).parents[1] / "examples" / "data" / "corpus.jsonl"
WORDS = 8
"""Words of a query."""
K = 10

Wide = npt.NDArray[np.float64]
Ranks = npt.NDArray[np.int64]
"""Rows of documents, the best first: ``(queries, K)``."""


class KnownItem(NamedTuple):
    """A query and the row of the document that it is taken from."""

    query: str
    row: int


def read_texts(path: Path, size: int | None = None) -> list[tuple[str, str]]:
    """(id, text) of the first ``size`` lines in BEIR layout that hold a text not seen before.

    A text is the title and the text, joined by a space.
    """
    found: dict[str, str] = {}
    # Not str.splitlines: a text may hold the other line separators of Unicode.
    with path.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            if len(found) == size:
                break
            record = json.loads(line)
            text = " ".join(part for part in (record.get("title"), record["text"]) if part)
            if text.strip():
                found.setdefault(text, str(record["_id"]))
    return [(key, text) for text, key in found.items()]


def known_items(texts: Sequence[str], queries: int, seed: int = 0) -> list[KnownItem]:
    """Queries for as many documents, each of another one; fewer where texts are too short."""
    draw = random.Random(seed)
    words = [text.split() for text in texts]
    rows = [row for row, text in enumerate(words) if len(text) >= WORDS]
    items = []
    for row in draw.sample(rows, min(queries, len(rows))):
        start = draw.randrange(len(words[row]) - WORDS + 1)
        items.append(KnownItem(" ".join(words[row][start : start + WORDS]), row))
    return items


def units(vectors: Vectors) -> Wide:
    """Rows of length 1, in double precision: a real change may be far below float32's."""
    wide = vectors.astype(np.float64)
    length: Wide = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return length


def best(queries: Vectors, documents: Vectors, k: int = K) -> Ranks:
    """The ``k`` documents of highest cosine for each query; equal ones in order of their rows."""
    scores = units(queries) @ units(documents).T
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


@dataclass(frozen=True)
class Distance:
    """How far vectors went from what they were."""

    median: float
    """Cosine distance."""
    greatest: float
    norm: float
    """Greatest relative change of a norm."""

    @classmethod
    def between(cls, old: Vectors, new: Vectors) -> Distance | None:
        """None where the dimensions differ: there is no angle between the two."""
        if old.shape != new.shape:
            return None
        angles = 1 - np.einsum("ij,ij->i", units(old), units(new))
        norms = np.linalg.norm(new.astype(np.float64), axis=1)
        ratios = norms / np.linalg.norm(old.astype(np.float64), axis=1)
        return cls(float(np.median(angles)), float(angles.max()), float(np.abs(ratios - 1).max()))


@dataclass(frozen=True)
class Search:
    """What became of result lists. Shares of the queries, from 0 to 1."""

    overlap: float
    """Mean share of the old ten that are among the new ten."""
    first_changes: float
    """Share of queries with another first result."""
    hits: float
    """Share of queries that find their document among the ten (hit@10)."""

    @classmethod
    def compared(cls, old: Ranks, new: Ranks, items: Sequence[KnownItem]) -> Search:
        shared = [len(set(a) & set(b)) / len(a) for a, b in zip(old, new, strict=True)]
        wanted = np.array([item.row for item in items])
        return cls(
            float(np.mean(shared)),
            float(np.mean(old[:, 0] != new[:, 0])),
            float(np.mean((new == wanted[:, np.newaxis]).any(axis=1))),
        )
