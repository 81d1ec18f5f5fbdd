"""What attribution found: vector by vector, and summed up with intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from embedmigrate.engine.candidates import Candidate
from embedmigrate.engine.statistics import wilson

Kind = Literal["proven", "probably stale", "foreign", "orphan", "broken"]
Norm = Literal["as made", "normalised since", "neither"]
"""Whether a stored norm is the one that the model makes, 1 although the model makes another, or
another one still."""
KINDS: tuple[Kind, ...] = ("proven", "probably stale", "foreign", "orphan", "broken")


@dataclass(frozen=True)
class Assignment:
    """What is known of one vector.

    ``candidate`` made it when it is proven, and is the nearest one otherwise; ``distance`` is the
    cosine distance to what that one makes. ``margin`` is how much further the nearest candidate of
    any other space is that was tried on this vector; None where none was. ``also`` names candidates
    of other spaces that explain the vector too: then no distance can tell which made it.
    """

    id: str
    kind: Kind
    candidate: str | None = None
    distance: float | None = None
    margin: float | None = None
    norm: Norm | None = None
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proportion:
    """So many of the sample, and the Wilson interval of their share of everything.

    Where the sample is everything, its share is the interval.
    """

    vectors: int
    share: float
    low: float
    high: float

    @classmethod
    def of(
        cls, vectors: int, sampled: int, confidence: float, population: int | None
    ) -> Proportion:
        share = vectors / sampled if sampled else 0.0
        if sampled == population:
            return cls(vectors, share, share, share)
        return cls(vectors, share, *wilson(vectors, sampled, confidence))


@dataclass(frozen=True)
class Made:
    """What one candidate is proven to have made."""

    candidate: str
    model: str
    """``name@fingerprint`` of the model as it is configured, prompt included."""
    space: str
    """Fingerprint of the space of these vectors: another one than the model's when the prompt is
    another one than its document prompt."""
    proportion: Proportion
    largest_distance: float
    smallest_margin: float | None
    norms: Mapping[Norm, int]


@dataclass(frozen=True)
class Attribution:
    """The origin of a sample of vectors. All shares are of the whole sample."""

    sampled: int
    confidence: float
    kinds: Mapping[Kind, Proportion]
    made: tuple[Made, ...]
    """The candidates that made any, those with most vectors first."""
    smallest_margin: float | None
    ambiguous: int
    """Proven vectors that candidates of several spaces explain."""
    embeddings: int
    """Texts that models were asked to embed."""
    merged: Mapping[str, str]
    """Candidates that make the same texts in the same space, and the one that stands for them."""
    ruled_out: tuple[str, ...]
    """Candidates whose models have another dimension."""
    assignments: tuple[Assignment, ...] = field(repr=False)

    @property
    def is_mix(self) -> bool:
        """Whether vectors of more than one space are proven."""
        return len({made.space for made in self.made}) > 1

    @property
    def is_uniform(self) -> bool:
        """Whether every vector is proven to be made in one and the same way."""
        return len(self.made) == 1 and self.made[0].proportion.vectors == self.sampled

    def ids(self, kind: Kind) -> list[str]:
        """The documents of these vectors."""
        return [it.id for it in self.assignments if it.kind == kind]


def summarise(
    assignments: Sequence[Assignment],
    candidates: Sequence[Candidate],
    *,
    confidence: float,
    population: int | None,
    merged: Mapping[str, str],
    ruled_out: Sequence[str],
    embeddings: int,
) -> Attribution:
    """Count the assignments of a sample out of ``population``; None: of many more."""
    sampled = len(assignments)
    kinds = Counter(it.kind for it in assignments)
    proven: dict[str, list[Assignment]] = {}
    for it in assignments:
        if it.kind == "proven" and it.candidate is not None:
            proven.setdefault(it.candidate, []).append(it)
    made = [
        Made(
            candidate.label,
            candidate.model.reference,
            candidate.space,
            Proportion.of(len(theirs), sampled, confidence, population),
            max(it.distance for it in theirs if it.distance is not None),
            _smallest_margin(theirs),
            Counter(it.norm for it in theirs if it.norm is not None),
        )
        for candidate in candidates
        if (theirs := proven.get(candidate.label))
    ]
    return Attribution(
        sampled=sampled,
        confidence=confidence,
        kinds={kind: Proportion.of(kinds[kind], sampled, confidence, population) for kind in KINDS},
        made=tuple(sorted(made, key=lambda it: -it.proportion.vectors)),
        smallest_margin=_smallest_margin(assignments),
        ambiguous=sum(bool(it.also) for it in assignments),
        embeddings=embeddings,
        merged=merged,
        ruled_out=tuple(ruled_out),
        assignments=tuple(assignments),
    )


def _smallest_margin(assignments: Sequence[Assignment]) -> float | None:
    return min((it.margin for it in assignments if it.margin is not None), default=None)
