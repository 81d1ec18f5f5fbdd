"""Transformer encoders, whatever runs them: settings, micro-batches and pooling.

The providers ``onnx`` and ``sentence-transformers`` are this, with another runtime each. Both
tokenize with the same library and settings, so that one folder means one space to both, up to the
digest of its weights.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedmigrate.embedders.base import Vectors
from embedmigrate.embedders.files import Artifacts
from embedmigrate.embedders.local import LocalConfig, LocalEmbedder, declare
from embedmigrate.embedders.st_folder import FolderSettings, read_folder
from embedmigrate.embedders.tokenizing import TextTokenizer, stated_truncation
from embedmigrate.errors import ConfigError, UnsupportedModel
from embedmigrate.models import EmbeddingModel
from embedmigrate.models.embedding_model import Pooling

Ids = npt.NDArray[np.int64]

TOKENS_A_RUN = 512
"""Tokens, padding included, of one run on a CPU: larger runs are slower there."""


class TransformerConfig(LocalConfig):
    """A ``[models.x]`` table of a transformer."""

    pooling: Pooling | None = None


def transformer_folder(folder: Path | None) -> FolderSettings:
    """``read_folder`` for providers that run transformers."""
    settings = read_folder(folder)
    if settings.static:
        raise UnsupportedModel(
            f"the model in {folder} is a table of token vectors, not a transformer",
            found="StaticEmbedding",
            expected="Transformer and Pooling",
            next_step='set provider = "static"',
        )
    return settings


def identify_transformer(
    name: str,
    config: TransformerConfig,
    folder: FolderSettings,
    artifacts: Artifacts,
    *,
    width: int,
    pooled: bool = False,
) -> EmbeddingModel:
    """The identity of a transformer: what is declared, else what its folder and tokenizer say.

    ``pooled`` tells that the model itself makes one vector a text.
    """
    pooling = config.pooling or folder.pooling
    if pooled:
        if config.pooling is not None:
            raise ConfigError(
                f"model {name!r} pools by itself at the output that is declared",
                found=f'pooling = "{config.pooling}"',
                expected="no pooling",
                next_step="remove pooling, or name an output of token states",
            )
        pooling = "mean"
    if pooling is None:
        raise _missing(name, "pooling", '"mean", "cls", "max" or "last"')
    max_tokens = (
        config.max_tokens or folder.max_tokens or stated_truncation(artifacts.files["tokenizer"])
    )
    if max_tokens is None:
        raise _missing(name, "max_tokens", "a number of tokens")
    return declare(
        name,
        config,
        folder,
        artifacts,
        width=width,
        pooling=pooling,
        max_tokens=max_tokens,
        special_tokens=True,
    )


def _missing(name: str, key: str, expected: str) -> ConfigError:
    return ConfigError(
        f"model {name!r} does not say its {key}, and no sentence-transformers folder says it",
        found="nothing",
        expected=f"{key} = {expected}",
        next_step=f"add {key} to [models.{name}]",
    )


class TransformerEmbedder(LocalEmbedder):
    """Token states of a transformer, pooled. Texts of like length share a run."""

    tokens_a_run = TOKENS_A_RUN

    def __init__(self, model: EmbeddingModel, tokenizer: Path, extra: str) -> None:
        super().__init__(model)
        self._tokenizer = TextTokenizer(tokenizer, model, extra)
        self._tokenizer.require_one_segment()

    def tokens_of(self, text: str) -> int:
        return len(self._tokenizer.encode([text])[0])

    @abstractmethod
    def _run(self, ids: Ids, mask: Ids) -> Vectors:
        """Vectors of ``ids`` ``(texts, tokens)``, padded on the right where ``mask`` is 0."""

    def _embed(self, texts: Sequence[str]) -> Vectors:
        tokens = self._tokenizer.encode(texts)
        vectors: Vectors | None = None
        for rows in _micro_batches([len(ids) for ids in tokens], self.tokens_a_run):
            answer = self._run(*_padded([tokens[row] for row in rows]))
            if vectors is None:
                vectors = np.zeros((len(texts), answer.shape[1]), np.float32)
            vectors[rows] = answer
        if vectors is None:
            return np.zeros((len(texts), self.model.dimensions), np.float32)
        return vectors


def _micro_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Rows that fit ``budget`` tokens when padded, longest first; empty texts are left out."""
    order = sorted((row for row, length in enumerate(lengths) if length), key=lambda r: -lengths[r])
    at = 0
    while at < len(order):
        size = max(1, budget // lengths[order[at]])
        yield order[at : at + size]
        at += size


def _padded(tokens: Sequence[Sequence[int]]) -> tuple[Ids, Ids]:
    ids = np.zeros((len(tokens), max(map(len, tokens))), np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(tokens):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return ids, mask


def pool(states: Vectors, mask: Ids, pooling: Pooling) -> Vectors:
    """Token states ``(n, tokens, d)`` to vectors ``(n, d)``, padding left out."""
    pooled: Vectors
    if pooling == "cls":
        pooled = states[:, 0]
    elif pooling == "last":
        pooled = states[np.arange(len(states)), mask.sum(axis=1) - 1]
    elif pooling == "max":
        pooled = np.where(mask[:, :, np.newaxis], states, np.float32(-np.inf)).max(axis=1)
    else:
        # Summed in the order of the tokens: padding adds zeros at the end and changes no bit.
        weights = mask[:, :, np.newaxis].astype(np.float32)
        pooled = (states * weights).sum(axis=1) / weights.sum(axis=1)
    return pooled
