"""Which model made the vectors of unknown origin? ``audit --attribute``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from embedmigrate import resolve
from embedmigrate.command.project import Project
from embedmigrate.config import CollectionSettings, Settings
from embedmigrate.embedders.base import Embedder, Vectors
from embedmigrate.engine.attributed import Attribution
from embedmigrate.engine.attribution import attribute as attribute_vectors
from embedmigrate.engine.audit import IDS_NAMED, tolerance_of
from embedmigrate.engine.candidates import (
    JOINERS,
    Candidate,
    Record,
    candidates_of,
    common_recipes,
)
from embedmigrate.engine.guard import Guard
from embedmigrate.engine.job import Reporter, Silent, StopSignal
from embedmigrate.engine.sampling import Sample
from embedmigrate.engine.statistics import sample_rows, sample_size
from embedmigrate.errors import Refused, UsageError
from embedmigrate.models import Recipe
from embedmigrate.models.pin_file import read_pins

LOSSY_TOLERANCE = 0.02
"""What product and scalar quantisers lose of a direction, for indexes that keep no vectors."""
_PAGE = 256


@dataclass(frozen=True)
class _Stored:
    """Sampled vectors, with the documents that they are said to be of."""

    where: str
    ids: Sequence[str]
    vectors: Vectors
    population: int
    lossy: bool = False


def attribute(
    settings: Settings,
    collection: str,
    *,
    models: Sequence[str] = (),
    index: str | None = None,
    foreign: tuple[Path, Path] | None = None,
    confidence: float = 0.99,
    share: float = 0.01,
    seed: int | None = None,
    reporter: Reporter | None = None,
    stop: StopSignal | None = None,
) -> dict[str, Any]:
    """Say which of ``models`` (by default every pinned one) made the vectors of ``collection``.

    The vectors are those of its live index, of ``index``, or of a ``foreign`` FAISS file with its
    id list; the sample is as large as it takes to meet a part of ``share`` with ``confidence``.
    Each model is tried with the common recipes over the collection's text fields. Needs no catalog
    for a foreign file. The result's ``clean`` is True when all sampled vectors are proven to be of
    the configured model and recipe.
    """
    configured = settings.collection(collection)
    reporter, size = reporter or Silent(), sample_size(share, confidence)
    fields = (*configured.source.text, *configured.source.metadata)
    recipes = _recipes(configured)
    stored = (
        _of_foreign_file(foreign, size, seed)
        if foreign is not None
        else _of_index(settings, collection, index, size, seed)
    )
    with ExitStack() as resources:
        candidates: list[Candidate] = []
        tolerances: dict[str, float] = {}
        for name in _candidate_models(settings, models, stored.vectors.shape[1]):
            reporter.note(f"loading {name}")
            embedder, tolerance = resources.enter_context(_itself(settings, name, reporter))
            candidates += candidates_of(name, embedder, recipes)
            tolerances[name] = max(tolerance, LOSSY_TOLERANCE if stored.lossy else 0.0)
        reporter.phase(collection, f"attributing {len(stored.ids)} of {stored.population} vectors")
        found = attribute_vectors(
            stored.vectors,
            _records(settings, collection, fields, stored.ids),
            candidates,
            ids=stored.ids,
            tolerance=lambda candidate: tolerances[candidate.label.partition(":")[0]],
            confidence=confidence,
            population=stored.population,
            seed=seed or 0,
            stop=stop,
        )
    expected = resolve.pinned(settings, configured.model).fingerprint
    findings = list(_findings(found, expected, _label(configured.model, recipes[0])))
    entry = {
        "collection": collection,
        "index": stored.where,
        "vectors": stored.population,
        "findings": findings,
        **_dump(found),
    }
    return {"schema": 1, "clean": not findings, "collections": [entry]}


def _recipes(configured: CollectionSettings) -> list[Recipe]:
    """The configured one, what is common over its fields, and each metadata field before these."""
    text, joiners = configured.source.text, dict.fromkeys((configured.joiner, *JOINERS))
    recipes = common_recipes(text, list(joiners))
    recipes += (
        Recipe(text=(field, *text), joiner=joiner)
        for field in configured.source.metadata
        if field not in text
        for joiner in joiners
    )
    return recipes


def _label(model: str, recipe: Recipe) -> str:
    return f"{model}: {' + '.join(recipe.text)}"


def _candidate_models(settings: Settings, models: Sequence[str], dimensions: int) -> list[str]:
    """The models to try: those that are named, else every pinned one of the right dimension."""
    for name in models:
        settings.model(name)
    if models:
        return list(dict.fromkeys(models))
    fitting = [
        name
        for name in settings.models
        if (pins := read_pins(settings.pins, name)) and pins[-1].model.dimensions == dimensions
    ]
    if not fitting:
        raise UsageError(
            f"no pinned model makes vectors of {dimensions} dimensions",
            found=", ".join(settings.models) or "no model",
            expected="at least one candidate",
            next_step="declare the models that may have made them, and embedmigrate pin each",
        )
    return fitting


@contextmanager
def _itself(settings: Settings, name: str, reporter: Reporter) -> Iterator[tuple[Embedder, float]]:
    """A candidate's embedder, found to be itself, and its tolerance."""
    pin = resolve.pin_of(settings, name)
    with closing(resolve.load_embedder(settings, pin.model)) as embedder:
        Guard(embedder, pin.witness, lambda record: None, reporter.note).open()
        yield embedder, tolerance_of(pin.witness)


def _of_foreign_file(foreign: tuple[Path, Path], size: int, seed: int | None) -> _Stored:
    from embedmigrate.stores.faiss.external import ExternalFaiss

    with closing(ExternalFaiss.open(*foreign)) as file:
        rows = sample_rows(len(file), size, seed or 0)
        return _Stored(
            str(foreign[0]),
            [file.ids[row] for row in rows],
            file.vectors(rows),
            len(file),
            file.lossy,
        )


def _of_index(
    settings: Settings, collection: str, index: str | None, size: int, seed: int | None
) -> _Stored:
    with Project(settings) as project:
        record = project.index_of(collection, index)
        if record.spec.recipe.chunker is not None:
            raise Refused(
                "the vectors of chunks are not attributed",
                found=f"index {record.name}, of documents that are cut",
                expected="one vector a document",
                next_step=f"embedmigrate audit {collection}, which proves them by their stamps",
            )
        with closing(project.job(collection).store.reader(record.container)) as reader:
            sample = Sample(size, seed)
            sample.read(reader.states())
            keys = [(state.id, state.chunk) for state in sample.states]
            return _Stored(record.name, [id for id, _ in keys], reader.vectors(keys), sample.seen)


def _records(
    settings: Settings, collection: str, fields: Sequence[str], ids: Sequence[str]
) -> list[Record | None]:
    """The text fields of these documents; None where the source has no such document."""
    records: dict[str, dict[str, str]] = {}
    for field in fields:
        with closing(settings.open_source(collection, Recipe(text=(field,)))) as source:
            source.prepare()
            for start in range(0, len(ids), _PAGE):
                for id, document in source.get(ids[start : start + _PAGE]).items():
                    records.setdefault(id, {})[field] = document.text
    return [records.get(id) for id in ids]


def _findings(found: Attribution, expected: str, configured: str) -> Iterator[str]:
    for kind, proportion in found.kinds.items():
        if kind != "proven" and proportion.vectors:
            yield f"{proportion.vectors} of {found.sampled} vectors are not proven: {kind}"
    if found.is_mix:
        spaces = len({made.space for made in found.made})
        yield f"the vectors are a mix of {spaces} spaces"
    for made in found.made:
        if made.space != expected:
            yield f"{made.proportion.vectors} vectors were made by {made.candidate}"
        elif made.candidate != configured:
            yield (
                f"{made.proportion.vectors} vectors were made with another recipe than is "
                f"configured: {made.candidate}"
            )
    if found.ambiguous:
        yield f"{found.ambiguous} vectors are explained by several spaces"


def _dump(found: Attribution) -> dict[str, Any]:
    unproven = [it for it in found.assignments if it.kind != "proven"]
    return {
        "sampled": found.sampled,
        "confidence": found.confidence,
        "kinds": {kind: asdict(it) for kind, it in found.kinds.items()},
        "made": [{**asdict(it), "norms": _plain(it.norms)} for it in found.made],
        "is_mix": found.is_mix,
        "smallest_margin": found.smallest_margin,
        "ambiguous": found.ambiguous,
        "embeddings": found.embeddings,
        "same_texts": dict(found.merged),
        "ruled_out": list(found.ruled_out),
        "unproven": [asdict(it) for it in unproven[:IDS_NAMED]],
    }


def _plain(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in mapping.items()}
