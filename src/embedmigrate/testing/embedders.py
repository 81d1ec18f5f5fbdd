"""An embedder that misbehaves on purpose, in every way that a runtime or a server is known to.

What a bad answer looks like is a function of ``BAD_ANSWERS``; ``Misbehaving`` wraps any embedder
and answers well until told otherwise. As provider ``misbehaving-not-a-model`` it is the hashing
embedder with the same fingerprint: what one of them wrote the other can go on with.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn, Self, get_args

import numpy as np
from pydantic import Field

from embedmigrate.embedders.base import Embedder, ModelConfig, Vectors
from embedmigrate.embedders.hashing import HashingConfig, HashingEmbedder
from embedmigrate.embedders.local import own
from embedmigrate.models import EmbeddingModel
from embedmigrate.models.canaries import CANARIES

Kind = Literal[
    "wrong count",
    "swapped order",
    "wrong dimension",
    "NaN",
    "infinity",
    "zero vector",
    "all equal",
    "wrong norm",
    "truncated",
    "other model",
    "exception",
    "timeout",
    "hang",
    "half a batch",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

_CANARY_TEXTS = frozenset(canary.text for canary in CANARIES)
_TRUNCATED_TO = 16
_FOR_EVER = 1e6

Embed = Callable[[Sequence[str]], Vectors]


def _wrong_count(embed: Embed, texts: Sequence[str], chosen: list[int]) -> Vectors:
    vectors = embed(texts)
    return np.concatenate([vectors, vectors[-1:]])


def _half_a_batch(embed: Embed, texts: Sequence[str], chosen: list[int]) -> Vectors:
    return embed(texts)[: len(texts) // 2]


def _swapped_order(embed: Embed, texts: Sequence[str], chosen: list[int]) -> Vectors:
    places = np.arange(len(texts))
    pairs = len(texts) // 2 * 2
    places[:pairs] = places[:pairs].reshape(-1, 2)[:, ::-1].ravel()
    return np.ascontiguousarray(embed(texts)[places])


def _wrong_dimension(embed: Embed, texts: Sequence[str], chosen: list[int]) -> Vectors:
    return np.ascontiguousarray(embed(texts)[:, :-1])


def _holding(value: float) -> Callable[[Embed, Sequence[str], list[int]], Vectors]:
    def answer(embed: Embed, texts: Sequence[str], chosen: list[int]) -> Vectors:
        vectors = embed(texts).copy()
        vectors[chosen, 0] = value
        return vectors

    return answer


def _scaled(factor: float) -> Callable[[Embed, Sequence[str], list[int]], Vectors]:
    def answer(embed: Embed, texts: Sequence[str], chosen: list[int]) -> Vectors:
        vectors = embed(texts).copy()
        vectors[chosen] *= np.float32(factor)
        return vectors

    return answer


def _all_equal(embed: Embed, texts: Sequence[str], chosen: list[int]) -> Vectors:
    return np.tile(embed(texts)[:1], (len(texts), 1))


def _truncated(embed: Embed, texts: Sequence[str], chosen: list[int]) -> Vectors:
    return embed([text[:_TRUNCATED_TO] for text in texts])


def _other_model(embed: Embed, texts: Sequence[str], chosen: list[int]) -> Vectors:
    return np.ascontiguousarray(np.roll(embed(texts), 1, axis=1))


def _exception(embed: Embed, texts: Sequence[str], chosen: list[int]) -> NoReturn:
    raise RuntimeError(f"cannot embed {texts[chosen[0]]!r}")  # what runtimes do, text and all


def _timeout(embed: Embed, texts: Sequence[str], chosen: list[int]) -> NoReturn:
    raise TimeoutError(f"no answer for {texts[chosen[0]]!r}")


def _hang(embed: Embed, texts: Sequence[str], chosen: list[int]) -> Vectors:
    time.sleep(_FOR_EVER)
    return embed(texts)


BAD_ANSWERS: dict[Kind, Callable[[Embed, Sequence[str], list[int]], Vectors]] = {
    "wrong count": _wrong_count,
    "swapped order": _swapped_order,
    "wrong dimension": _wrong_dimension,
    "NaN": _holding(np.nan),
    "infinity": _holding(np.inf),
    "zero vector": _scaled(0),
    "all equal": _all_equal,
    "wrong norm": _scaled(2),
    "truncated": _truncated,
    "other model": _other_model,
    "exception": _exception,
    "timeout": _timeout,
    "hang": _hang,
    "half a batch": _half_a_batch,
}
"""``(embed, texts, places of the texts that are meant)`` to what is answered instead."""


class Misbehaving:
    """Wraps an embedder, and misbehaves in calls for documents as told.

    ``kind`` None behaves. Otherwise from the ``first_call``-th call for documents on, for ``calls``
    of them (0: for ever); with ``holding`` only in calls with a text that holds these words, and
    where one row can be spoilt only in theirs. Calls for canaries are not counted; they are
    answered as badly as documents are at that time, unless ``holding`` says which texts are meant.
    Safe for several threads.
    """

    def __init__(
        self,
        embedder: Embedder,
        kind: Kind | None,
        *,
        first_call: int = 1,
        calls: int = 0,
        holding: str = "",
    ) -> None:
        self._embedder, self.kind = embedder, kind
        self._first, self._calls, self._holding = first_call, calls, holding
        self._counting = threading.Lock()
        self.asked = 0
        """Calls for documents."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._embedder, name)

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        return self._answer(self._embedder.embed_documents, texts)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return self._answer(self._embedder.embed_queries, texts)

    def _answer(self, embed: Embed, texts: Sequence[str]) -> Vectors:
        with self._counting:
            self.asked += not _CANARY_TEXTS.issuperset(texts)
            number = self.asked
        chosen = [place for place, text in enumerate(texts) if self._holding in text]
        over = self._calls and number >= self._first + self._calls
        if self.kind is None or number < self._first or over or not chosen:
            return embed(texts)
        return BAD_ANSWERS[self.kind](embed, texts, chosen)


class MisbehavingConfig(HashingConfig):
    """A ``[models.x]`` table with ``provider = "misbehaving-not-a-model"``."""

    kind: Kind | None = None
    first_call: int = Field(default=1, ge=1)
    calls: int = Field(default=0, ge=0)
    holding: str = ""


class MisbehavingEmbedder(Misbehaving):
    """The hashing embedder, which misbehaves as its configuration says."""

    Config: ClassVar[type[ModelConfig]] = MisbehavingConfig
    model: EmbeddingModel
    runtime: str

    @classmethod
    def identify(cls, name: str, config: ModelConfig, root: Path) -> EmbeddingModel:
        """See ``Embedder``: the identity of the hashing embedder."""
        return HashingEmbedder.identify(name, config, root)

    @classmethod
    def load(cls, config: ModelConfig, model: EmbeddingModel, root: Path) -> Self:
        """See ``Embedder``."""
        config = own(config, MisbehavingConfig)
        embedder = cls(
            HashingEmbedder.load(config, model, root),
            config.kind,
            first_call=config.first_call,
            calls=config.calls,
            holding=config.holding,
        )
        embedder.model, embedder.runtime = model, HashingEmbedder.runtime
        return embedder

    def close(self) -> None:
        """Idempotent."""
        self._embedder.close()
