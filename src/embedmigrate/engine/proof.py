"""Proof that one model may be asked about the vectors of another: they answer every text alike.

On the canaries, which show what each of them does; and on a sample of the stored vectors, which
shows that these are what they are said to be. How near is near enough depends on what is known.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from embedmigrate.catalog.records import IndexRecord
from embedmigrate.engine.embedding import embed_documents
from embedmigrate.engine.guard import Guard
from embedmigrate.engine.job import StopSignal
from embedmigrate.engine.passages import text_of
from embedmigrate.engine.sampling import Sample
from embedmigrate.engine.verify import SAME_TEXT_DISTANCE
from embedmigrate.errors import NotProven
from embedmigrate.models import EmbeddingModel
from embedmigrate.models.canaries import CANARIES
from embedmigrate.models.drift import (
    ALARMING_NORM,
    NOISE_FACTOR,
    PLATFORM_DISTANCE,
    CanaryFigure,
    distances_of,
    figures_of,
    norm_ratios,
    threshold_of,
)
from embedmigrate.models.witness import Behaviour, Witness, WitnessRecord
from embedmigrate.sources.base import Document, Source
from embedmigrate.stores.base import IndexReader, StoredState

_MOST_MISSED = 0.05
_LEAST_LEFT = 0.25
"""A sample that changed texts made smaller than this share of what was asked for must still find a
wrong part of that size."""
EQUAL_DISTANCE = 1e-7
"""Cosine distance up to which vectors of different files are equal. Another runtime moves a vector
by 4e-13 and half precision in storage by 3e-8; the smallest change of weights that was seen, a
table of token vectors rounded to bfloat16, moves half of all texts by more than 8e-7."""
HIDING_DISTANCE = 1e-5
"""A bound that grows with the models' own noise ends here: beyond it a change of weights would
hide (bfloat16 in a transformer moves every text by at least 2.4e-5)."""

_POOL = 4
"""Stored vectors that are drawn for each that is compared: texts may have changed since."""
_PAGE = 256
_CONFIDENCE = 0.99


@dataclass(frozen=True)
class CanaryProof:
    """Two models agree on the canaries: largest cosine distances, and the bound on them.

    ``queries`` is None when that side is what changes. The platforms are those of the record and of
    the measurement; ``batch_noise`` is the greater one of the two.
    """

    recorded_on: str
    measured_on: str
    bound: float
    documents: float
    queries: float | None
    batch_noise: float


@dataclass(frozen=True)
class SampleProof:
    """Stored vectors are what a model makes of their texts: cosine distances, and the bound.

    ``compared`` of ``vectors`` stored ones; ``skipped`` were drawn, but their texts have changed
    since. A mix with a share ``finds`` of other vectors would have been seen with 99 % probability.
    """

    vectors: int
    compared: int
    skipped: int
    bound: float
    largest: float
    median: float
    finds: float


def prove_on_canaries(source: EmbeddingModel, witness: Witness, guard: Guard) -> CanaryProof:
    """Compare what the guarded model answered with what was recorded of ``source``.

    The record that is nearest counts: models that agree on one platform are one. ``NotProven`` when
    there is none, when a side differs, or when noise would hide a difference. Where both have one
    fingerprint, digests tell the same already; only the platform may then tell them apart.
    """
    target = guard.embedder.model
    if source.dimensions != target.dimensions:
        raise _not_one_space(
            source, target, f"{target.dimensions} dimensions", f"{source.dimensions} dimensions"
        )
    same = source.fingerprint == target.fingerprint
    records = witness.records or ((guard.record,) if same else ())
    if not records:
        raise NotProven(
            f"nothing was recorded of how {source.reference} behaves",
            found="no witness",
            expected="a record of a platform, in its pin file or in the catalog",
            next_step=f"embedmigrate drift {source.name}, where that model can be loaded",
        )
    seen = guard.seen
    if source.query_prompt != target.query_prompt:  # that side is what changes
        seen = replace(seen, queries=seen.queries[:0])
    compared = [_compare(record, seen, _bound(record, guard, same=same)) for record in records]
    nearest = min(compared, key=lambda it: (it.bound > HIDING_DISTANCE, it.largest / it.bound))
    if not same and nearest.bound > HIDING_DISTANCE:
        raise _not_one_space(
            source,
            target,
            f"answers that differ from themselves: by {nearest.bound / NOISE_FACTOR:.2g}",
            f"noise of at most {HIDING_DISTANCE / NOISE_FACTOR:.2g}, in which no change can hide",
        )
    if differences := nearest.differences():
        raise _not_one_space(
            source,
            target,
            f"on the canaries, {'; '.join(differences)}",
            f"at most {nearest.bound:.2g} from the record of {_platform(nearest.record)}",
        )
    noise = max(nearest.record.behaviour.batch_noise, guard.record.behaviour.batch_noise)
    return CanaryProof(
        recorded_on=_platform(nearest.record),
        measured_on=_platform(guard.record),
        bound=nearest.bound,
        documents=nearest.largest_of("document") or 0.0,
        queries=nearest.largest_of("query"),
        batch_noise=noise,
    )


def prove_on_sample(
    index: IndexRecord,
    reader: IndexReader,
    source: Source,
    guard: Guard,
    canaries: CanaryProof,
    size: int,
    stop: StopSignal,
) -> SampleProof:
    """Embed the texts of ``size`` stored vectors with the guarded model, and compare.

    Vectors were stored in batches, so the bound allows for what a batch does to a model. ``source``
    is prepared. ``NotProven`` when a vector is further away, or no text is what it was.
    """
    model = guard.embedder.model
    pool = Sample(size * _POOL, random.randrange(2**32))
    pool.read(reader.states())
    chosen: list[tuple[StoredState, Document]] = []
    skipped = 0
    for state, text in _drawn(pool.states, source):
        if text is None:
            skipped += 1
        else:
            chosen.append((state, Document.make(state.id, text, {})))
        if len(chosen) == size:
            break
    bound = _sample_bound(canaries, same=index.fingerprint == model.fingerprint)
    if not chosen:
        if pool.seen:
            raise NotProven(
                f"no text of {index.name} is still the one that was embedded",
                found=f"{skipped} of {pool.seen} vectors drawn, all of changed texts",
                expected="texts that can be embedded again and compared",
                next_step=_INSTEAD,
            )
        return SampleProof(0, 0, 0, bound, 0.0, 0.0, 1.0)
    finds = 1 - (1 - _CONFIDENCE) ** (1 / len(chosen))
    if finds > _MOST_MISSED and _LEAST_LEFT * min(size, pool.seen) > len(chosen):
        raise NotProven(
            f"too few texts of {index.name} are still the ones that were embedded",
            found=f"{len(chosen)} of {pool.seen} vectors drawn, {skipped} of changed texts",
            expected=f"enough to find a wrong part of {_MOST_MISSED:.0%}",
            next_step=_INSTEAD,
        )
    again = embed_documents([it for _, it in chosen], guard.embedder, lambda _: {}, stop).vectors
    guard.check()
    stored = reader.vectors([(state.id, state.chunk) for state, _ in chosen])
    distances = np.array(distances_of(stored, again))
    if index.spec.metric != "cosine":  # then a length counts as well as a direction
        lengths = np.abs(np.array(norm_ratios(stored, again)) - 1)
        distances = np.maximum(distances, np.where(lengths > ALARMING_NORM, lengths, 0))
    if far := int((distances > bound).sum()):
        worst = int(distances.argmax())
        raise NotProven(
            f"the vectors of {index.name} are not what {model.reference} makes of their texts",
            found=f"{far} of {len(chosen)} differ by more than {bound:.2g}, the one of "
            f"{chosen[worst][0].id!r} by {distances[worst]:.2g}",
            expected=f"at most {bound:.2g} for each",
            next_step=_INSTEAD,
        )
    return SampleProof(
        vectors=pool.seen,
        compared=len(chosen),
        skipped=skipped,
        bound=bound,
        largest=float(distances.max()),
        median=float(np.median(distances)),
        finds=finds,
    )


_INSTEAD = (
    "write a revision with --no-rebind in its place, which embeds every document; if the vectors "
    "were made on another kind of processor, try there first"
)


@dataclass(frozen=True)
class _Compared:
    """What was seen, against one record."""

    record: WitnessRecord
    bound: float
    figures: tuple[CanaryFigure, ...]
    refusal: str

    def largest_of(self, side: str) -> float | None:
        """The largest cosine distance of a side; None when it was not compared."""
        return max((it.distance for it in self.figures if it.side == side), default=None)

    @property
    def largest(self) -> float:
        return max(figure.distance for figure in self.figures)

    def differences(self) -> list[str]:
        found = []
        for side, name in (("document", "documents"), ("query", "queries")):
            figures = [it for it in self.figures if it.side == side]
            worst = max(figures, key=lambda it: it.distance, default=None)
            if worst is not None and worst.distance > self.bound:
                far = sum(it.distance > self.bound for it in figures)
                most = f"{worst.canary} by {worst.distance:.2g}"
                found.append(f"{far} of {len(CANARIES)} {name} differ, {most}")
            longest = max(figures, key=lambda it: abs(it.norm_ratio - 1), default=None)
            if longest is not None and abs(longest.norm_ratio - 1) > ALARMING_NORM:
                found.append(
                    f"norms of {name} differ, that of {longest.canary} by a factor of "
                    f"{longest.norm_ratio:.4g}"
                )
        return found + ([self.refusal] if self.refusal else [])


def _compare(record: WitnessRecord, seen: Behaviour, bound: float) -> _Compared:
    figures = figures_of(record.behaviour, seen, range(len(CANARIES)))
    return _Compared(record, bound, figures, seen.refusal)


def _bound(record: WitnessRecord, guard: Guard, *, same: bool) -> float:
    here = guard.record
    noise = max(record.behaviour.noise, here.behaviour.noise)
    if not same:
        return max(EQUAL_DISTANCE, NOISE_FACTOR * noise)
    known = record.platform == here.platform
    return max(threshold_of(noise), 0.0 if known else PLATFORM_DISTANCE)


def _sample_bound(canaries: CanaryProof, *, same: bool) -> float:
    """Where vectors were made is not recorded with them: it may have been on another platform."""
    least = max(canaries.bound, PLATFORM_DISTANCE) if same else canaries.bound
    return min(max(least, NOISE_FACTOR * canaries.batch_noise), SAME_TEXT_DISTANCE)


def _drawn(states: list[StoredState], source: Source) -> Iterator[tuple[StoredState, str | None]]:
    """Each drawn vector with its text, None where that was changed since, in random order."""
    random.shuffle(states)
    for start in range(0, len(states), _PAGE):
        page = states[start : start + _PAGE]
        documents = source.get([state.id for state in page])
        yield from ((state, text_of(documents, state)) for state in page)


def _platform(record: WitnessRecord) -> str:
    return " on ".join(filter(None, record.platform))


def _not_one_space(
    source: EmbeddingModel, target: EmbeddingModel, found: str, expected: str
) -> NotProven:
    return NotProven(
        f"{target.reference} is not shown to span the space of {source.reference}",
        found=found,
        expected=expected,
        next_step=_INSTEAD,
    )
