"""Candidates: how a vector of unknown origin may have been made, and making it that way again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from embedmigrate.embedders.base import Embedder, Vectors, checked, named_by_type
from embedmigrate.engine.embedding import CALL_SIZE
from embedmigrate.engine.job import StopSignal
from embedmigrate.errors import BadAnswer
from embedmigrate.models import EmbeddingModel, Recipe
from embedmigrate.sources.values import DocumentMaker

Prompt = Literal["document", "none", "query"]
"""The prompt of the model that was put before a document's text."""

JOINERS = (" ", "\n", "\n\n", ". ")
"""What people put between title and text."""

Record = Mapping[str, Any]
"""The fields of a document, as its source has them."""


@runtime_checkable
class Unprompted(Protocol):
    """An embedder that can also leave its prompts out."""

    def embed_unprompted(self, texts: Sequence[str]) -> Vectors:
        """As ``Embedder.embed_documents``, without any prompt."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way in which vectors may have been made. ``label`` is its name in reports."""

    label: str
    embedder: Embedder
    recipe: Recipe
    prompt: Prompt = "document"

    @property
    def model(self) -> EmbeddingModel:
        return self.embedder.model

    @cached_property
    def space(self) -> str:
        """Fingerprint of the space that documents get into with this prompt."""
        prompt = _words(self.model, self.prompt)
        if prompt == self.model.document_prompt:
            return self.model.fingerprint
        other = {"document_prompt": prompt, "fingerprint": ""}
        return EmbeddingModel.model_validate(self.model.model_dump() | other).fingerprint

    @cached_property
    def _maker(self) -> DocumentMaker:
        return DocumentMaker(self.recipe, ())

    def text(self, record: Record) -> str:
        """The text of a document, as a source makes it; raises ``UnusableRecord`` as that does."""
        return self._maker.content([record.get(field) for field in self.recipe.text], ())[0]

    def embed(self, texts: Sequence[str]) -> Vectors:
        """float32 ``(len(texts), model.dimensions)``, checked."""
        return checked(self._ask(texts), len(texts), self.model)

    def _ask(self, texts: Sequence[str]) -> Vectors:
        if _words(self.model, self.prompt) == self.model.document_prompt:
            return self.embedder.embed_documents(texts)
        if self.prompt == "query":
            return self.embedder.embed_queries(texts)
        if isinstance(self.embedder, Unprompted):
            return self.embedder.embed_unprompted(texts)
        raise TypeError(f"{self.label}: {type(self.embedder).__name__} cannot leave its prompt out")


def common_recipes(text_fields: Sequence[str], joiners: Sequence[str] = JOINERS) -> list[Recipe]:
    """The recipes that people use, the one in use first: put the configured joiner first.

    All fields in order with each joiner, all in reverse with each, and each field alone. Different
    recipes may still make the same texts, of documents without a title for example.
    """
    fields = tuple(text_fields)
    orders = [fields, fields[::-1]] if len(fields) > 1 else []
    several = [Recipe(text=order, joiner=joiner) for order in orders for joiner in joiners]
    alone = [Recipe(text=(field,)) for field in fields]
    return list(dict.fromkeys(several + alone))


def prompts_of(embedder: Embedder) -> list[Prompt]:
    """The document prompt, none and the query prompt, as far as they differ and can be had."""
    words: dict[str, Prompt] = {}
    for prompt in ("document", "none", "query"):
        if prompt != "none" or isinstance(embedder, Unprompted):
            words.setdefault(_words(embedder.model, prompt), prompt)
    return list(words.values())


def candidates_of(name: str, embedder: Embedder, recipes: Sequence[Recipe]) -> list[Candidate]:
    """One candidate for each recipe and prompt of a model; ``name`` is what people call it."""
    return [
        Candidate(f"{name}: {_described(recipe, prompt)}", embedder, recipe, prompt)
        for prompt in prompts_of(embedder)
        for recipe in recipes
    ]


def _words(model: EmbeddingModel, prompt: Prompt) -> str:
    return {"document": model.document_prompt, "none": "", "query": model.query_prompt}[prompt]


def _described(recipe: Recipe, prompt: Prompt) -> str:
    text = " + ".join(recipe.text)
    if len(recipe.text) > 1 and recipe.joiner != " ":
        text += f" joined by {recipe.joiner!r}"
    return text if prompt == "document" else f"{text}, {_PROMPTS[prompt]}"


_PROMPTS = {"none": "no prompt", "query": "query prompt"}


class Embedded:
    """What the candidates make of texts. Each text is embedded once a space, and counted."""

    def __init__(self, stop: StopSignal | None = None) -> None:
        self.embeddings = 0
        """Texts that models were asked for."""
        self._stop = stop or StopSignal()
        self._known: dict[str, dict[str, Vectors | None]] = {}

    def vectors(self, candidate: Candidate, texts: Sequence[str]) -> Vectors:
        """``(len(texts), dimensions)``; a row of NaN where the model has no vector for a text.

        That is so for ``""``, and for a text without a token that the model knows.
        """
        known = self._known.setdefault(candidate.space, {"": None})
        missing = sorted(
            {text for text in texts if text not in known}, key=lambda it: (len(it), it)
        )
        for start in range(0, len(missing), CALL_SIZE):
            self._stop.check()
            some = missing[start : start + CALL_SIZE]
            self.embeddings += len(some)
            with named_by_type(candidate.model, len(some)):
                known.update(zip(some, _each(candidate, some), strict=True))
        vectors = np.full((len(texts), candidate.model.dimensions), np.nan, np.float32)
        for row, text in enumerate(texts):
            if (vector := known[text]) is not None:
                vectors[row] = vector
        return vectors


def _each(candidate: Candidate, texts: Sequence[str]) -> Sequence[Vectors | None]:
    """A vector for each text. One text that the model has no vector for does not fail the others.

    What fails of the runtime itself, as a whole, is not asked again text by text.
    """
    try:
        return list(candidate.embed(texts))
    except BadAnswer:
        if len(texts) == 1:
            return [None]
        answers = [answer for text in texts for answer in _each(candidate, [text])]
        if not any(answer is not None for answer in answers):
            raise
        return answers
