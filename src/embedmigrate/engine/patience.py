"""Waiting for a model, but not for ever: a call that hangs must not hold a lock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from embedmigrate.embedders.base import Embedder, Vectors
from embedmigrate.errors import Temporary


class Patient:
    """An embedder whose answers are waited for at most ``seconds`` each; ``Temporary`` after that.

    A call that does not come back cannot be ended. It is left to a thread that the process does
    not wait for when it ends; until then the model is not closed either.
    """

    def __init__(self, embedder: Embedder, seconds: float) -> None:
        self._embedder, self._seconds = embedder, seconds
        self._hanging = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._embedder, name)

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        return self._wait(self._embedder.embed_documents, texts)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return self._wait(self._embedder.embed_queries, texts)

    def close(self) -> None:
        if not self._hanging:
            self._embedder.close()

    def _wait(self, embed: Callable[[Sequence[str]], Vectors], texts: Sequence[str]) -> Vectors:
        answer: list[Vectors] = []
        raised: list[BaseException] = []

        def call() -> None:
            try:
                answer.append(embed(texts))
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=call, name="model call", daemon=True)
        thread.start()
        thread.join(self._seconds)
        if raised:
            raise raised[0]
        if not answer:
            self._hanging = True
            raise Temporary(
                f"{self._embedder.model.reference} does not answer",
                found=f"nothing on a call of {len(texts)} texts after {self._seconds:g} s",
                expected="an answer",
                next_step="run the same command again; if the model needs longer, raise "
                "call_seconds in the configuration",
            )
        return answer[0]
