"""Is a model still itself? Recorded and present behaviour, compared canary by canary.

A distance says that something changed, never whether it is worse. Thresholds: on one text a call,
fp32 graphs repeat themselves bit for bit, and the smallest real change of weights that was seen
(rounding them to bfloat16) moves every text by at least 2.4e-5; so 1e-6 is alarming, or ten times
what the model differs from itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from embedmigrate.models.canaries import CANARIES
from embedmigrate.models.witness import Array, Behaviour, Witness, WitnessRecord

Verdict = Literal["OK", "WARN", "DRIFT"]
Side = Literal["document", "query"]

ALARMING_DISTANCE = 1e-6
NOISE_FACTOR = 10
ALARMING_NORM = 1e-4
"""Relative change of a norm; a norm repeats itself to about 1e-7."""
PLATFORM_DISTANCE = 0.01
"""What the same digests may differ between two runtimes or processors: kernels that saturate
int8 sums differ by some 1e-3, another model by 0.1 and more."""
OTHER_MODEL_DISTANCE = 0.1
NEIGHBOURS = 10
_TIE = 1e-6


@dataclass(frozen=True)
class CanaryFigure:
    """How far one canary moved: cosine distance, and the present norm over the recorded one."""

    canary: str
    side: Side
    distance: float
    norm_ratio: float


@dataclass(frozen=True)
class Neighbourhood:
    """What the movement does to search, on the document canaries.

    ``overlap``: mean share of the ten nearest other canaries that are still among the ten nearest.
    ``first_changes``: share of canaries whose nearest other one is another now. ``finds_itself``:
    share of canaries whose present vector is nearest to its own recorded one, which is what a mix
    of old and new vectors needs.
    """

    overlap: float
    first_changes: float
    finds_itself: float


@dataclass(frozen=True)
class DriftReport:
    """The verdict on one model, with all the figures that it rests on."""

    verdict: Verdict
    reasons: tuple[str, ...]
    threshold: float
    """Cosine distance above which a canary has moved."""
    largest: float
    median: float
    noise: float
    dimensions: int
    recorded_dimensions: int
    moved: int
    """Canaries that moved, of either side."""
    figures: tuple[CanaryFigure, ...]
    neighbourhood: Neighbourhood | None
    known_platform: bool = True
    compared_with: str = ""
    """The platform of the record."""

    @property
    def holds(self) -> bool:
        return self.verdict != "DRIFT"

    def dump(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def summary(self) -> str:
        """One line of figures."""
        return "; ".join(self.reasons) or f"largest cosine distance {self.largest:.2g}"


def threshold_of(noise: float) -> float:
    """The cosine distance that is alarming for a model of this noise: the smallest change that
    its witness can detect."""
    return max(ALARMING_DISTANCE, NOISE_FACTOR * noise)


def judge(witness: Witness, seen: Behaviour, runtime: str, processor: str) -> DriftReport:
    """Compare what was seen here with the record of this platform.

    Without one, the nearest record of another platform counts: WARN as long as it is no further
    than kernels differ, since the digests of a local model are proven before it is loaded.
    """
    if (record := witness.of(runtime, processor)) is not None:
        return compare(record, seen)
    if not witness.records:
        return _without_record(seen)
    reports = [
        replace(compare(it, seen, least=PLATFORM_DISTANCE), known_platform=False)
        for it in witness.records
    ]
    nearest = min(reports, key=lambda report: (not report.holds, report.largest))
    if not nearest.holds:
        return nearest
    return replace(
        nearest,
        verdict="WARN",
        reasons=(
            f"no record of {runtime} on {processor} yet; largest cosine distance "
            f"{nearest.largest:.2g} to the record of {nearest.compared_with}",
        ),
    )


def compare(record: WitnessRecord, seen: Behaviour, *, least: float = 0.0) -> DriftReport:
    """OK or DRIFT: what was seen against one record, both of all canaries.

    ``least`` raises the threshold, for records of another platform.
    """
    then = record.behaviour
    threshold = max(least, threshold_of(then.noise))
    if then.dimensions != seen.dimensions:
        return DriftReport(
            "DRIFT",
            (f"answers with {seen.dimensions} dimensions, recorded {then.dimensions}",),
            threshold,
            1.0,
            1.0,
            seen.noise,
            seen.dimensions,
            then.dimensions,
            2 * len(CANARIES),
            (),
            None,
            compared_with=record.place,
        )
    figures = figures_of(then, seen, range(len(CANARIES)))
    reasons = list(reasons_of(figures, threshold))
    if seen.refusal:
        reasons.append(seen.refusal)
    if seen.noise > max(threshold, ALARMING_DISTANCE):
        reasons.append(f"answers differ from themselves by {seen.noise:.2g}")
    distances = np.array([figure.distance for figure in figures])
    return DriftReport(
        "DRIFT" if reasons else "OK",
        tuple(reasons),
        threshold,
        float(distances.max()),
        float(np.median(distances)),
        seen.noise,
        seen.dimensions,
        then.dimensions,
        sum(_moved(figure, threshold) for figure in figures),
        figures,
        _neighbourhood(then.documents, seen.documents),
        compared_with=record.place,
    )


def figures_of(then: Behaviour, seen: Behaviour, places: Sequence[int]) -> tuple[CanaryFigure, ...]:
    """The figures of the canaries at ``places``; ``seen`` holds these alone, in this order.

    A side that was not asked, then or now, has no rows and no figures.
    """
    figures: list[CanaryFigure] = []
    sides: tuple[tuple[Side, Array, Array], ...] = (
        ("document", then.documents, seen.documents),
        ("query", then.queries, seen.queries),
    )
    for side, recorded, present in sides:
        if not len(recorded) or not len(present):
            continue
        chosen = recorded[list(places)]
        figures += (
            CanaryFigure(CANARIES[place].name, side, distance, ratio)
            for place, distance, ratio in zip(
                places, distances_of(chosen, present), norm_ratios(chosen, present), strict=True
            )
        )
    return tuple(figures)


def reasons_of(figures: Sequence[CanaryFigure], threshold: float) -> list[str]:
    """What is alarming about these figures, in words; empty when nothing is."""
    reasons = []
    for side in ("document", "query"):
        of_side = [figure for figure in figures if figure.side == side]
        far = [figure for figure in of_side if figure.distance > threshold]
        if far:
            worst = max(far, key=lambda figure: figure.distance)
            reasons.append(
                f"{side}s: {len(far)} of {len(of_side)} canaries moved by more than "
                f"{threshold:.2g}, {worst.canary} by {worst.distance:.2g}"
            )
        long = [figure for figure in of_side if abs(figure.norm_ratio - 1) > ALARMING_NORM]
        if long:
            worst = max(long, key=lambda figure: abs(figure.norm_ratio - 1))
            reasons.append(
                f"{side}s: {len(long)} of {len(of_side)} norms changed, that of {worst.canary} by "
                f"a factor of {worst.norm_ratio:.4g}"
            )
    return reasons


def distances_of(first: Array, second: Array) -> list[float]:
    """Cosine distances row by row; 0 between two zero vectors, 1 between zero and another."""
    a, b = _unit(first), _unit(second)
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    # Half the squared chord is the cosine distance, without the cancellation of 1 - cosine.
    distances = 0.5 * ((a - b) ** 2).sum(axis=1)
    one_zero = a.any(axis=1) != b.any(axis=1)
    return [float(it) for it in np.where(both_zero, 0.0, np.where(one_zero, 1.0, distances))]


def norm_ratios(first: Array, second: Array) -> list[float]:
    """Norms of ``second`` over those of ``first``, row by row; 1 between two zero vectors."""
    a = np.linalg.norm(first.astype(np.float64), axis=1)
    b = np.linalg.norm(second.astype(np.float64), axis=1)
    ratios = np.where(a == 0, np.where(b == 0, 1.0, np.inf), b / np.where(a == 0, 1, a))
    return [float(it) for it in ratios]


def _moved(figure: CanaryFigure, threshold: float) -> bool:
    return figure.distance > threshold or abs(figure.norm_ratio - 1) > ALARMING_NORM


def _neighbourhood(then: Array, now: Array) -> Neighbourhood:
    before, after = _unit(then), _unit(now)
    old, new = _nearest(before), _nearest(after)
    shared = [len(set(a) & set(b)) / NEIGHBOURS for a, b in zip(old, new, strict=True)]
    crossing = after @ before.T
    own = np.diagonal(crossing) >= crossing.max(axis=1) - _TIE  # some canaries are one text to it
    return Neighbourhood(
        overlap=float(np.mean(shared)),
        first_changes=float((old[:, 0] != new[:, 0]).mean()),
        finds_itself=float(own.mean()),
    )


def _nearest(unit: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    return np.argsort(-similarity, axis=1, kind="stable")[:, :NEIGHBOURS]


def _unit(vectors: Array) -> npt.NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(wide / np.where(norms == 0, 1, norms))


def _without_record(seen: Behaviour) -> DriftReport:
    return DriftReport(
        "WARN",
        ("nothing was recorded to compare with",),
        threshold_of(seen.noise),
        0.0,
        0.0,
        seen.noise,
        seen.dimensions,
        seen.dimensions,
        0,
        (),
        None,
        known_platform=False,
    )
