"""The Protocol of a store: where indexes live.

Writing and reading are apart: a runner holds one ``IndexWriter`` a target index, an application
any number of ``IndexReader``. An index belongs to the catalog that is recorded in it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

from embedmigrate.embedders.base import Vectors
from embedmigrate.errors import ModelMismatch
from embedmigrate.models.index_spec import Metric

Filter = Mapping[str, Any]
"""Metadata a hit must have: field -> value, or field -> list of accepted values."""


class StoreConfig(BaseModel):
    """What every store's configuration has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    metric: Metric = "cosine"

    @property
    def database(self) -> str | None:
        """The SQLAlchemy URL of the database that the indexes are in, which is where the catalog
        then belongs, too; None for a store that is no SQL database."""
        return None

    @property
    def remote(self) -> bool:
        """Whether other machines use the same indexes."""
        return self.database is not None


@dataclass(frozen=True)
class IndexManifest:
    """What an index says of itself, so that it can be recognised without the catalog."""

    index: str
    collection: str
    catalog_id: str
    spec_digest: str
    fingerprint: str
    """Space of every vector in the index."""
    dimensions: int
    metric: Metric
    normalized: bool
    """Whether the model makes unit vectors, so that cosine is the inner product as it stands."""
    factory: str
    generation: int = 0
    """Last generation in which the index was live; 0 before the first."""


@dataclass(frozen=True, slots=True)
class Row:
    """One vector's companion: everything about it but the vector."""

    id: str
    chunk: int
    seq: int
    content_hash: bytes
    metadata_hash: bytes
    metadata: Mapping[str, Any]


class StoredState(NamedTuple):
    """What a diff compares, on the side of the index."""

    id: str
    chunk: int
    seq: int
    content_hash: bytes
    metadata_hash: bytes


class Stamp(NamedTuple):
    """Provenance of a vector, written in the same write as the vector."""

    fingerprint: str
    run: str
    vectors: int


def by_fingerprint(stamps: Iterable[Stamp]) -> dict[str, int]:
    """Vectors by the space that they are stamped with, whatever run wrote them."""
    counts: dict[str, int] = {}
    for stamp in stamps:
        counts[stamp.fingerprint] = counts.get(stamp.fingerprint, 0) + stamp.vectors
    return counts


def refuse_other_space(manifest: IndexManifest, space: str, accepts: Collection[str]) -> None:
    """``ModelMismatch`` unless vectors of ``space`` belong into the index (I4)."""
    if not space:
        raise ModelMismatch(
            f"vectors without a fingerprint are not written to index {manifest.index}",
            found="vectors of an unknown model",
            expected=f"vectors of {manifest.fingerprint}",
            next_step="say which model made them",
        )
    if space != manifest.fingerprint and space not in accepts:
        raise ModelMismatch(
            f"vectors of another model are not written to index {manifest.index}",
            found=f"vectors of {space}",
            expected=f"vectors of {manifest.fingerprint}",
            next_step="embed the documents with the model of the index; to change it, write a "
            "revision",
        )


class Written(NamedTuple):
    """What a write did, in documents: applied, and refused because newer rows stood there."""

    applied: int
    outdated: int


class Hit(NamedTuple):
    """One result. ``score`` is greater for nearer, whatever the metric (l2: minus distance²)."""

    id: str
    chunk: int
    score: float
    metadata: dict[str, Any]


@dataclass(frozen=True)
class IndexStatistics:
    """Figures of one index: live and dead vectors, and what its files hold."""

    vectors: int
    documents: int
    dead: int
    bytes: int
    ann_through: int
    """Vectors (dead ones included) that the ANN structure covers; the rest is searched exactly."""


class BuildProgress(NamedTuple):
    """How far ``IndexWriter.build`` is, in whatever the store counts."""

    phase: str
    done: int
    total: int
    """0 where the store cannot say."""


class IndexReader(Protocol):
    """A consistent view of one index that follows later writes. Safe for many threads."""

    manifest: IndexManifest

    def search(
        self, queries: Vectors, k: int, filter: Filter | None = None, *, exact: bool = False
    ) -> list[list[Hit]]:
        """The ``k`` nearest live vectors of each query ``(n, dimensions)``, best first.

        ``exact`` ignores any ANN structure. Raises ``IndexGone`` when the index was dropped.
        """

    def states(self) -> Iterator[StoredState]:
        """Live rows in ascending order of the UTF-8 bytes of (id, chunk); one snapshot."""

    def get(self, ids: Sequence[str]) -> list[StoredState]:
        """The live rows of these documents."""

    def vectors(self, keys: Sequence[tuple[str, int]]) -> Vectors:
        """The stored vectors of (id, chunk), row by row; ``KeyError`` names a missing one."""

    def blocks(self, size: int = 8192) -> Iterator[Vectors]:
        """Every live vector, in blocks of at most ``size`` rows."""

    def stamps(self, sample: int | None = None) -> list[Stamp]:
        """Live vectors counted by provenance, read from the rows themselves.

        With ``sample``, of about so many vectors alone: some of the newest and others at random,
        in a time that does not grow with the index.
        """

    def statistics(self) -> IndexStatistics: ...

    def problems(self) -> list[str]:
        """Damage found by reading everything: checksums, sizes, duplicates. Empty is sound."""

    def close(self) -> None: ...


class IndexWriter(Protocol):
    """The one writer of an index under a lock epoch. Used by one thread at a time."""

    manifest: IndexManifest

    def write(self, rows: Sequence[Row], vectors: Vectors, *, space: str) -> Written:
        """Upsert documents: ``rows`` and their ``vectors`` ``(len(rows), dimensions)``; durable.

        The rows of a document, all of one ``seq``, are all of its chunks: what else is stored of it
        is removed in the same commit, so that no reader sees a document half old and half new.

        ``space`` is the fingerprint of the model that made the vectors: ``ModelMismatch`` unless it
        is the index's, or one that the store was told is proven equal (I4), whatever the dimension.
        A document is applied unless a stored row or the tombstone of it has a greater ``seq``. All
        or nothing. The writer stamps every row with ``space``, its run and the time.
        Raises ``FencedOut`` when a later epoch owns the index.
        """

    def begin(self, run: str) -> None:
        """Stamp what is written from now on with ``run``."""

    def discard(self, run: str) -> int:
        """Remove every row that is stamped with ``run``, and leave no tombstones.

        For work that turned out not to count; what it had replaced does not come back. Returns the
        number of rows.
        """

    def write_metadata(self, rows: Sequence[Row]) -> Written:
        """Replace seq, hashes and metadata of rows that exist, keeping their vectors.

        The rows of a document are all of its chunks, of one ``seq``; see ``write``.
        """

    def delete(self, documents: Sequence[tuple[str, int]]) -> Written:
        """Delete every chunk of (document id, seq) unless the stored seq is greater.

        Leaves a tombstone with the seq, so that a write that was read before cannot undo it.
        """

    def find_vectors(self, hashes: Sequence[bytes]) -> dict[bytes, Vectors]:
        """Vectors ``(dimensions,)`` of live rows with these content hashes, where there are any."""

    def existing(self, ids: Sequence[str]) -> list[StoredState]:
        """The live rows of these documents, own writes included."""

    def forget_tombstones(self, before_seq: int) -> int:
        """Drop tombstones with a smaller seq, once every cursor has passed them."""

    def build(self) -> None:
        """Build what makes searching fast, through everything written; durable on return.

        Does nothing when what stands there is good enough.
        """

    def set_generation(self, generation: int) -> None:
        """Record in the index that it is, or was, live in this generation."""

    def close(self) -> None: ...


@runtime_checkable
class TellsProgress(Protocol):
    """A writer that can say how far ``build`` is: it calls ``on_progress``, from a thread."""

    on_progress: Callable[[BuildProgress], None] | None


class Store(Protocol):
    """A place that holds indexes. Constructed as ``Adapter(config, context)``."""

    Config: ClassVar[type[StoreConfig]]
    fenced: bool
    """Whether a writer whose epoch was overtaken is refused by the store itself."""
    factory: str
    """The index factory that the configuration asks for."""

    def create(self, manifest: IndexManifest) -> None:
        """Make an empty index. Creating one that exists with the same manifest is a no-op."""

    def writer(
        self, index: str, *, epoch: int, run: str, accepts: Collection[str] = ()
    ) -> IndexWriter:
        """Open for writing. ``accepts`` are other spaces that are proven equal to the index's."""

    def reader(self, index: str) -> IndexReader:
        """Open for reading; ``IndexGone`` when there is none, ``DamagedIndex`` names a bad file."""

    def manifests(self) -> Iterable[IndexManifest]:
        """Every index found in this place, known to the caller or not."""

    def drop(self, index: str) -> None:
        """Delete an index and everything of it. Idempotent."""

    def check_writable(self) -> None:
        """``StorageUnavailable`` when nothing can be written here."""
