"""Verification: invariants 1 to 7 of one index, each with the figures that prove it.

Nothing here trusts what the runner believes: ids and hashes are compared with the source, vectors
are read back and a sample is embedded again, and the index is searched the way readers search it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from embedmigrate.embedders.base import NORM_TOLERANCE, Embedder, Vectors, ask_documents
from embedmigrate.engine.diff import Comparison
from embedmigrate.engine.passages import text_of
from embedmigrate.engine.sampling import Sample
from embedmigrate.errors import VerificationFailed
from embedmigrate.models import IndexSpec
from embedmigrate.sources.base import Source
from embedmigrate.stores.base import IndexReader, StoredState, by_fingerprint

REEMBEDDED = 64
"""Vectors that are embedded again."""
PROBES = 500
"""Stored vectors that search for themselves."""
SAME_TEXT_DISTANCE = 0.05
"""Largest cosine distance between a stored vector and its text embedded again. Dynamic int8 models
differ by up to 0.014 between batch compositions; a vector of another text is further away."""
EXACT_RECALL = 0.999
_SCORE_TIE = 1e-5
_DEPTH = 10


@dataclass(frozen=True)
class Finding:
    """Whether one invariant holds, and what was measured."""

    invariant: int
    title: str
    holds: bool
    measured: dict[str, Any]


def verify(
    spec: IndexSpec,
    reader: IndexReader,
    source: Source,
    embedder: Embedder,
    comparison: Comparison,
    *,
    spaces: Collection[str] = (),
    lagging: int = 0,
    recall_target: float,
    seed: int = 0,
) -> list[Finding]:
    """Check an index against its source.

    ``comparison`` is the last diff of the two; ``lagging`` of its differences are changes that came
    after the position that the index reflects. ``spaces`` are those that are proven equal to the
    index's. ``recall_target`` binds an ANN index.
    """
    sample = Sample(PROBES, seed)
    duplicates = sample.read(reader.states())
    found = asdict(comparison)
    statistics = reader.statistics()
    damage = reader.problems()
    return [
        Finding(1, "no loss", comparison.missing <= lagging, {**found, "lagging": lagging}),
        Finding(2, "no resurrection", comparison.orphan <= lagging, {"orphan": comparison.orphan}),
        Finding(
            3,
            "no duplicates",
            duplicates == 0 and not damage,
            {"duplicates": duplicates, "vectors": sample.seen, "damage": damage},
        ),
        _one_space({spec.model.fingerprint, *spaces}, reader),
        Finding(
            5,
            "fresh",
            comparison.stale + comparison.metadata <= lagging,
            {"stale": comparison.stale, "metadata": comparison.metadata},
        ),
        _sane(reader, source, embedder, sample.states),
        _usable(reader, sample.states, recall_target, ann=statistics.ann_through > 0),
    ]


def verification_failed(index: str, broken: list[Finding]) -> VerificationFailed:
    """The refusal that names every invariant that does not hold."""
    return VerificationFailed(
        f"index {index} is not whole",
        found="; ".join(
            f"I{finding.invariant} ({finding.title}) does not hold: {finding.measured}"
            for finding in broken
        ),
        expected="invariants 1 to 7",
        next_step="embedmigrate verify --json",
    )


def _one_space(spaces: Collection[str], reader: IndexReader) -> Finding:
    stamps = by_fingerprint(reader.stamps())
    return Finding(
        4,
        "one space",
        {reader.manifest.fingerprint, *stamps} <= set(spaces),
        {
            "expected": " or ".join(sorted(spaces)),
            "manifest": reader.manifest.fingerprint,
            "stamps": stamps,
        },
    )


def _sane(
    reader: IndexReader, source: Source, embedder: Embedder, sample: Sequence[StoredState]
) -> Finding:
    rows = not_finite = wrong_norm = 0
    low: Vectors | None = None
    high: Vectors | None = None
    for block in reader.blocks():
        rows += len(block)
        norms = np.linalg.norm(block.astype(np.float64), axis=1)
        not_finite += int((~np.isfinite(norms)).sum())
        if embedder.model.normalize:
            wrong_norm += int((np.abs(norms - 1) > NORM_TOLERANCE).sum())
        wrong_norm += int((norms == 0).sum())
        low = block.min(axis=0) if low is None else np.minimum(low, block.min(axis=0))
        high = block.max(axis=0) if high is None else np.maximum(high, block.max(axis=0))
    texts = {state.content_hash for state in sample}
    all_equal = (
        len(texts) > 1 and low is not None and high is not None and bool(np.array_equal(low, high))
    )
    again = _embedded_again(reader, source, embedder, sample[:REEMBEDDED])
    return Finding(
        6,
        "sane",
        not_finite == 0
        and wrong_norm == 0
        and not all_equal
        and again["misplaced"] == 0
        and again["largest_distance"] <= SAME_TEXT_DISTANCE,
        {
            "vectors": rows,
            "not_finite": not_finite,
            "wrong_norm": wrong_norm,
            "all_equal": all_equal,
            **again,
        },
    )


def _embedded_again(
    reader: IndexReader, source: Source, embedder: Embedder, sample: Sequence[StoredState]
) -> dict[str, Any]:
    """Embed a sample again: each vector must be near its own text, and nearest to it."""
    documents = source.get([state.id for state in sample])
    texts_now = [(state, text_of(documents, state)) for state in sample]
    same = [(state, text) for state, text in texts_now if text is not None]
    if not same:
        return {"embedded_again": 0, "misplaced": 0, "largest_distance": 0.0}
    again = ask_documents(embedder, [text for _, text in same]).astype(np.float64)
    stored = reader.vectors([(state.id, state.chunk) for state, _ in same]).astype(np.float64)
    again /= np.linalg.norm(again, axis=1, keepdims=True)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    similarity = again @ stored.T
    own = np.diagonal(similarity)
    misplaced = int((own < similarity.max(axis=1) - SAME_TEXT_DISTANCE).sum())
    return {
        "embedded_again": len(same),
        "misplaced": misplaced,
        "largest_distance": float(max(0.0, (1 - own).max())),
    }


def _usable(
    reader: IndexReader, sample: Sequence[StoredState], recall_target: float, *, ann: bool
) -> Finding:
    """Stored vectors find themselves, and ANN finds what exact search finds."""
    if not sample:
        return Finding(7, "usable", True, {"probes": 0})
    keys = [(state.id, state.chunk) for state in sample]
    vectors = reader.vectors(keys)
    served = reader.search(vectors, _DEPTH)
    exact = reader.search(vectors, _DEPTH, exact=True) if ann else served
    found = overlap = wanted = 0
    for key, hits, truth in zip(keys, served, exact, strict=True):
        best = truth[0].score
        found += any((hit.id, hit.chunk) == key or hit.score >= best - _SCORE_TIE for hit in hits)
        threshold = truth[-1].score - _SCORE_TIE
        overlap += min(len(truth), sum(hit.score >= threshold for hit in hits))
        wanted += len(truth)
    target = recall_target if ann else EXACT_RECALL
    self_retrieval, recall = found / len(keys), overlap / wanted
    return Finding(
        7,
        "usable",
        self_retrieval >= target and recall >= target,
        {
            "probes": len(keys),
            "self_retrieval": self_retrieval,
            "recall_at_10": recall,
            "target": target,
            "search": "ann" if ann else "exact",
        },
    )
