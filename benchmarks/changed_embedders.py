"""Embedders that change another one's vectors, or how it is asked: what no configuration says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NoReturn

import numpy as np

from embedmigrate.embedders.base import Embedder, ModelConfig, Vectors
from embedmigrate.models import EmbeddingModel


class ChangedEmbedder(ABC):
    """Answers for ``inner``, under the same identity, with other vectors."""

    Config: ClassVar[type[ModelConfig]] = ModelConfig

    @classmethod
    def identify(cls, name: str, config: ModelConfig, root: Path) -> NoReturn:
        """No configuration declares a change: it is put around an embedder that is loaded."""
        raise NotImplementedError

    @classmethod
    def load(cls, config: ModelConfig, model: EmbeddingModel, root: Path) -> NoReturn:
        """See ``identify``."""
        raise NotImplementedError

    def __init__(self, inner: Embedder) -> None:
        self.inner = inner
        self.model, self.runtime = inner.model, inner.runtime

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """float32 ``(len(texts), dimensions)``."""
        return self.change(self.inner.embed_documents(texts))

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """float32 ``(len(texts), dimensions)``."""
        return self.change(self.inner.embed_queries(texts))

    @abstractmethod
    def change(self, vectors: Vectors) -> Vectors:
        """The vectors that are answered in place of ``vectors``."""

    def close(self) -> None:
        """Close what is inside."""
        self.inner.close()


class Shifted(ChangedEmbedder):
    """Every vector turned by the same angle, towards one direction that a seed draws.

    Norms stay as they are; the cosine distance to the old vector is ``distance`` for each.
    """

    def __init__(self, inner: Embedder, distance: float, seed: int = 0) -> None:
        super().__init__(inner)
        self._cosine = 1 - distance
        self._seed = seed

    def change(self, vectors: Vectors) -> Vectors:
        wide = vectors.astype(np.float64)
        norms = np.linalg.norm(wide, axis=1, keepdims=True)
        units = wide / norms
        direction = np.random.default_rng(self._seed).standard_normal(units.shape[1])
        across = direction - (units @ direction)[:, np.newaxis] * units
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        sine = np.sqrt(1 - self._cosine**2)
        turned: Vectors = (norms * (self._cosine * units + sine * across)).astype(np.float32)
        return turned


class StoredAsFloat16(ChangedEmbedder):
    """Every component rounded to half precision, as a store of half the size keeps it."""

    def change(self, vectors: Vectors) -> Vectors:
        return vectors.astype(np.float16).astype(np.float32)


class Posing(ChangedEmbedder):
    """``inner`` under the identity of another model: a change that nobody was told of."""

    def __init__(self, inner: Embedder, model: EmbeddingModel) -> None:
        super().__init__(inner)
        self.model = model

    def change(self, vectors: Vectors) -> Vectors:
        return vectors


CHANGES: Mapping[str, Callable[..., Embedder]] = {
    "shifted": Shifted,
    "float16": StoredAsFloat16,
}
