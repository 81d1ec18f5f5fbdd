"""One request to a server that speaks OpenAI's protocol for embeddings, and what may come back.

What a server says in an error or in place of an answer may hold the text that it was sent, or a
key: none of it is passed on, only status codes and kinds of errors (I21).
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, SecretStr, ValidationError

from embedmigrate.embedders.base import Vectors
from embedmigrate.errors import (
    BadAnswer,
    ConfigError,
    EmbedMigrateError,
    MissingExtra,
    Temporary,
    TextRefused,
    WrongCount,
    WrongDimension,
)
from embedmigrate.models.embedding_model import Parameter

if TYPE_CHECKING:
    import openai

_PASSING = (408, 409, 425, 429)
"""Statuses below 500 that another try may not meet."""
_OF_A_TEXT = (400, 413, 422)
"""Statuses that one text may be the reason for: too long, or empty to this server."""
_KNOWN_CODES = frozenset(
    ("insufficient_quota", "rate_limit_exceeded", "model_not_found", "context_length_exceeded")
)
"""Codes of errors that help a person; others might be anything."""


class _Row(BaseModel):
    index: int
    embedding: str | list[float]
    """Little-endian float32 in base64 as it is asked for, or what a server knows instead."""


class Reply(BaseModel):
    """The part of an answer that is used."""

    model: str | None = None
    data: list[_Row]

    def vectors(self) -> Vectors:
        """float32 ``(number of rows, d)``, in the order of ``index``; ``BadAnswer`` if these are
        not 0, 1, 2 … or the vectors are not of one length."""
        rows = sorted(self.data, key=lambda row: row.index)
        if [row.index for row in rows] != list(range(len(rows))):
            raise WrongCount(
                "a server answered with the wrong indices",
                found=f"{len({row.index for row in rows})} different ones on {len(rows)} vectors",
                expected="each from 0, once",
            )
        vectors = [_decoded(row.embedding) for row in rows]
        lengths = sorted({len(vector) for vector in vectors})
        if len(lengths) > 1:
            raise WrongDimension(
                "a server answered with vectors of different lengths",
                found=", ".join(map(str, lengths)),
                expected="one length",
            )
        return np.stack(vectors) if vectors else np.empty((0, 0), np.float32)


def _decoded(embedding: str | list[float]) -> Vectors:
    if not isinstance(embedding, str):
        return np.asarray(embedding, np.float32)
    try:
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4").astype(np.float32)
    except ValueError:
        raise BadAnswer(
            "a server answered with something that is not a vector",
            found=f"a string of {len(embedding)} characters",
            expected="numbers, or float32 in base64",
        ) from None


class Server:
    """A server and the right to ask it. Safe for several threads. It is asked once: whoever needs
    the answer decides whether to ask again."""

    def __init__(self, base_url: str, api_key: SecretStr | None, timeout: float) -> None:
        self.base_url, self._timeout = base_url, timeout
        try:
            import openai
        except ImportError as error:
            raise MissingExtra("the provider openai", "openai") from error
        logging.getLogger("openai._base_client").addFilter(_without_requests)
        # Without a key of its own the client would send the one of OpenAI that the environment has.
        key = "" if api_key is None else api_key.get_secret_value()
        self._client = openai.OpenAI(
            base_url=base_url, api_key=key or "none", timeout=timeout, max_retries=0
        )

    def ask(self, model: str, texts: Sequence[str], parameters: Mapping[str, Parameter]) -> Reply:
        """The answer to one request.

        ``Temporary`` when there is none now: no connection, no time, 429, 5xx. ``ConfigError`` when
        the server refuses: key, model, parameters; ``TextRefused`` where it may be for a text.
        ``BadAnswer`` for an answer of another form.
        """
        import openai

        failure: EmbedMigrateError
        try:
            raw = self._client.embeddings.with_raw_response.create(
                input=list(texts),
                model=model,
                encoding_format="base64",
                extra_body=dict(parameters),
            )
            return Reply.model_validate_json(raw.http_response.content)
        except openai.OpenAIError as error:
            failure = self._failure(error, model)
        except ValidationError as error:
            failure = BadAnswer(
                f"the server at {self.base_url} answered in another form",
                found=f"{error.error_count()} faults in what it sent",
                expected="a list of embeddings, as OpenAI's protocol has it",
                next_step="correct base_url: it mostly ends in /v1",
            )
        raise failure  # here, where nothing that the server said comes along as its context

    def _failure(self, error: openai.OpenAIError, model: str) -> EmbedMigrateError:
        import openai

        here = f"the server at {self.base_url}"
        if isinstance(error, openai.APITimeoutError):
            return Temporary(
                f"{here} did not answer in time",
                found=f"nothing after {self._timeout:g} s",
                next_step="run the same command again, or raise timeout_seconds",
            )
        if not isinstance(error, openai.APIStatusError):
            return Temporary(
                f"{here} cannot be reached",
                found=type(error).__name__,
                next_step="run the same command again; if it stays, correct base_url",
            )
        status, code = error.status_code, error.code if error.code in _KNOWN_CODES else None
        found = " ".join(filter(None, (str(status), type(error).__name__, code)))
        if status >= 500 or status in _PASSING:
            return Temporary(
                f"{here} does not answer now", found=found, next_step="run the same command again"
            )
        if status in (401, 403):
            return ConfigError(
                f"{here} does not accept the key",
                found=found,
                expected="a key that may ask for embeddings",
                next_step="correct api_key",
            )
        return (TextRefused if status in _OF_A_TEXT else ConfigError)(
            f"{here} refuses to embed with {model!r}",
            found=found,
            expected="an answer",
            next_step="correct base_url, model or parameters; a text may be longer than it takes",
        )

    def close(self) -> None:
        """Close its connections. Idempotent."""
        self._client.close()


def _without_requests(record: logging.LogRecord) -> bool:
    """Keeps requests, texts and all, out of the logs: older clients write them there."""
    return not str(record.msg).startswith("Request options")
