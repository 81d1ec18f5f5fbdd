"""Provider ``hashing-not-a-model``: vectors from a hash of the text. It means nothing by them.

For measuring what everything around a model costs, and for fault tests: deterministic on every
machine, needs no files, and is far faster than any model. Two texts are as good as orthogonal
however alike they read, so a search finds identical texts and nothing else.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from pydantic import Field

from embedmigrate.embedders.base import ModelConfig, Vectors
from embedmigrate.embedders.files import Artifacts
from embedmigrate.embedders.local import LocalEmbedder, own
from embedmigrate.models import EmbeddingModel

_VERSION = 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


class HashingConfig(ModelConfig):
    """A ``[models.x]`` table with ``provider = "hashing-not-a-model"``."""

    dimensions: int = Field(default=384, gt=0, le=65_536)
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Another seed is another space."""
    delay_ms: float = Field(default=0, ge=0)
    """How long each call takes at least, to stand in for a slow model. Changes no vector."""


class HashingEmbedder(LocalEmbedder):
    """For benchmarks of overhead and for fault tests only: not a model."""

    Config: ClassVar[type[ModelConfig]] = HashingConfig

    @classmethod
    def identify(cls, name: str, config: ModelConfig, root: Path) -> EmbeddingModel:
        """See ``Embedder``. There are no files: the algorithm and its parameters are hashed."""
        config = own(config, HashingConfig)
        return EmbeddingModel(
            name=config.name or name,
            artifacts=_artifacts(config.dimensions, config.seed).digests(),
            dimensions=config.dimensions,
            normalize=True,
        )

    @classmethod
    def load(cls, config: ModelConfig, model: EmbeddingModel, root: Path) -> Self:
        """See ``Embedder``."""
        config = own(config, HashingConfig)
        _artifacts(model.dimensions, config.seed).verify(model)
        return cls(model, config.seed, config.delay_ms / 1000)

    def __init__(self, model: EmbeddingModel, seed: int, delay: float) -> None:
        super().__init__(model)
        self._delay = delay
        self._key = hashlib.sha256(seed.to_bytes(8, "little"))
        words = -(-model.dimensions // 8)
        self._steps = np.arange(1, words + 1, dtype=np.uint64) * _GOLDEN

    def _embed(self, texts: Sequence[str]) -> Vectors:
        if self._delay:
            time.sleep(self._delay)
        seeds = np.frombuffer(b"".join(map(self._hash, texts)), "<u8")
        # One 64-bit word makes eight components: a hashed counter, as in splitmix64.
        words = seeds[:, np.newaxis] + self._steps
        words ^= words >> np.uint64(30)
        words *= _MIX
        words ^= words >> np.uint64(31)
        components = words.astype("<u8", copy=False).view(np.int8)[:, : self.model.dimensions]
        vectors: Vectors = components.astype(np.float32)
        vectors += 0.5  # from -127.5 to 127.5: no text gets the zero vector
        return vectors

    def _hash(self, text: str) -> bytes:
        state = self._key.copy()
        state.update(text.encode("utf-8", "surrogatepass"))
        return state.digest()[:8]


def _artifacts(dimensions: int, seed: int) -> Artifacts:
    stated = f"embedmigrate/hashing-not-a-model/{_VERSION}\n{dimensions}\n{seed}"
    return Artifacts({}, {"weights": "sha256:" + hashlib.sha256(stated.encode()).hexdigest()})
