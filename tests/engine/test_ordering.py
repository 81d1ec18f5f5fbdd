"""Whether vectors are in the order of their texts is seen by asking for one text a call again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from embedmigrate.embedders.base import Vectors
from embedmigrate.embedders.hashing import HashingEmbedder
from embedmigrate.engine.embedding import CALL_SIZE, EmbeddedBatch, embed_documents
from embedmigrate.engine.job import StopSignal
from embedmigrate.errors import Inconsistent
from embedmigrate.sources.base import Document
from embedmigrate.testing.embedders import Kind, Misbehaving
from tests.engine.parts import HASHING

MODEL = HashingEmbedder.identify("hashing", HASHING, Path())


def embedder() -> HashingEmbedder:
    return HashingEmbedder.load(HASHING, MODEL, Path())


def embed(model: object, texts: Sequence[str]) -> EmbeddedBatch:
    documents = [Document.make(text, text, {}) for text in texts]
    return embed_documents(
        documents,
        model,  # type: ignore[arg-type]
        lambda _: {},
        StopSignal(),
        probe=lambda: None,
    )


def texts(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


@pytest.mark.parametrize("kind", ["swapped order", "all equal", "truncated", "other model"])
@pytest.mark.parametrize("count", [2, 6, CALL_SIZE, 3 * CALL_SIZE])
def test_a_call_that_is_answered_otherwise_than_its_texts_alone_is_seen(
    kind: Kind, count: int
) -> None:
    long = [f"a text that is longer than what is left of it, {text}" for text in texts(count)]
    with pytest.raises(Inconsistent):
        embed(Misbehaving(embedder(), kind, calls=1), long)


def test_texts_that_are_the_same_to_a_model_are_no_fault() -> None:
    class Blind(HashingEmbedder):
        """Sees the first letter alone."""

        def embed_documents(self, texts: Sequence[str]) -> Vectors:
            return super().embed_documents([text[:1] for text in texts])

    result = embed(Blind.load(HASHING, MODEL, Path()), texts(10))
    assert len(result.documents) == 10


def test_one_text_a_call_is_asked_for_again_all_of_a_batch_in_one_call() -> None:
    model = Misbehaving(embedder(), None)
    result = embed(model, texts(8 * CALL_SIZE))
    assert result.embedded == 8 * CALL_SIZE
    assert model.asked == 8 + 1


def test_a_call_of_one_text_has_no_order() -> None:
    model = Misbehaving(embedder(), None)
    embed(model, ["alone"])
    assert model.asked == 1


def test_how_often_a_swap_of_two_rows_is_seen_is_what_is_claimed() -> None:
    """Two rows of each of 16 calls: 1 - (1 - 2/64)^16 is 40 %."""

    class Swapping(HashingEmbedder):
        def embed_documents(self, texts: Sequence[str]) -> Vectors:
            vectors = super().embed_documents(texts)
            if len(texts) == CALL_SIZE:
                vectors[[10, 11]] = vectors[[11, 10]]
            return vectors

    model = Swapping.load(HASHING, MODEL, Path())
    seen = 0
    random.seed(16)
    for _ in range(40):
        try:
            embed(model, texts(16 * CALL_SIZE))
        except Inconsistent:
            seen += 1
    assert 9 <= seen <= 23, "16 are expected, 3 more or less"


def test_without_a_probe_nothing_is_asked_again() -> None:
    model = Misbehaving(embedder(), None)
    documents = [Document.make(text, text, {}) for text in texts(10)]
    result = embed_documents(documents, model, lambda _: {}, StopSignal())  # type: ignore[arg-type]
    assert model.asked == 1 and np.isfinite(result.vectors).all()
