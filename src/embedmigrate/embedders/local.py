"""What every embedder that runs in this process shares.

A declaration (``LocalConfig``) becomes an identity in ``declare``; an identity becomes vectors in
``LocalEmbedder``: the prompt of the right side in front, the model, the Matryoshka cut, the
normalisation, and the checks that no answer escapes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import metadata
from typing import TypeVar

import numpy as np
from pydantic import Field, ValidationError

from embedmigrate.embedders.base import ModelConfig, Vectors, checked
from embedmigrate.embedders.files import Artifacts, FilesConfig
from embedmigrate.embedders.st_folder import FolderSettings
from embedmigrate.embedders.tokenizing import require_tokenizer
from embedmigrate.errors import ConfigError
from embedmigrate.models import EmbeddingModel
from embedmigrate.models.embedding_model import Pooling
from embedmigrate.validation import first_fault

_C = TypeVar("_C", bound=ModelConfig)


class LocalConfig(FilesConfig):
    """A ``[models.x]`` table of a model whose files lie here. None: read from the folder."""

    normalize: bool | None = None
    max_tokens: int | None = Field(default=None, gt=0)
    special_tokens: bool | None = None
    dimensions: int | None = Field(default=None, gt=0)
    """A Matryoshka cut: the first so many, normalised again if the model normalises."""
    document_prompt: str | None = None
    query_prompt: str | None = None


def own(config: ModelConfig, cls: type[_C]) -> _C:
    """``config`` as the configuration class of the embedder that was asked."""
    if not isinstance(config, cls):
        raise TypeError(f"expected {cls.__name__}, found {type(config).__name__}")
    return config


def declare(
    name: str,
    config: LocalConfig,
    folder: FolderSettings,
    artifacts: Artifacts,
    *,
    width: int,
    pooling: Pooling,
    max_tokens: int | None,
    special_tokens: bool,
) -> EmbeddingModel:
    """The identity that a declaration stands for; ``width`` is the model's own dimension."""
    if config.dimensions is not None and config.dimensions > width:
        raise ConfigError(
            f"model {name!r} has fewer dimensions than dimensions = … asks for",
            found=width,
            expected=f"at least {config.dimensions}",
            next_step="correct dimensions of the model",
        )
    require_tokenizer(artifacts.files["tokenizer"])
    said = (config.normalize, folder.normalize, False)
    try:
        return EmbeddingModel(
            name=config.name or name,
            artifacts=artifacts.digests(),
            dimensions=config.dimensions or width,
            pooling=pooling,
            normalize=next(value for value in said if value is not None),
            max_tokens=max_tokens,
            special_tokens=(
                special_tokens if config.special_tokens is None else config.special_tokens
            ),
            document_prompt=(
                folder.prompt("document")
                if config.document_prompt is None
                else config.document_prompt
            ),
            query_prompt=(
                folder.prompt("query") if config.query_prompt is None else config.query_prompt
            ),
            revision=artifacts.commit,
        )
    except ValidationError as error:
        raise ConfigError(
            f"model {name!r} cannot be pinned",
            found=str(first_fault(error)),
            next_step="correct the model",
        ) from error


class LocalEmbedder(ABC):
    """A loaded model in this process. Safe for several threads, deterministic."""

    runtime = "numpy"

    def __init__(self, model: EmbeddingModel) -> None:
        self.model = model

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """float32, C-contiguous, ``(len(texts), model.dimensions)``; row i belongs to text i."""
        return self._answer(texts, self.model.document_prompt)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """The same for queries, with the query prompt."""
        return self._answer(texts, self.model.query_prompt)

    def tokens_of(self, text: str) -> int | None:
        """How many tokens of ``text`` the model is fed; None where that is not known."""
        return None

    def close(self) -> None:  # noqa: B027 - nothing to release is a valid case
        """Release the runtime. Idempotent."""

    def embed_unprompted(self, texts: Sequence[str]) -> Vectors:
        """The same without any prompt: to find out how a vector of unknown origin was made."""
        return self._answer(texts, "")

    @abstractmethod
    def _embed(self, texts: Sequence[str]) -> Vectors:
        """float32 ``(len(texts), at least model.dimensions)``: the model's own output.

        A text without tokens gets a zero vector.
        """

    def _answer(self, texts: Sequence[str], prompt: str) -> Vectors:
        if isinstance(texts, str):
            raise TypeError("expected a sequence of texts, found one str")
        if not texts:
            return np.empty((0, self.model.dimensions), np.float32)
        raw = self._embed([prompt + text for text in texts] if prompt else texts)
        return checked(finish(raw, self.model), len(texts), self.model)


def version_of(distribution: str) -> str:
    """``distribution major.minor`` as it is installed here."""
    major, minor = metadata.version(distribution).split(".")[:2]
    return f"{distribution} {major}.{minor}"


def finish(raw: Vectors, model: EmbeddingModel) -> Vectors:
    """Cut to ``model.dimensions`` and normalise if the model does; zero vectors stay zero."""
    vectors = np.ascontiguousarray(raw[:, : model.dimensions])
    if model.normalize:
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        norms[norms == 0] = 1
        vectors = vectors / norms
    return vectors
