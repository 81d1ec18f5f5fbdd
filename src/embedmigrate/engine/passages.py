"""Documents and the passages that are embedded of them: rows to write, and rows that are stored.

A document is whole in an index or not in it at all: its chunks are written, replaced, deleted and
found dead together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from embedmigrate.sources.base import Document, hash_of_chunks
from embedmigrate.stores.base import Row, StoredState


def rows_of(documents: Sequence[Document], seq: int) -> list[Row]:
    """The rows to write for documents that were read at journal position ``seq``."""
    return [
        Row(
            id=document.id,
            chunk=chunk,
            seq=seq,
            content_hash=passage.content_hash,
            metadata_hash=document.metadata_hash,
            metadata=document.metadata,
        )
        for document in documents
        for chunk, passage in enumerate(document.passages)
    ]


def in_groups(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    """Documents with at most ``size`` passages together; one of more stands alone."""
    group: list[Document] = []
    passages = 0
    for document in documents:
        more = len(document.passages)
        if group and passages + more > size:
            yield group
            group, passages = [], 0
        group.append(document)
        passages += more
    if group:
        yield group


def stored_documents(states: Iterable[StoredState]) -> Iterator[StoredState]:
    """One state a document, with its chunks as one content hash; ``states`` in order of id.

    Two sides that agree on it agree on every chunk, and that there is no other one.
    """
    for _, group in groupby(states, key=lambda state: state.id):
        chunks = sorted(group, key=lambda state: state.chunk)
        if len(chunks) == 1 and chunks[0].chunk == 0:
            yield chunks[0]
            continue
        numbered = {state.chunk: state.content_hash for state in reversed(chunks)}
        alike = len({state.metadata_hash for state in chunks}) == 1
        yield chunks[0]._replace(
            seq=max(state.seq for state in chunks),
            content_hash=hash_of_chunks(sorted(numbered.items())),
            metadata_hash=chunks[0].metadata_hash if alike else b"",
        )


def text_of(documents: Mapping[str, Document], state: StoredState) -> str | None:
    """The text that a stored vector was made of, where it still is part of its document."""
    document = documents.get(state.id)
    passages = document.passages if document is not None else ()
    if not 0 <= state.chunk < len(passages):
        return None
    passage = passages[state.chunk]
    return passage.text if passage.content_hash == state.content_hash else None
