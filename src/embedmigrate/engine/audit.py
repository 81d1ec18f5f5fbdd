"""Audit: what is really in a store?

Nothing that the catalog or a run remembers is believed. Stamps, ids and hashes are counted from the
rows, and that a vector is what its stamp says is proven by embedding its text again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from embedmigrate.embedders.base import Embedder, ask_documents
from embedmigrate.engine.diff import Diff
from embedmigrate.engine.passages import text_of
from embedmigrate.engine.sampling import Sample
from embedmigrate.engine.statistics import sample_size, upper_bound
from embedmigrate.models.drift import ALARMING_NORM, NOISE_FACTOR, distances_of, norm_ratios
from embedmigrate.models.witness import Witness
from embedmigrate.sources.base import Source
from embedmigrate.stores.base import IndexReader, StoredState, by_fingerprint

LEAST_TOLERANCE = 1e-5
"""Below the smallest real change that was seen (weights rounded to bfloat16: 2.4e-5 at least), and
above what float32 and another thread count do."""
IDS_NAMED = 20
_CALL = 64


class Proof(NamedTuple):
    """One vector of the sample: how far it is from its text embedded again."""

    document_id: str
    chunk: int
    distance: float
    norm_ratio: float


@dataclass(frozen=True)
class SampleProof:
    """What embedding a sample again showed.

    ``edited`` vectors are of texts that changed since, or are gone: they prove nothing. ``bound``
    is the share of wrong vectors in the whole, at ``confidence``; exact when all were tested.
    """

    population: int
    asked: int
    proven: int
    edited: int
    wrong: tuple[Proof, ...]
    tolerance: float
    largest: float
    confidence: float

    @property
    def bound(self) -> float:
        tested = self.proven + len(self.wrong)
        if tested == self.population:
            return len(self.wrong) / max(tested, 1)
        return upper_bound(tested, self.confidence, len(self.wrong))

    def dump(self) -> dict[str, Any]:
        return {
            "sampled": self.asked,
            "proven": self.proven,
            "edited_since": self.edited,
            "wrong": len(self.wrong),
            "wrong_ids": [proof.document_id for proof in self.wrong[:IDS_NAMED]],
            "tolerance": self.tolerance,
            "largest_distance": self.largest,
            "confidence": self.confidence,
            "at_most_wrong": self.bound,
        }


@dataclass(frozen=True)
class Audit:
    """Counts, and what was found. ``findings`` is empty when everything is as it should be."""

    expected: str
    vectors: int
    by_fingerprint: dict[str, int]
    unknown: int
    foreign: int
    duplicate: int
    missing: int
    stale: int
    metadata: int
    orphaned: int
    failed: int
    """Documents without a vector that are known not to be embeddable: no finding."""
    proof: SampleProof | None
    findings: tuple[str, ...] = field(default=())

    def dump(self) -> dict[str, Any]:
        """As JSON."""
        return {**vars(self), "proof": self.proof and self.proof.dump()}


def tolerance_of(witness: Witness) -> float:
    """How far a stored vector may be from its text embedded again.

    Ten times what the model's answers vary between batches, and between the platforms on which it
    was recorded, as nobody knows which of them wrote a vector.
    """
    noise = [record.behaviour.batch_noise for record in witness.records]
    seen = [record.behaviour.documents for record in witness.records]
    noise += [max(distances_of(seen[0], it)) for it in seen[1:] if it.shape == seen[0].shape]
    return max([LEAST_TOLERANCE, *(NOISE_FACTOR * it for it in noise)])


def audit(
    reader: IndexReader,
    diff: Diff,
    source: Source,
    *,
    expected: Collection[str],
    known: Collection[str],
    embedder: Embedder | None,
    tolerance: float,
    confidence: float = 0.99,
    share: float = 0.01,
    seed: int | None = None,
) -> Audit:
    """Audit one index against its source.

    ``expected`` are the fingerprints that its vectors may have, ``known`` those of any model that
    the catalog has met. The sample is large enough to hold a vector of a part of ``share`` with
    ``confidence``; without ``embedder`` nothing is embedded, and nothing is proven.
    """
    stamps = by_fingerprint(reader.stamps())
    sample = Sample(sample_size(share, confidence), seed)
    duplicate = sample.read(reader.states())
    for _ in diff:
        pass
    compared = diff.comparison
    proof = None
    if embedder is not None:
        proof = prove(
            reader, source, embedder, sample.states, tolerance, confidence, population=sample.seen
        )
    counts = {
        "unknown": sum(n for fp, n in stamps.items() if fp not in expected and fp not in known),
        "foreign": sum(n for fp, n in stamps.items() if fp not in expected and fp in known),
        "duplicate": duplicate,
        "missing": compared.missing,
        "stale": compared.stale,
        "metadata": compared.metadata,
        "orphaned": compared.orphan,
    }
    return Audit(
        expected=min(expected),
        vectors=sample.seen,
        by_fingerprint=stamps,
        failed=compared.failed,
        proof=proof,
        findings=tuple(_findings(counts, proof)),
        **counts,
    )


_MEANINGS = {
    "unknown": "vectors are of no model that is known",
    "foreign": "vectors are of another model",
    "duplicate": "vectors are there twice",
    "missing": "documents of the source have no vector",
    "stale": "documents were embedded from another text than they have now",
    "metadata": "documents have outdated metadata",
    "orphaned": "vectors are of documents that the source no longer has",
}


def _findings(counts: dict[str, int], proof: SampleProof | None) -> Iterator[str]:
    for name, meaning in _MEANINGS.items():
        if counts[name]:
            yield f"{name}: {counts[name]} {meaning}"
    if proof is not None and proof.wrong:
        yield (
            f"wrong: {len(proof.wrong)} of {proof.asked} sampled vectors are not what their stamp "
            "says"
        )


def prove(
    reader: IndexReader,
    source: Source,
    embedder: Embedder,
    states: Sequence[StoredState],
    tolerance: float,
    confidence: float,
    *,
    population: int,
) -> SampleProof:
    """Embed the texts of ``states`` again and compare with what is stored."""
    proofs: list[Proof] = []
    edited = 0
    for start in range(0, len(states), _CALL):
        some = states[start : start + _CALL]
        documents = source.get([state.id for state in some])
        texts = [(state, text_of(documents, state)) for state in some]
        same = [(state, text) for state, text in texts if text is not None]
        edited += len(some) - len(same)
        if not same:
            continue
        again = ask_documents(embedder, [text for _, text in same])
        stored = reader.vectors([(state.id, state.chunk) for state, _ in same])
        figures = zip(distances_of(again, stored), norm_ratios(again, stored), strict=True)
        proofs += (
            Proof(state.id, state.chunk, *figure)
            for (state, _), figure in zip(same, figures, strict=True)
        )
    wrong = tuple(
        proof
        for proof in proofs
        if proof.distance > tolerance or abs(proof.norm_ratio - 1) > max(ALARMING_NORM, tolerance)
    )
    return SampleProof(
        population=population,
        asked=len(states),
        proven=len(proofs) - len(wrong),
        edited=edited,
        wrong=wrong,
        tolerance=tolerance,
        largest=max((proof.distance for proof in proofs), default=0.0),
        confidence=confidence,
    )
