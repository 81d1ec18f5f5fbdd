"""Turning the texts of one batch into vectors, each distinct text once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from embedmigrate.embedders.base import Embedder, Vectors, ask_documents
from embedmigrate.engine.isolation import Isolation, Probe
from embedmigrate.engine.job import StopSignal
from embedmigrate.engine.ordering import check_order
from embedmigrate.sources.base import Document

CALL_SIZE = 64
"""Texts a model call: between two calls the runner can stop, and a call takes seconds at most."""

FindVectors = Callable[[Sequence[bytes]], Mapping[bytes, Vectors]]


@dataclass(frozen=True)
class Failure:
    """A document that the model cannot embed."""

    document: Document
    reason: str


@dataclass(frozen=True)
class EmbeddedBatch:
    """Vectors ``(len(documents), d)`` of the documents that have one, and what they cost."""

    documents: list[Document]
    vectors: Vectors
    embedded: int
    """Texts that the model was asked for, those that were asked for again on a doubt not among
    them."""
    failed: list[Failure] = field(default_factory=list)


def embed_documents(
    documents: Sequence[Document],
    embedder: Embedder,
    find_vectors: FindVectors,
    stop: StopSignal,
    *,
    probe: Probe | None = None,
    believe: bool = False,
) -> EmbeddedBatch:
    """One vector a document. Texts that ``find_vectors`` knows, by content hash, cost nothing.

    The rest goes to the model sorted by length, so that a call holds texts of like length; every
    answer is checked before it is used (I6). ``probe`` is for what is going to be stored, and tells
    whether the model is itself: one text a call is asked for again then, to see that vectors are in
    order, and texts that the model cannot embed are set apart; ``believe`` blames them whatever
    their number. Raises what is wrong with the model.
    """
    texts = {document.content_hash: document.text for document in documents}
    known = dict(find_vectors(list(texts)))
    missing = sorted((key for key in texts if key not in known), key=lambda key: len(texts[key]))

    def ask(keys: Sequence[bytes]) -> Vectors:
        stop.pace(len(keys))
        return _ask(embedder, [texts[key] for key in keys])

    isolation = Isolation(ask, missing, probe, believe=believe)
    for start in range(0, len(missing), CALL_SIZE):
        isolation.solve(missing[start : start + CALL_SIZE])
    if probe is not None:
        check_order(embedder.model, ask, isolation.calls, isolation.vectors, CALL_SIZE)
    known.update(isolation.vectors)
    alive = [document for document in documents if document.content_hash in known]
    vectors = np.empty((len(alive), embedder.model.dimensions), dtype=np.float32)
    for position, document in enumerate(alive):
        vectors[position] = known[document.content_hash]
    return EmbeddedBatch(
        alive,
        vectors,
        isolation.asked,
        [
            Failure(document, isolation.failed[document.content_hash])
            for document in documents
            if document.content_hash in isolation.failed
        ],
    )


def _ask(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """The model's answer, checked."""
    return ask_documents(embedder, texts)
