"""Adoption: is an index that somebody else made what it is said to be?

A uniform sample of its vectors is compared with what the model makes of their documents today. A
vector within the model's tolerance is **proven**. One that is not, but nearer to its own document
than different documents are to each other, is **stale**: its text was edited since. Everything
else is **foreign**, and so is what another known model explains; a single one refuses the index.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from embedmigrate.catalog import witnesses
from embedmigrate.embedders.base import NORM_TOLERANCE, Embedder, Vectors
from embedmigrate.engine.attributed import Assignment
from embedmigrate.engine.attribution import attribute
from embedmigrate.engine.audit import IDS_NAMED, tolerance_of
from embedmigrate.engine.candidates import Candidate
from embedmigrate.engine.job import Job
from embedmigrate.engine.statistics import sample_rows, sample_size, upper_bound
from embedmigrate.errors import (
    ConfigError,
    DigestMismatch,
    MetricMismatch,
    NotProven,
)
from embedmigrate.models import EmbeddingModel, Recipe
from embedmigrate.models.drift import ALARMING_NORM
from embedmigrate.models.index_spec import Metric
from embedmigrate.sources.base import Document, Source
from embedmigrate.stores.foreign import ForeignIndex

_TEXT = Recipe(text=("text",))
"""What a document's finished text is made of for attribution: itself."""


@dataclass(frozen=True)
class Proof:
    """What a sample showed. ``stale`` and ``hashes`` are by row of the foreign index."""

    population: int
    sampled: int
    proven: int
    stale: frozenset[int]
    hashes: Mapping[int, bytes]
    """Content hash of each document of the sample when its vector was compared with it."""
    tolerance: float
    largest: float
    confidence: float
    seed: int

    @property
    def bound(self) -> float:
        """Largest share of vectors that are not what the model makes of their documents."""
        if self.sampled == self.population:
            return len(self.stale) / max(self.sampled, 1)
        return upper_bound(self.sampled, self.confidence, len(self.stale))

    def dump(self) -> dict[str, Any]:
        return {
            "sample": self.sampled,
            "proven": self.proven,
            "stale": len(self.stale),
            "bound": self.bound,
            "confidence": self.confidence,
            "tolerance": self.tolerance,
            "largest_distance": self.largest,
            "seed": self.seed,
        }


def metric_of(foreign: ForeignIndex, sample: Vectors, configured: Metric) -> Metric:
    """The metric that the index has in our words; ``MetricMismatch`` unless it is ``configured``.

    FAISS has no word for cosine: it is the inner product of unit vectors.
    """
    norms = np.linalg.norm(sample.astype(np.float64), axis=1)
    unit = bool((np.abs(norms - 1) <= NORM_TOLERANCE).all())
    possible: tuple[Metric, ...] = (foreign.metric,)
    if foreign.metric == "inner_product" and unit:
        possible = ("cosine", "inner_product")
    if configured in possible:
        return configured
    raise MetricMismatch(
        "the index does not compare by the metric that is configured",
        found=f"{foreign.metric}, norms of sampled vectors from {norms.min():.4g} to "
        f"{norms.max():.4g}",
        expected=f"{configured}" + (" (unit vectors)" if configured == "cosine" else ""),
        next_step=f'set metric = "{possible[0]}" in the store of the collection, if that is meant',
    )


def prove(
    job: Job,
    foreign: ForeignIndex,
    source: Source,
    rows: npt.NDArray[np.int64],
    model: EmbeddingModel,
    others: Callable[[], Iterable[EmbeddingModel]],
    *,
    share: float,
    confidence: float,
    max_stale: float,
) -> Proof:
    """Compare a sample of ``rows`` with what ``model`` makes of their documents now.

    ``others`` are models that may have made what it has not. Raises ``NotProven``, naming up to
    twenty documents, for a foreign vector, or when more than ``max_stale`` of the sample is stale.
    """
    seed = random.SystemRandom().randrange(2**31)
    chosen = rows[sample_rows(len(rows), sample_size(share, confidence), seed)]
    documents = source.get([foreign.ids[row] for row in chosen])
    documents = {id: it for id, it in documents.items() if it.text}
    # one that was deleted a moment ago proves nothing
    chosen = np.array([row for row in chosen if foreign.ids[row] in documents], dtype=np.int64)
    ids = [foreign.ids[row] for row in chosen]
    vectors = foreign.vectors(chosen)
    job.reporter.phase(job.collection, "proving a sample", len(ids))
    embedder = job.guard(model).embedder
    found = _attributed(job, vectors, documents, ids, embedder)
    unproven = [number for number, it in enumerate(found) if it.kind != "proven"]
    if unproven:
        _name_makers(job, vectors, documents, ids, unproven, others, found)
    _refuse_foreign(model, found)
    _refuse_rescaled(model, found)
    stale = frozenset(int(chosen[it]) for it in unproven)
    if len(stale) > max_stale * len(ids):
        raise _too_stale(model, [ids[it] for it in unproven], len(ids), max_stale)
    return Proof(
        population=len(rows),
        sampled=len(ids),
        proven=len(ids) - len(stale),
        stale=stale,
        hashes={int(row): documents[foreign.ids[row]].content_hash for row in chosen},
        tolerance=_tolerance(job, model),
        largest=max((it.distance or 0.0 for it in found if it.kind == "proven"), default=0.0),
        confidence=confidence,
        seed=seed,
    )


def _attributed(
    job: Job,
    vectors: Vectors,
    documents: Mapping[str, Document],
    ids: Sequence[str],
    embedder: Embedder,
) -> list[Assignment]:
    """What attribution says of vectors when one model is the only candidate."""
    tolerance = _tolerance(job, embedder.model)
    candidate = Candidate(embedder.model.reference, embedder, _TEXT)
    attribution = attribute(
        vectors,
        [{"text": documents[id].text} for id in ids],
        [candidate],
        ids=ids,
        tolerance=lambda _: tolerance,
        norm_tolerance=max(ALARMING_NORM, tolerance),
        stop=job.stop,
    )
    return list(attribution.assignments)


def _tolerance(job: Job, model: EmbeddingModel) -> float:
    with job.catalog.read() as connection:
        return tolerance_of(witnesses.known(connection, model, job.pinned_witness(model)))


def _name_makers(
    job: Job,
    vectors: Vectors,
    documents: Mapping[str, Document],
    ids: Sequence[str],
    unproven: Sequence[int],
    others: Callable[[], Iterable[EmbeddingModel]],
    found: list[Assignment],
) -> None:
    """Replace in ``found`` what another model explains: it is foreign, however near it looks."""
    left = list(unproven)
    for other in others():
        if not left:
            return
        try:
            embedder = job.embedder(other)  # whatever it explains, the index is refused
            again = _attributed(job, vectors[left], documents, [ids[it] for it in left], embedder)
        except (ConfigError, DigestMismatch) as error:
            job.reporter.note(f"{other.reference} was not asked: {error.message}")
            continue
        for number, assignment in zip(left, again, strict=True):
            if assignment.kind == "proven":
                found[number] = replace(assignment, kind="foreign")
        left = [
            it for it, assignment in zip(left, again, strict=True) if assignment.kind != "proven"
        ]


def _refuse_foreign(model: EmbeddingModel, found: Sequence[Assignment]) -> None:
    foreign = [it for it in found if it.kind in ("foreign", "broken")]
    if not foreign:
        return
    makers = Counter(
        it.candidate
        for it in foreign
        if it.candidate is not None and it.candidate != model.reference
    )
    said = [f"{count} made by {maker}" for maker, count in makers.most_common()]
    raise NotProven(
        f"the index holds vectors that {model.reference} did not make",
        found=f"{len(foreign)} of {len(found)} sampled: {_named([it.id for it in foreign])}"
        + (f" ({', '.join(said)})" if said else ""),
        expected=f"vectors of {model.reference}, by the recipe that is configured",
        next_step="check --model and the recipe; to know what is in there: embedmigrate audit "
        "COLLECTION --attribute --faiss FILE --ids FILE; else embed the collection by a revision",
    )


def _refuse_rescaled(model: EmbeddingModel, found: Sequence[Assignment]) -> None:
    rescaled = [it for it in found if it.kind == "proven" and it.norm != "as made"]
    if rescaled:
        raise NotProven(
            f"the index holds vectors that point where {model.reference} points, of other lengths",
            found=f"{len(rescaled)} of {len(found)} sampled: {_named([it.id for it in rescaled])}",
            expected="vectors as the model makes them",
            next_step="where they were normalised before they were added, declare the model with "
            "normalize = true, pin it, and name that one",
        )


def _too_stale(
    model: EmbeddingModel, stale: Sequence[str], sampled: int, max_stale: float
) -> NotProven:
    return NotProven(
        f"more vectors than allowed are not what {model.reference} makes of their documents today",
        found=f"{len(stale)} of {sampled} sampled ({len(stale) / sampled:.1%}) are probably of "
        f"texts that were edited since: {_named(stale)}",
        expected=f"at most {max_stale:.1%}",
        next_step=f"add --max-stale {math.ceil(1000 * len(stale) / sampled) / 1000:g} to leave "
        "them for the migration, or embed the collection by a revision",
    )


def _named(ids: Sequence[str]) -> str:
    more = len(ids) - IDS_NAMED
    return ", ".join(map(repr, ids[:IDS_NAMED])) + (f" and {more} more" if more > 0 else "")
