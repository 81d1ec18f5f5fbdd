"""Real models of one dimension, a small real corpus, and embedders that remember."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from embedmigrate.embedders.base import Embedder, ModelConfig, Vectors
from embedmigrate.engine.candidates import Candidate
from embedmigrate.models import EmbeddingModel, Recipe

CORPUS = Path(__file__).parents[2] / "examples/data/corpus.jsonl"
DIMENSIONS = 256
TITLE_TEXT, TEXT = Recipe(text=("title", "text")), Recipe(text=("text",))

Records = dict[str, dict[str, str]]


def corpus(count: int) -> Records:
    """Real abstracts by id, cut to what a transformer embeds in a few milliseconds."""
    with CORPUS.open(encoding="utf-8") as file:
        read = [json.loads(line) for line, _ in zip(file, range(count), strict=False)]
    return {it["_id"]: {"title": it["title"], "text": it["text"][:140]} for it in read}


class Remembering:
    """An embedder that asks its model once for a text, and counts how often it is asked itself."""

    Config: ClassVar[type[ModelConfig]] = ModelConfig

    def __init__(self, embedder: Any) -> None:
        self._embedder = embedder
        self.model: EmbeddingModel = embedder.model
        self.runtime = getattr(embedder, "runtime", "")
        self.asked = 0
        self._known: dict[tuple[str, str], Vectors] = {}

    @classmethod
    def identify(cls, name: str, config: ModelConfig, root: Path) -> EmbeddingModel:
        raise NotImplementedError

    @classmethod
    def load(cls, config: ModelConfig, model: EmbeddingModel, root: Path) -> Self:
        raise NotImplementedError

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        return self._remembered("document", self._embedder.embed_documents, texts)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return self._remembered("query", self._embedder.embed_queries, texts)

    def embed_unprompted(self, texts: Sequence[str]) -> Vectors:
        return self._remembered("none", self._embedder.embed_unprompted, texts)

    def close(self) -> None:
        self._embedder.close()

    def _remembered(
        self, side: str, embed: Callable[[Sequence[str]], Vectors], texts: Sequence[str]
    ) -> Vectors:
        self.asked += len(texts)
        missing = [text for text in dict.fromkeys(texts) if (side, text) not in self._known]
        if missing:
            answer = embed(missing)
            self._known.update(zip([(side, it) for it in missing], answer, strict=True))
        return np.array([self._known[side, text] for text in texts])


def made_by(
    embedder: Embedder, records: Mapping[str, Mapping[str, str]], recipe: Recipe = TITLE_TEXT
) -> Vectors:
    """The vectors that somebody stored who used this model and recipe."""
    return embedder.embed_documents([recipe.make_text(record) for record in records.values()])


def close_enough(candidate: Candidate) -> float:
    """What float32 and another batch do, with room; below every real change."""
    return 1e-5
