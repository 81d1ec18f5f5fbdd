"""The Protocol of a source: the system of record that an index is a function of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, field_validator

from embedmigrate.errors import ConfigError
from embedmigrate.models.canonical import canonical_json

HASH_BYTES = 16
"""Length of a content or metadata hash: the first 128 bits of a SHA-256."""


def content_hash(text: str) -> bytes:
    """Hash of exactly the text that is embedded (UTF-8; lone surrogates kept)."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:HASH_BYTES]


NO_TEXT = content_hash("")
"""Content hash of a document that has no text to embed."""


def hash_of_chunks(chunks: Iterable[tuple[int, bytes]]) -> bytes:
    """Content hash of a document from the number and the content hash of each of its chunks.

    That of a document of one chunk is the chunk's own.
    """
    numbered = list(chunks)
    if len(numbered) == 1 and numbered[0][0] == 0:
        return numbered[0][1]
    whole = hashlib.sha256(b"chunks\n")
    for number, hashed in numbered:
        whole.update(number.to_bytes(8, "big", signed=True) + hashed)
    return whole.digest()[:HASH_BYTES]


NO_METADATA = hashlib.sha256(b"{}").digest()[:HASH_BYTES]


def metadata_hash(metadata: Mapping[str, Any]) -> bytes:
    """Hash of the metadata as canonical JSON."""
    if not metadata:
        return NO_METADATA
    return hashlib.sha256(canonical_json(metadata).encode("ascii")).digest()[:HASH_BYTES]


class DocumentState(NamedTuple):
    """What a diff compares: a document without its text."""

    id: str
    content_hash: bytes
    metadata_hash: bytes


class Passage(NamedTuple):
    """What one vector is made of: a chunk of a document, or all of its text."""

    text: str
    content_hash: bytes


@dataclass(frozen=True, slots=True)
class Document:
    """One document as a recipe sees it. ``text`` is ``""`` when there is nothing to embed.

    ``metadata`` holds JSON values only; a source turns dates, decimals, UUIDs and the like into
    strings so that hash, store and filter agree about them.
    """

    id: str
    text: str
    metadata: dict[str, Any]
    content_hash: bytes
    metadata_hash: bytes
    chunks: tuple[Passage, ...] = ()
    """Of a document that is cut; its content hash is then ``hash_of_chunks``."""

    @classmethod
    def make(cls, id: str, text: str, metadata: dict[str, Any]) -> Document:
        return cls(id, text, metadata, content_hash(text), metadata_hash(metadata))

    @property
    def state(self) -> DocumentState:
        return DocumentState(self.id, self.content_hash, self.metadata_hash)

    @property
    def passages(self) -> tuple[Passage, ...]:
        """What is embedded, in order of chunk; nothing of a document without a text."""
        if self.chunks or not self.text:
            return self.chunks
        return (Passage(self.text, self.content_hash),)


class KeyRange(NamedTuple):
    """The documents with ``after < id <= until`` in the source's own order; None is open."""

    after: str | None
    until: str | None
    documents: int


class SourceConfig(BaseModel):
    """What every source's configuration has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    text: tuple[str, ...]
    metadata: tuple[str, ...] = ()

    @field_validator("text", "metadata", mode="before")
    @classmethod
    def _one_name_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class Captured(NamedTuple):
    """A change that a source recorded itself. What it was is a hint: the document is read again."""

    number: int
    document_id: str
    change: str
    """``changed`` or ``deleted``."""
    tag: str
    """Random, and never the same for two changes: by it a recording that was set back is told."""


class Capture(Protocol):
    """The recording of a source that notes every change in the transaction that makes it."""

    def token(self) -> str | None:
        """Which recording this is; None while nothing is recorded.

        Another token than before means that changes may have been missed in between.
        """

    def head(self) -> int:
        """The number of the last change that was recorded, forgotten or not; 0 for none."""

    def read(self, after: int, limit: int) -> list[Captured]:
        """At most ``limit`` changes with a number greater than ``after``, in order of commit.

        Numbers have no gaps.
        """

    def forget(self, before: int) -> None:
        """Drop the changes with a smaller number, which nobody will ask for again."""


class Recording(Capture, Protocol):
    """A ``Capture`` that is put into a source, and taken away again."""

    def ddl(self) -> list[str]:
        """The statements that start a recording, for whoever may change the table."""

    def removal(self) -> list[str]:
        """The statements that end it."""

    def is_there(self) -> bool:
        """Whether something of a recording is there, whole or not."""

    def install(self) -> bool:
        """Start recording; False when it is being recorded already, which is then left alone."""

    def remove(self) -> bool:
        """End the recording and drop what it holds; False when there was none."""

    def unseen(self) -> list[str]:
        """Names of what can change a document without being recorded."""


@runtime_checkable
class CanStandStill(Protocol):
    """A source whose writers can be held off for a moment."""

    @property
    def capture(self) -> Capture | None: ...

    def standstill(self) -> AbstractContextManager[None]:
        """Nothing is committed to the source until the block ends; reading it goes on.

        Raises ``Temporary`` when somebody's transaction is in the way for too long, ``ConfigError``
        where writers cannot be held off.
        """


def cannot_stand_still(found: str) -> ConfigError:
    """The error for a source whose writers cannot be held off."""
    return ConfigError(
        "the writers of the source cannot be held off",
        found=found,
        expected="a table in PostgreSQL",
        next_step="leave strict_cut_seconds out of the configuration",
    )


ChangedSince = Callable[[Any], tuple[list[str], Any]]
"""From a watermark (JSON; None at first) to the documents that changed since, and the next one."""


class Source(Protocol):
    """A system of record, seen through one recipe.

    Constructed as ``Adapter(config, recipe, context)``; it makes whole texts, which are cut
    elsewhere where the recipe of an index has a chunker. Ids are injective: two records never
    share one, and an id leads back to its record. Reading is streamed: memory does not grow with
    the number of documents. One instance serves one thread at a time, except ``get``, ``scan`` and
    ``states``, each of which may run in a thread of its own.
    """

    Config: ClassVar[type[SourceConfig]]

    bytewise: bool
    """Whether ``scan`` and ``states`` yield ids in ascending order of their UTF-8 bytes."""

    @property
    def capture(self) -> Capture | None:
        """Its recording of changes; None for a source that has none to offer."""

    @property
    def changed_since(self) -> ChangedSince | None:
        """A hint at edited and new documents; None without one. Deleted ones it never tells."""

    def prepare(self) -> int:
        """Make the source ready to be read and return the number of documents.

        Idempotent; called again, it notices a file that changed since. Raises ``ConfigError`` for
        a missing file, table or field, ``DuplicateId`` for an id that occurs twice or is missing.
        """

    def partition(self, size: int) -> Iterator[KeyRange]:
        """Cut the whole source, in its own order, into ranges of ``size`` documents."""

    def scan(self, after: str | None = None, until: str | None = None) -> Iterator[Document]:
        """The documents of a key range, in the source's own order."""

    def get(self, ids: Sequence[str]) -> dict[str, Document]:
        """The documents of these ids as they are now; an id that is gone is left out.

        An id that this source could never have made is simply not found.
        """

    def states(self) -> Iterator[DocumentState]:
        """Id and hashes of every document, in the source's own order."""

    def close(self) -> None:
        """Release files and connections. Idempotent."""
