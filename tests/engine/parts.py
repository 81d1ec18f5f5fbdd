"""Small parts for engine tests: a source in memory, and the hashing embedder made to misbehave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import ClassVar, Self

from embedmigrate.catalog import Catalog, indexes
from embedmigrate.catalog.locks import Lease
from embedmigrate.context import AdapterContext
from embedmigrate.embedders.base import ModelConfig, Vectors
from embedmigrate.embedders.hashing import HashingConfig, HashingEmbedder
from embedmigrate.engine.job import Job
from embedmigrate.engine.lock import held
from embedmigrate.models import EmbeddingModel, IndexSpec, Recipe
from embedmigrate.models.canaries import CANARIES
from embedmigrate.sources.base import (
    Capture,
    ChangedSince,
    Document,
    DocumentState,
    KeyRange,
    SourceConfig,
)
from embedmigrate.stores.faiss.store import FaissConfig, FaissStore
from tests.asking import who_asks

RECIPE = Recipe(text=("text",))
HASHING = HashingConfig(provider="hashing-not-a-model", dimensions=16)


class ListSource:
    """Documents in a dict, in byte order of their ids; tests change the dict."""

    Config: ClassVar[type[SourceConfig]] = SourceConfig
    bytewise = True
    capture: Capture | None = None
    changed_since: ChangedSince | None = None

    def __init__(self, texts: dict[str, str]) -> None:
        self.texts = texts
        self.metadata: dict[str, dict[str, str]] = {}
        self.before_scan: Callable[[], None] = lambda: None

    def _document(self, id: str) -> Document:
        return Document.make(id, self.texts[id], dict(self.metadata.get(id, {})))

    def prepare(self) -> int:
        return len(self.texts)

    def partition(self, size: int) -> Iterator[KeyRange]:
        ids = sorted(self.texts)
        after = None
        for start in range(0, len(ids), size):
            page = ids[start : start + size]
            yield KeyRange(after, page[-1], len(page))
            after = page[-1]

    def scan(self, after: str | None = None, until: str | None = None) -> Iterator[Document]:
        self.before_scan()
        for id in sorted(self.texts):
            if (after is None or id > after) and (until is None or id <= until):
                yield self._document(id)

    def get(self, ids: Sequence[str]) -> dict[str, Document]:
        return {id: self._document(id) for id in ids if id in self.texts}

    def states(self) -> Iterator[DocumentState]:
        for id in sorted(self.texts):
            yield self._document(id).state

    def close(self) -> None:
        pass


class UnsortedSource(ListSource):
    """The same documents in an order that is not that of their ids."""

    bytewise = False

    def states(self) -> Iterator[DocumentState]:
        for id in sorted(self.texts, key=lambda id: id[::-1]):
            yield self._document(id).state


CANARY_TEXTS = frozenset(canary.text for canary in CANARIES)


class CountingEmbedder:
    """The hashing embedder, with a record of what it was asked and a way to answer wrongly.

    A text that is asked for again, to see whether vectors are in order, is not in the record.
    """

    Config: ClassVar[type[ModelConfig]] = ModelConfig
    runtime = "counting"

    def __init__(self, spoil: Callable[[Vectors], Vectors] = lambda vectors: vectors) -> None:
        self.model = HashingEmbedder.identify("hashing", HASHING, Path())
        self._embedder = HashingEmbedder.load(HASHING, self.model, Path())
        self.asked: list[str] = []
        self.spoil = spoil
        self.spoil_canaries: Callable[[Vectors], Vectors] = lambda vectors: vectors

    @classmethod
    def identify(cls, name: str, config: ModelConfig, root: Path) -> EmbeddingModel:
        return HashingEmbedder.identify("hashing", HASHING, root)

    @classmethod
    def load(cls, config: ModelConfig, model: EmbeddingModel, root: Path) -> Self:
        return cls()

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        vectors = self._embedder.embed_documents(texts)
        if CANARY_TEXTS.issuperset(texts):
            return self.spoil_canaries(vectors)
        if who_asks() != "ordering":
            self.asked += texts
        return self.spoil(vectors)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return self._embedder.embed_queries(texts)

    def close(self) -> None:
        self._embedder.close()


class Bench:
    """A collection `things` with a catalog, a FAISS store, a source and an embedder."""

    def __init__(self, root: Path, source: ListSource, factory: str = "Flat") -> None:
        context = AdapterContext(root=root, work_dir=root / "work", collection="things")
        self.source, self.embedder = source, CountingEmbedder()
        self.catalog = Catalog(f"sqlite:///{root}/catalog.db")
        self.spec = IndexSpec(
            model=self.embedder.model, recipe=RECIPE, store_kind="faiss", factory=factory
        )
        self.job = Job(
            collection="things",
            catalog=self.catalog,
            store=FaissStore(FaissConfig(kind="faiss", path="indexes", factory=factory), context),
            open_source=lambda recipe: self.source,
            load_embedder=lambda model: self.embedder,
            work_dir=root / "work",
            batch_size=8,
        )
        with self.catalog.write() as connection:
            indexes.ensure_collection(connection, "things")

    @contextmanager
    def locked(self) -> Iterator[Lease]:
        with held(self.job) as lease:
            yield lease

    def stored(self, index: str) -> dict[str, bytes]:
        """Content hash by document id, read from the store."""
        with closing(self.job.store.reader(index)) as reader:
            return {state.id: state.content_hash for state in reader.states()}

    def close(self) -> None:
        self.job.close()
        self.catalog.close()
