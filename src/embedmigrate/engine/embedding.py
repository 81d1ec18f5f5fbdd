"""Turning the texts of one batch into vectors, each distinct text once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from embedmigrate.embedders.base import Embedder, Vectors, checked
from embedmigrate.engine.job import StopSignal
from embedmigrate.errors import BadAnswer, EmbedMigrateError
from embedmigrate.models import EmbeddingModel
from embedmigrate.sources.base import Document

CALL_SIZE = 64
"""Texts a model call: between two calls the runner can stop, and a call takes seconds at most."""

FindVectors = Callable[[Sequence[bytes]], Mapping[bytes, Vectors]]


class EmbeddedBatch(NamedTuple):
    """Vectors ``(len(documents), d)`` of the documents, and what they cost."""

    vectors: Vectors
    embedded: int
    """Texts that the model was asked for."""


def embed_documents(
    documents: Sequence[Document], embedder: Embedder, find_vectors: FindVectors, stop: StopSignal
) -> EmbeddedBatch:
    """One vector a document. Texts that ``find_vectors`` knows, by content hash, cost nothing.

    The rest goes to the model sorted by length, so that a call holds texts of like length; every
    answer is checked before it is used (I6).
    """
    texts = {document.content_hash: document.text for document in documents}
    known = dict(find_vectors(list(texts)))
    missing = sorted((key for key in texts if key not in known), key=lambda key: len(texts[key]))
    for start in range(0, len(missing), CALL_SIZE):
        keys = missing[start : start + CALL_SIZE]
        stop.pace(len(keys))
        answer = _ask(embedder, [texts[key] for key in keys])
        known.update(zip(keys, checked(answer, len(keys), embedder.model), strict=True))
    vectors = np.empty((len(documents), embedder.model.dimensions), dtype=np.float32)
    for position, document in enumerate(documents):
        vectors[position] = known[document.content_hash]
    return EmbeddedBatch(vectors, len(missing))


def _ask(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """The model's answer."""
    with named_by_type(embedder.model, len(texts)):
        return embedder.embed_documents(texts)


@contextmanager
def named_by_type(model: EmbeddingModel, texts: int) -> Iterator[None]:
    """Name an exception of a runtime by its type: its message may hold a text (I21)."""
    try:
        yield
    except EmbedMigrateError:
        raise
    except Exception as error:
        raise BadAnswer(
            f"{model.reference} failed on a call of {texts} texts",
            found=type(error).__name__,
            expected="an answer",
            next_step="run the same command again; if it stays, try the model on its own",
        ) from error
