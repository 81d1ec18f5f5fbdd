"""Provider ``openai``: a model behind a server that speaks OpenAI's protocol for embeddings.

Nothing of the model lies here, so nothing can be hashed. Its identity is what it is called by whom
(vendor, name, a dated name or a stated digest), what is asked of it (parameters, prompts), and how
it was seen to behave: its witness. A model that has neither date nor digest is only ``witnessed``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import ClassVar, NoReturn, Self

import numpy as np
from pydantic import ValidationError

from embedmigrate.embedders.base import ModelConfig, Vectors, checked
from embedmigrate.embedders.local import own
from embedmigrate.embedders.openai_config import OpenAIConfig
from embedmigrate.embedders.openai_server import Server
from embedmigrate.embedders.tokenizing import without_surrogates
from embedmigrate.errors import (
    ConfigError,
    DigestMismatch,
    NameMismatch,
    UnpinnedReference,
    WrongDimension,
)
from embedmigrate.models import EmbeddingModel
from embedmigrate.models.canaries import CANARIES
from embedmigrate.models.embedding_model import UNMEASURED
from embedmigrate.models.references import is_dated, is_digest, is_form_of
from embedmigrate.validation import first_fault

_REPLIED_NAME = re.compile(r"[A-Za-z0-9@][A-Za-z0-9._/:@-]{0,127}")


class OpenAIEmbedder:
    """A model behind a server. Safe for several threads."""

    Config: ClassVar[type[ModelConfig]] = OpenAIConfig
    runtime = "openai-compatible server"
    """One for all: what computes behind it, nobody tells."""

    @classmethod
    def identify(cls, name: str, config: ModelConfig, root: Path) -> EmbeddingModel:
        """See ``Embedder``. The witness is ``UNMEASURED``. Asks the server only if ``dimensions``
        is missing, for the error that says what it is."""
        config = own(config, OpenAIConfig)
        if why := config.why_unpinned():
            raise UnpinnedReference(
                f"model {name!r} is not pinned: {why}",
                next_step=f"edit [models.{name}], then embedmigrate pin {name}",
            )
        try:
            return EmbeddingModel(
                name=config.plain_name,
                vendor=config.vendor,
                revision=config.version,
                parameters=config.parameters,
                dimensions=config.dimensions or _refuse_unknown_dimensions(name, config),
                normalize=config.normalize,
                max_tokens=config.max_tokens,
                document_prompt=config.document_prompt,
                query_prompt=config.query_prompt,
                witness=UNMEASURED,
            )
        except ValidationError as error:
            raise ConfigError(
                f"model {name!r} cannot be pinned",
                found=str(first_fault(error)),
                next_step="correct the model",
            ) from error

    @classmethod
    def load(cls, config: ModelConfig, model: EmbeddingModel, root: Path) -> Self:
        """See ``Embedder``. Asks nothing: what proves the model is its witness."""
        config = own(config, OpenAIConfig)
        if model.artifacts:
            raise DigestMismatch(
                f"{model.reference} was pinned by its files, and is declared behind a server",
                found=config.base_url,
                expected="files with these digests",
                next_step="give a model behind a server a [models.x] table of its own",
            )
        if model.vendor != config.vendor:
            raise NameMismatch(
                f"{model.reference} is of another vendor than the server is declared for",
                found=config.vendor,
                expected=model.vendor,
                next_step="give the models of each vendor [models.x] tables of their own",
            )
        same = config.plain_name == model.name
        if same and is_digest(model.revision) and config.version != model.revision:
            raise DigestMismatch(
                f"the digest that is stated for {model.name} is not the pinned one",
                found=config.stated_digest or "none",
                expected=model.revision,
                next_step="restore what was pinned, or pin the model again if the change is meant",
            )
        return cls(model, config, config.model if same else model.name)

    def __init__(self, model: EmbeddingModel, config: OpenAIConfig, asked: str) -> None:
        self.model = model
        self.answers_as = ""
        """The name in the server's replies, once there was one."""
        self._asked, self._batch_texts = asked, config.batch_texts
        self._server = _server(config)

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """float32, C-contiguous, ``(len(texts), model.dimensions)``; row i belongs to text i."""
        return self._answer(texts, self.model.document_prompt)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """The same for queries, with the query prompt."""
        return self._answer(texts, self.model.query_prompt)

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._server.close()

    def _answer(self, texts: Sequence[str], prompt: str) -> Vectors:
        if isinstance(texts, str):
            raise TypeError("expected a sequence of texts, found one str")
        if not texts:
            return np.empty((0, self.model.dimensions), np.float32)
        return np.concatenate(
            [
                self._ask([prompt + text for text in texts[start : start + self._batch_texts]])
                for start in range(0, len(texts), self._batch_texts)
            ]
        )

    def _ask(self, texts: Sequence[str]) -> Vectors:
        sendable = [without_surrogates(text) for text in texts]
        reply = self._server.ask(self._asked, sendable, self.model.parameters)
        self._check_name(reply.model)
        vectors = reply.vectors()
        if len(vectors) == len(texts) and vectors.shape[1] != self.model.dimensions:
            raise WrongDimension(
                f"the server answered for {self.model.name} with another dimension",
                found=f"{vectors.shape[1]} dimensions",
                expected=f"{self.model.dimensions}",
                next_step="correct dimensions of the model; a server that can cut is asked by "
                f"parameters = {{ dimensions = {self.model.dimensions} }}",
            )
        return checked(vectors, len(texts), self.model)

    def _check_name(self, answered: str | None) -> None:
        """Refuse a reply that says that another model made it, or another one than just now."""
        if not answered:
            return
        known = self.answers_as or self._asked
        same = is_form_of(answered, self._asked) or is_form_of(answered, self.model.name)
        if not same or self.answers_as not in ("", answered):
            # A name that is none may be anything, a text too.
            is_name = bool(_REPLIED_NAME.fullmatch(answered))
            pins = "a dated name, which pins it: " if is_dated(answered) else ""
            raise NameMismatch(
                f"the server was asked for {self._asked!r} and answered as another model",
                found=answered if is_name else "something that is not the name of a model",
                expected=known,
                next_step=f"if that is the model you mean, {pins}model = {answered!r}"
                if is_name
                else "correct base_url or model",
            )
        self.answers_as = answered


def _server(config: OpenAIConfig) -> Server:
    return Server(config.base_url, config.api_key, config.timeout_seconds)


def _refuse_unknown_dimensions(name: str, config: OpenAIConfig) -> NoReturn:
    with closing(_server(config)) as server:
        reply = server.ask(config.model, [CANARIES[0].text], config.parameters)
    width = reply.vectors().shape[1]
    raise ConfigError(
        f"model {name!r} does not say how long its vectors are",
        found=f"{width} dimensions when the server was asked",
        expected=f"dimensions = {width}",
        next_step=f"edit [models.{name}], then embedmigrate pin {name}",
    )
