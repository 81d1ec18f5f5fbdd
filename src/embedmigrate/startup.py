"""Start-up validation: is what is live what this application was built for?

Compares declared model, route, manifest and a sample of stamps, without a scan. Every way in which
two sides can differ has its own error (a ``ModelMismatch``) that names both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from embedmigrate.catalog.records import IndexRecord
from embedmigrate.embedders.base import Embedder
from embedmigrate.errors import (
    DimensionMismatch,
    DocumentPromptMismatch,
    MetricMismatch,
    MixedStamps,
    ModelMismatch,
    NameMismatch,
    NormalizationMismatch,
    ParametersMismatch,
    PoolingMismatch,
    QuantizationMismatch,
    QueryPromptMismatch,
    RevisionMismatch,
    TokenizationMismatch,
    TruncationMismatch,
    UnknownStamps,
    WeightsMismatch,
    WitnessMismatch,
)
from embedmigrate.models import EmbeddingModel
from embedmigrate.models.index_spec import Metric
from embedmigrate.stores.base import IndexManifest, IndexReader, by_fingerprint

STAMPS_SAMPLED = 1000
"""Stamps that are looked at when an index is opened: some of the newest, others at random."""

_BY_FIELD: Sequence[tuple[str, str, type[ModelMismatch]]] = (
    ("pooling", "pooling", PoolingMismatch),
    ("normalize", "normalisation", NormalizationMismatch),
    ("max_tokens", "truncation", TruncationMismatch),
    ("special_tokens", "use of special tokens", TokenizationMismatch),
    ("document_prompt", "document prompt", DocumentPromptMismatch),
    ("quantization", "quantisation", QuantizationMismatch),
    ("parameters", "request parameters", ParametersMismatch),
    ("witness", "witness", WitnessMismatch),
    ("query_prompt", "query prompt", QueryPromptMismatch),
)


@dataclass(frozen=True)
class Expectation:
    """What an application says that it serves."""

    collection: str
    accepted: Sequence[EmbeddingModel]
    """The declared model, then those that it accepts as well."""
    metric: Metric

    @property
    def declared(self) -> EmbeddingModel:
        return self.accepted[0]


def validate_route(
    expected: Expectation, live: IndexRecord, around: Sequence[IndexRecord]
) -> str | None:
    """Refuse a live index that the application was not built for.

    Accepted are the declared model, those accepted as well, and the other end of a transition: one
    of these in an index ``around`` the live one, which is its candidate or retained. Returns what
    there is to say when it is not the declared model that is live. Raises ``ModelMismatch``.
    """
    ends = [live, *around]
    accepted = [index for index in ends if is_one_of(index.model, expected.accepted)]
    if not accepted:
        raise mismatch(expected.collection, expected.declared, live.model)
    if not any(index.spec.metric == expected.metric for index in accepted):
        raise _refusal(
            MetricMismatch,
            expected.collection,
            "metric",
            (expected.declared, expected.metric),
            (live.model, live.spec.metric),
        )
    if is_one_of(live.model, [expected.declared]):
        return None
    served, declared = live.model, expected.declared
    if served.reference == declared.reference:
        return (
            f"{expected.collection} serves {served.reference} in index {live.name} with the query "
            f"prompt {served.query_prompt!r}; {declared.query_prompt!r} is what is configured"
        )
    return (
        f"{expected.collection} serves {served.reference} in index {live.name}; "
        f"{declared.reference} is what is configured"
    )


def is_one_of(model: EmbeddingModel, accepted: Sequence[EmbeddingModel]) -> bool:
    """Whether vectors and queries of ``model`` are those of one of these."""
    return any(
        (model.fingerprint, model.query_side) == (other.fingerprint, other.query_side)
        for other in accepted
    )


def mismatch(collection: str, declared: EmbeddingModel, live: EmbeddingModel) -> ModelMismatch:
    """The error for the first way in which two models differ, the gravest first."""
    return next(_differences(collection, declared, live))


def _differences(
    collection: str, declared: EmbeddingModel, live: EmbeddingModel
) -> Iterator[ModelMismatch]:
    def refusal(kind: type[ModelMismatch], what: str, here: object, there: object) -> ModelMismatch:
        return _refusal(kind, collection, what, (declared, here), (live, there))

    if declared.dimensions != live.dimensions:
        yield refusal(DimensionMismatch, "dimension", declared.dimensions, live.dimensions)
    if declared.artifacts != live.artifacts or declared.vendor != live.vendor:
        if declared.name != live.name or declared.vendor != live.vendor:
            yield refusal(NameMismatch, "model", declared.name, live.name)
        if declared.revision != live.revision:
            yield refusal(RevisionMismatch, "revision", declared.revision, live.revision)
        for role in sorted({*declared.artifacts, *live.artifacts}):
            here, there = declared.artifacts.get(role), live.artifacts.get(role)
            if here != there:
                yield refusal(WeightsMismatch, f"digest of {role}", here, there)
    elif not declared.artifacts and declared.name != live.name:
        yield refusal(NameMismatch, "model", declared.name, live.name)
    elif not declared.artifacts and declared.revision != live.revision:
        yield refusal(RevisionMismatch, "revision", declared.revision, live.revision)
    for field, what, kind in _BY_FIELD:
        here, there = getattr(declared, field), getattr(live, field)
        if here != there:
            yield refusal(kind, what, here, there)
    yield refusal(ModelMismatch, "space", declared.fingerprint, live.fingerprint)


def _refusal(
    kind: type[ModelMismatch],
    collection: str,
    what: str,
    here: tuple[EmbeddingModel, object],
    there: tuple[EmbeddingModel, object],
) -> ModelMismatch:
    def side(it: tuple[EmbeddingModel, object]) -> str:
        value = dict(it[1]) if isinstance(it[1], Mapping) else it[1]
        return f"{what} {value!r} of {it[0].reference}"

    return kind(
        f"{collection!r} serves another {what} than this application is configured for",
        found=f"live: {side(there)}",
        expected=f"configured: {side(here)}",
        next_step=f"embedmigrate revision --collection {collection} and embedmigrate upgrade, if "
        "it is to move; else configure what is live, or name it in `also_accept`",
    )


def validate_index(
    index: IndexRecord, reader: IndexReader, space: Collection[str], known: Collection[str]
) -> None:
    """Refuse an index that does not hold what the catalog says, by its manifest and its stamps.

    ``space`` are the fingerprints that are proven equal to the index's, itself included; ``known``
    those of every model that this catalog has met.
    """
    manifest = reader.manifest
    if manifest.fingerprint not in space:
        raise ModelMismatch(
            f"index {index.container} does not hold what the catalog says",
            found=f"manifest: {manifest.fingerprint}",
            expected=f"catalog: {index.model.reference}",
            next_step=f"embedmigrate audit {index.collection}",
        )
    _validate_manifest(index, manifest)
    stamps = by_fingerprint(reader.stamps(STAMPS_SAMPLED))
    foreign = {
        fingerprint: count for fingerprint, count in stamps.items() if fingerprint not in space
    }
    if not foreign:
        return
    unknown = {fingerprint for fingerprint in foreign if fingerprint not in known}
    counted = ", ".join(f"{count} of {fp or 'no model'}" for fp, count in sorted(foreign.items()))
    raise (UnknownStamps if unknown else MixedStamps)(
        f"index {index.container} holds vectors of "
        + ("models that nobody knows" if unknown else "more than one space"),
        found=f"{counted}, among {sum(stamps.values())} sampled",
        expected=f"vectors of {index.model.reference} alone",
        next_step=f"embedmigrate audit {index.collection}; then a revision rebuilds the index",
    )


def probe(reader: IndexReader, embedder: Embedder) -> None:
    """Embed a query and read a stored vector: raises what a search would, and scans nothing."""
    embedder.embed_queries(["is anybody there?"])
    next(reader.blocks(1), None)


def _validate_manifest(index: IndexRecord, manifest: IndexManifest) -> None:
    model = index.model
    for kind, what, here, there in (
        (DimensionMismatch, "dimension", model.dimensions, manifest.dimensions),
        (NormalizationMismatch, "normalisation", model.normalize, manifest.normalized),
        (MetricMismatch, "metric", index.spec.metric, manifest.metric),
    ):
        if here != there:
            raise kind(
                f"index {index.container} has another {what} than the catalog says",
                found=f"manifest: {what} {there!r}",
                expected=f"catalog: {what} {here!r} of {model.reference}",
                next_step=f"embedmigrate audit {index.collection}",
            )
