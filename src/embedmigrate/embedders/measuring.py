"""Measuring how a loaded model behaves: what a witness records, and what is compared with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from embedmigrate.embedders.base import Embedder, Vectors, named_by_type
from embedmigrate.errors import BadAnswer, ConfigError, ModelRaised, ZeroVector
from embedmigrate.models.canaries import CANARIES
from embedmigrate.models.drift import distances_of
from embedmigrate.models.witness import Behaviour, WitnessRecord, processor_family

if TYPE_CHECKING:
    from embedmigrate.models import EmbeddingModel

_Ask = Callable[[Sequence[str]], Vectors]
_ALL = tuple(range(len(CANARIES)))
_ENDINGS = ("iron gold stone glass wood paper salt coal", "dog cat horse bird fish mouse bear wolf")
_SPECIAL_TOKENS = 8
"""More than any model adds to a text."""


def runtime_of(embedder: Embedder) -> str:
    """What computes, with its version: the part of a platform that is software."""
    return str(getattr(embedder, "runtime", type(embedder).__name__))


def processor_of(embedder: Embedder) -> str:
    """The part of a platform that is hardware; a server has its own, which nobody tells."""
    return processor_family() if embedder.model.artifacts else ""


def behaviour(
    embedder: Embedder, places: Sequence[int] = _ALL, *, queries: bool = True
) -> Behaviour:
    """Ask for the canaries at ``places``, one text a call.

    Without ``queries`` only the document side is asked; the other one has no rows.
    """
    texts = [CANARIES[place].text for place in places]
    side = _Side(embedder.model)
    documents = side.alone(embedder.embed_documents, texts)
    asked = side.alone(embedder.embed_queries, texts) if queries else documents[:0]
    return Behaviour(documents, asked, refusal=side.refusal)


def measured(embedder: Embedder) -> Behaviour:
    """The whole behaviour with its noise: both sides twice, and once with all texts in a call."""
    first, second = behaviour(embedder), behaviour(embedder)
    texts = [canary.text for canary in CANARIES]
    side = _Side(embedder.model)
    together = side.together(embedder.embed_documents, texts, first.documents)
    noise = max(
        *distances_of(first.documents, second.documents),
        *distances_of(first.queries, second.queries),
    )
    # A text that only its batch is refused for says nothing about noise.
    batch_noise = max(distances_of(first.documents, together))
    return Behaviour(first.documents, first.queries, noise, max(noise, batch_noise), first.refusal)


def record_of(embedder: Embedder, seen: Behaviour) -> WitnessRecord:
    """What was seen, with this platform and this moment."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return WitnessRecord(runtime_of(embedder), processor_of(embedder), now, seen)


def seen_to_cut_at(embedder: Embedder, tokens: int, threshold: float) -> bool:
    """Whether texts are cut at about ``tokens``, as far as answers tell without a tokenizer.

    Two texts that differ only behind that place must have one vector, up to ``threshold``; two
    that differ shortly before it must not. A word so frequent is one token of any tokenizer.
    """
    prompt = embedder.model.document_prompt
    before = tokens - len(_ENDINGS[0].split()) - _SPECIAL_TOKENS - len(prompt)

    def distance(words: int) -> float:
        first, second = (f"{'the ' * words}{ending}" for ending in _ENDINGS)
        answers = [embedder.embed_documents([text]) for text in (first, second)]
        return distances_of(*answers)[0]

    if before > 0 and distance(before) <= threshold:
        return False
    try:
        return distance(tokens) <= threshold
    except ConfigError:  # what is longer is refused, so nothing that was cut is ever stored
        return True


class _Side:
    """Asks, and keeps what a model said when it first refused a canary."""

    def __init__(self, model: EmbeddingModel) -> None:
        self._model, self.refusal = model, ""

    def alone(self, ask: _Ask, texts: Sequence[str]) -> Vectors:
        rows = [self._one(ask, text) for text in texts]
        widths = {len(row) for row in rows if row is not None}
        width = widths.pop() if len(widths) == 1 else self._model.dimensions
        vectors = np.zeros((len(texts), width), np.float32)
        for place, row in enumerate(rows):
            if row is not None and len(row) == width:
                vectors[place] = row
        return vectors

    def _one(self, ask: _Ask, text: str) -> Vectors | None:
        try:
            with named_by_type(self._model, 1):
                answer: Vectors = np.asarray(ask([text]), np.float32)
        except ModelRaised:
            raise
        except BadAnswer as error:  # some canaries have no token that a model knows
            said = error.message + (f": {error.found}" if error.found else "")
            self.refusal = self.refusal or ("" if isinstance(error, ZeroVector) else said)
            return None
        if answer.ndim != 2 or answer.shape[0] != 1 or not np.isfinite(answer).all():
            self.refusal = self.refusal or f"answered with the shape {answer.shape}, or not finite"
            return None
        row: Vectors = answer[0]
        return row

    def together(self, ask: _Ask, texts: Sequence[str], alone: Vectors) -> Vectors:
        answered = [place for place, row in enumerate(alone) if row.any()]
        vectors = alone.copy()
        try:
            vectors[answered] = ask([texts[place] for place in answered])
        except BadAnswer as error:
            self.refusal = self.refusal or error.message
        return vectors
