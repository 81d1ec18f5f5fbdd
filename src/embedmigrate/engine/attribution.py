"""Attribution: which model made each vector, of those that may have?

The texts of sampled vectors are embedded again by each candidate (a model, a recipe, a prompt).
A vector is **proven** to be of a candidate when it lies within that candidate's tolerance of what
the candidate makes of its document today. Everything else stays unproven:

- **probably stale**: nearer to what some candidate makes of its own document than different
  documents are to each other there (below the 1st percentile of the sample's own distances). A
  text that was edited since looks like that; so does a close relative of the candidate's model, a
  fine-tuned or a quantised one. It is a hint.
- **foreign**: not even that. Another model made it, or the text has become quite another one.
- **orphan**: the source has no such document any more, so that there is no text to embed.
- **broken**: zero, or not finite. No model made it.

An edit that the model does not see (capitals, where it knows none; words beyond its truncation)
leaves a vector as it should be, and proven. Directions are compared, so that an index that
normalised its vectors is recognised; what became of the norms is said apart. Ids are reported,
texts never.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from embedmigrate.embedders.base import NORM_TOLERANCE, Vectors
from embedmigrate.engine.attributed import Assignment, Attribution, Norm, summarise
from embedmigrate.engine.candidates import Candidate, Embedded, Record
from embedmigrate.engine.job import StopSignal
from embedmigrate.sources.base import content_hash
from embedmigrate.sources.values import UnusableRecord

PILOT = 48
"""Vectors on which every candidate is tried."""
UNRELATED_PERCENTILE = 1.0
"""Of the distances between different documents of the sample: nearer than this is no accident."""
_TIE = 1e-6
"""Cosine distances that differ by less are equal: the rounding of float32."""
_LEAST_DOCUMENTS, _MOST_DOCUMENTS = 10, 512
"""Documents that must be, and at most are, compared with each other."""

_Matrix = npt.NDArray[np.float64]
_Rows = npt.NDArray[np.int64]


def attribute(
    vectors: Vectors,
    records: Sequence[Record | None],
    candidates: Sequence[Candidate],
    *,
    ids: Sequence[str],
    tolerance: Callable[[Candidate], float],
    norm_tolerance: float = NORM_TOLERANCE,
    confidence: float = 0.95,
    population: int | None = None,
    seed: int = 0,
    stop: StopSignal | None = None,
) -> Attribution:
    """Say of each of ``vectors (n, dimensions)`` which candidate made it.

    ``records`` and ``ids`` belong to them row by row; a record is None when the source has no such
    document. ``tolerance`` is the cosine distance up to which a vector counts as made by a
    candidate: at least what the model differs from itself, and the loss of a lossy index.
    ``population`` is how many vectors these are a sample of; None: of many more.
    Candidates come in order of preference. One that makes the same texts in the same space as an
    earlier one is merged into it; one of other dimensions is ruled out.

    All candidates are tried on a pilot of 48 vectors, those that explain some (and the best of
    each model) on all, and the rest on what is still unexplained. Raises ``Refused`` for a record
    that a source could not use, ``BadAnswer`` for a model that fails, ``Stopped`` when ``stop``
    is set.
    """
    if not len(vectors) == len(records) == len(ids):
        raise ValueError(f"{len(vectors)} vectors, {len(records)} records and {len(ids)} ids")
    if len({it.label for it in candidates}) < len(candidates):
        raise ValueError("two candidates have the same label")
    fitting = [it for it in candidates if it.model.dimensions == vectors.shape[1]]
    trial = _Trial(vectors, records, ids, fitting, tolerance, stop)
    trial.run(seed)
    return summarise(
        list(_assignments(trial, norm_tolerance)),
        trial.candidates,
        confidence=confidence,
        population=population,
        merged=trial.merged,
        ruled_out=[it.label for it in candidates if it not in fitting],
        embeddings=trial.embedded.embeddings,
    )


class _Trial:
    """Which distances were measured, and what they explain. NaN: not measured, or no text."""

    def __init__(
        self,
        vectors: Vectors,
        records: Sequence[Record | None],
        ids: Sequence[str],
        candidates: Sequence[Candidate],
        tolerance: Callable[[Candidate], float],
        stop: StopSignal | None,
    ) -> None:
        self.ids, self.records = ids, records
        stored = vectors.astype(np.float64)
        self.norms = np.linalg.norm(stored, axis=1)
        self.sound = np.isfinite(self.norms) & (self.norms > 0)
        there = np.array([record is not None for record in records], dtype=bool)
        self.rows: _Rows = np.flatnonzero(self.sound & there)
        """The vectors that can be examined."""
        self.directions = np.zeros_like(stored)
        self.directions[self.sound] = stored[self.sound] / self.norms[self.sound, np.newaxis]
        self.candidates, self.merged = self._distinct(candidates)
        self.tolerances = np.array([tolerance(it) for it in self.candidates])
        self.embedded = Embedded(stop)
        shape = (len(vectors), len(self.candidates))
        self.distances: _Matrix = np.full(shape, np.nan)
        self.made_norms: _Matrix = np.full(shape, np.nan)
        self._tried = np.zeros(shape, dtype=bool)

    @property
    def explained(self) -> npt.NDArray[np.bool_]:
        """``(vectors, candidates)``: within the candidate's tolerance."""
        explained: npt.NDArray[np.bool_] = self.distances <= self.tolerances
        return explained

    def run(self, seed: int) -> None:
        """Measure what is needed, and no more."""
        everyone = range(len(self.candidates))
        chosen = random.Random(seed).sample(range(len(self.rows)), min(PILOT, len(self.rows)))
        for number in everyone:
            self._measure(number, self.rows[sorted(chosen)])
        kept = self._worth_trying()
        for number in kept:
            self._measure(number, self.rows)
        for number in everyone:
            self._measure(number, self._unexplained())

    def texts(self, number: int, rows: _Rows) -> list[str]:
        """What a candidate embeds for these rows."""
        return [self._text(self.candidates[number], row) for row in rows.tolist()]

    def _measure(self, number: int, rows: _Rows) -> None:
        rows = rows[~self._tried[rows, number]]
        if not len(rows):
            return
        self._tried[rows, number] = True
        candidate = self.candidates[number]
        made = self.embedded.vectors(candidate, self.texts(number, rows)).astype(np.float64)
        norms = np.linalg.norm(made, axis=1)
        cosines = np.einsum("ij,ij->i", made, self.directions[rows]) / norms
        self.distances[rows, number] = np.maximum(0.0, 1 - cosines)
        self.made_norms[rows, number] = norms

    def _unexplained(self) -> _Rows:
        explained = self.explained
        rows = [row for row in self.rows.tolist() if not explained[row].any()]
        return np.array(rows, dtype=np.int64)

    def _worth_trying(self) -> list[int]:
        """Of each model the candidates that explain something, else the nearest in the median."""
        explained = self.explained
        models: dict[str, list[int]] = {}
        for number, candidate in enumerate(self.candidates):
            models.setdefault(candidate.model.reference, []).append(number)
        kept: list[int] = []
        for numbers in models.values():
            kept += [it for it in numbers if explained[:, it].any()] or [
                min(numbers, key=self._median)
            ]
        return kept

    def _median(self, number: int) -> float:
        measured = self.distances[:, number]
        measured = measured[np.isfinite(measured)]
        return float(np.median(measured)) if len(measured) else np.inf

    def _distinct(self, candidates: Sequence[Candidate]) -> tuple[list[Candidate], dict[str, str]]:
        """The candidates that differ on these records; and which stands for each of the others."""
        first: dict[tuple[Any, ...], Candidate] = {}
        merged: dict[str, str] = {}
        for candidate in candidates:
            texts = (content_hash(self._text(candidate, row)) for row in self.rows.tolist())
            chosen = first.setdefault((candidate.space, *texts), candidate)
            if chosen is not candidate:
                merged[candidate.label] = chosen.label
        return list(first.values()), merged

    def _text(self, candidate: Candidate, row: int) -> str:
        record = self.records[row]
        assert record is not None
        try:
            return candidate.text(record)
        except UnusableRecord as error:
            raise error.at(f"document {self.ids[row]!r}") from None


def _assignments(trial: _Trial, norm_tolerance: float) -> Iterator[Assignment]:
    explained = trial.explained
    popularity = _nearest_of(trial.distances, explained).sum(axis=0)
    spaces = np.array([candidate.space for candidate in trial.candidates])
    related = _Related(trial)
    examined = set(trial.rows.tolist())
    for row, id in enumerate(trial.ids):
        if row not in examined:
            yield Assignment(id, "orphan" if trial.sound[row] else "broken")
            continue
        distances = trial.distances[row]
        measured = np.isfinite(distances)
        if not explained[row].any():
            yield related.unproven(row, id)
            continue
        # Of those that are as near as the nearest, the one that explains most; then the first.
        nearest = _nearest_of(distances, explained[row])
        chosen = int(np.argmax(np.where(nearest, popularity, -1)))
        others = measured & (spaces != spaces[chosen])
        candidate = trial.candidates[chosen]
        yield Assignment(
            id,
            "proven",
            candidate.label,
            float(distances[chosen]),
            float(distances[others].min() - distances[chosen]) if others.any() else None,
            _norm(trial.norms[row], trial.made_norms[row, chosen], norm_tolerance),
            tuple(trial.candidates[it].label for it in np.flatnonzero(others & explained[row])),
        )


def _nearest_of(distances: _Matrix, among: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which of ``among`` are as near as the nearest of them, along the last axis."""
    allowed = np.where(among, distances, np.inf)
    nearest = allowed <= allowed.min(axis=-1, keepdims=True, initial=np.inf) + _TIE
    both: npt.NDArray[np.bool_] = nearest & among
    return both


def _norm(stored: float, made: float, tolerance: float) -> Norm:
    if abs(stored - made) <= tolerance * made:
        return "as made"
    return "normalised since" if abs(stored - 1) <= tolerance else "neither"


class _Related:
    """Whether an unproven vector has at least something to do with its document."""

    def __init__(self, trial: _Trial) -> None:
        self._trial = trial
        self._limits: dict[int, float] = {}

    def unproven(self, row: int, id: str) -> Assignment:
        distances = self._trial.distances[row]
        order = np.argsort(distances)[: int(np.isfinite(distances).sum())].tolist()
        related = next((it for it in order if distances[it] < self._limit(it)), None)
        if related is not None:
            return self._assigned(id, "probably stale", row, related)
        return self._assigned(id, "foreign", row, order[0] if order else None)

    def _assigned(self, id: str, kind: Any, row: int, number: int | None) -> Assignment:
        if number is None:
            return Assignment(id, kind)
        distance = float(self._trial.distances[row, number])
        return Assignment(id, kind, self._trial.candidates[number].label, distance)

    def _limit(self, number: int) -> float:
        """Below this a candidate puts hardly any two different documents of the sample."""
        if number not in self._limits:
            self._limits[number] = self._measured_limit(number)
        return self._limits[number]

    def _measured_limit(self, number: int) -> float:
        trial = self._trial
        measured: _Rows = np.flatnonzero(np.isfinite(trial.distances[:, number]))
        texts = list(dict.fromkeys(trial.texts(number, measured)))[:_MOST_DOCUMENTS]
        if len(texts) < _LEAST_DOCUMENTS:
            return 0.0
        made = trial.embedded.vectors(trial.candidates[number], texts).astype(np.float64)
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        between = 1 - (made @ made.T)[np.triu_indices(len(made), 1)]
        return float(np.percentile(between, UNRELATED_PERCENTILE))
