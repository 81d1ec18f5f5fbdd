"""A source whose documents are cut into chunks, as a recipe says.

Adapters know whole texts alone. The content hash of a document that is cut covers its chunks, so
that whoever compares documents by their hashes compares every chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import ClassVar

from embedmigrate.models import Chunker, Recipe
from embedmigrate.sources.base import (
    CanStandStill,
    Capture,
    ChangedSince,
    Document,
    DocumentState,
    KeyRange,
    Passage,
    Source,
    SourceConfig,
    cannot_stand_still,
    content_hash,
    hash_of_chunks,
)


def seen_through(recipe: Recipe, source: Source) -> Source:
    """``source``, which knows nothing of chunks, with its documents cut by ``recipe``."""
    return source if recipe.chunker is None else CutSource(source, recipe.chunker)


class CutSource:
    """The documents of ``source``, cut. Reads every text where the source alone reads hashes."""

    Config: ClassVar[type[SourceConfig]] = SourceConfig

    def __init__(self, source: Source, chunker: Chunker) -> None:
        self._source, self._chunker = source, chunker
        self.bytewise = source.bytewise

    @property
    def capture(self) -> Capture | None:
        return self._source.capture

    @property
    def changed_since(self) -> ChangedSince | None:
        return self._source.changed_since

    def prepare(self) -> int:
        return self._source.prepare()

    def partition(self, size: int) -> Iterator[KeyRange]:
        """Ranges of at most ``size`` chunks; a document of more has one to itself."""
        after: str | None = None
        last: str | None = None
        documents = chunks = 0
        for document in self.scan():
            more = max(1, len(document.passages))  # one without a text is looked at, too
            if documents and chunks + more > size:
                yield KeyRange(after, last, documents)
                after, documents, chunks = last, 0, 0
            last = document.id
            documents += 1
            chunks += more
        if documents:
            yield KeyRange(after, last, documents)

    def scan(self, after: str | None = None, until: str | None = None) -> Iterator[Document]:
        return map(self._cut, self._source.scan(after, until))

    def get(self, ids: Sequence[str]) -> dict[str, Document]:
        return {id: self._cut(document) for id, document in self._source.get(ids).items()}

    def states(self) -> Iterator[DocumentState]:
        return (document.state for document in self.scan())

    def standstill(self) -> AbstractContextManager[None]:
        if isinstance(self._source, CanStandStill):
            return self._source.standstill()
        raise cannot_stand_still(type(self._source).__name__)

    def close(self) -> None:
        self._source.close()

    def _cut(self, document: Document) -> Document:
        chunks = tuple(
            Passage(text, content_hash(text)) for text in self._chunker.cut(document.text)
        )
        if not chunks:
            return document
        whole = hash_of_chunks(enumerate(chunk.content_hash for chunk in chunks))
        return replace(document, content_hash=whole, chunks=chunks)
