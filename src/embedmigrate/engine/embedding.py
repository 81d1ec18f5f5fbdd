"""Turning the passages of one batch of documents into vectors, each distinct text once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from embedmigrate.embedders.base import Embedder, Vectors, ask_documents
from embedmigrate.engine.isolation import Isolation, Probe
from embedmigrate.engine.job import StopSignal
from embedmigrate.engine.ordering import check_order
from embedmigrate.sources.base import Document, Passage

CALL_SIZE = 64
"""Texts a model call: between two calls the runner can stop, and a call takes seconds at most."""

FindVectors = Callable[[Sequence[bytes]], Mapping[bytes, Vectors]]


@dataclass(frozen=True)
class Failure:
    """A document that the model cannot embed, and the first chunk that it fails on."""

    document: Document
    reason: str
    chunk: int = 0


@dataclass(frozen=True)
class EmbeddedBatch:
    """Vectors ``(len(passages), d)`` of the documents that are whole, and what they cost."""

    documents: list[Document]
    vectors: Vectors
    embedded: int
    """Texts that the model was asked for, those that were asked for again on a doubt not among
    them."""
    failed: list[Failure] = field(default_factory=list)

    @property
    def passages(self) -> list[Passage]:
        """Those of ``documents``, in their order."""
        return [passage for document in self.documents for passage in document.passages]


def embed_documents(
    documents: Sequence[Document],
    embedder: Embedder,
    find_vectors: FindVectors,
    stop: StopSignal,
    *,
    probe: Probe | None = None,
    believe: bool = False,
) -> EmbeddedBatch:
    """One vector a passage; a document that lacks one has none at all.

    Texts that ``find_vectors`` knows, by content hash, cost nothing. The rest goes to the model
    sorted by length, so that a call holds texts of like length; every answer is checked before it
    is used (I6). ``probe`` is for what is going to be stored, and tells whether the model is
    itself: one text a call is asked for again then, to see that vectors are in order, and texts
    that the model cannot embed are set apart; ``believe`` blames them whatever their number. Raises
    what is wrong with the model.
    """
    texts = {
        passage.content_hash: passage.text
        for document in documents
        for passage in document.passages
    }
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
    alive: list[Document] = []
    failed: list[Failure] = []
    for document in documents:
        reasons = [isolation.failed.get(passage.content_hash) for passage in document.passages]
        first = next(((reason, chunk) for chunk, reason in enumerate(reasons) if reason), None)
        if first is None:
            alive.append(document)
        else:
            failed.append(Failure(document, *first))
    keys = [passage.content_hash for document in alive for passage in document.passages]
    vectors = np.empty((len(keys), embedder.model.dimensions), dtype=np.float32)
    for position, key in enumerate(keys):
        vectors[position] = known[key]
    return EmbeddedBatch(alive, vectors, isolation.asked, failed)


def _ask(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """The model's answer, checked."""
    return ask_documents(embedder, texts)
