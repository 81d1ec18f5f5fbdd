"""What applications import: search a collection with the model that its live index was made by.

Needs the configuration, the catalog and the store; imports no Alembic and needs no scripts except
the pin files beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np

from embedmigrate import resolve
from embedmigrate.catalog import Catalog, indexes, routes, spaces
from embedmigrate.catalog.records import IndexState
from embedmigrate.config import Settings, load_settings
from embedmigrate.embedders.base import Embedder, Vectors
from embedmigrate.errors import IndexGone, ModelMismatch, UsageError
from embedmigrate.models import EmbeddingModel
from embedmigrate.serving import Pair, Server
from embedmigrate.stores.base import Filter, Hit, IndexReader

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class SearchResult:
    """Hits, best first, and the one (index, model, generation) that they came from."""

    hits: list[Hit]
    generation: int
    model: str
    """Name of the model; ``fingerprint`` says which exactly."""
    fingerprint: str
    index: str


@dataclass(frozen=True)
class RouteView:
    """A consistent view of the route: what it gives belongs together until its block ends."""

    index: str
    generation: int
    model: EmbeddingModel
    _reader: IndexReader = field(repr=False)
    _embedder: Embedder = field(repr=False)

    def embed_query(self, text: str) -> Vectors:
        """The query vector ``(dimensions,)`` of ``text``, with the model of this route."""
        vector: Vectors = self._embedder.embed_queries([_as_text(text)])[0]
        return vector

    def search_vector(
        self, vector: Vectors, k: int = 10, filter: Filter | None = None
    ) -> list[Hit]:
        """The ``k`` documents nearest to a query vector of this route's model."""
        _require_filter(filter)
        return self._reader.search(_as_queries(vector), k, filter)[0]


class Collection:
    """A collection as an application sees it. Safe for many threads, not across a fork: a server
    that forks opens it in each worker. Close it when done.

    The route is checked at every call: after a cut-over or a rollback the next call serves the new
    pair, without a restart. A candidate is opened and warmed before it goes live.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        """Use ``Collection.open``."""
        self.name, self._settings = name, settings
        configured = settings.collection(name)
        self._catalog = Catalog(settings.catalog_url, create=False)
        try:
            self._refuse_other_models((configured.model, *configured.also_accept))
            self._server = Server(
                self._catalog,
                name,
                settings.open_store(name),
                lambda model: resolve.load_embedder(settings, model),
                settings.general.switch_grace,
            )
        except BaseException:
            self._catalog.close()
            raise

    @classmethod
    def open(cls, name: str, config: Path | str | Settings | None = None) -> Collection:
        """Open a collection of the configuration (found as the command line finds it, or given).

        Raises ``ModelMismatch`` when what is live is neither the configured model, nor one in
        ``also_accept``, nor the other end of a transition that is under way; ``IndexGone`` when
        nothing is live yet.
        """
        settings = config if isinstance(config, Settings) else load_settings(config)
        collection = cls(settings, name)
        try:
            with collection.route():
                return collection
        except BaseException:
            collection.close()
            raise

    def search(self, text: str, k: int = 10, filter: Filter | None = None) -> SearchResult:
        """The ``k`` documents nearest to a query, best first.

        ``filter`` is metadata that a hit must have: field -> value or list of accepted values.
        """
        return self.search_many([text], k, filter)[0]

    def search_many(
        self, texts: Sequence[str], k: int = 10, filter: Filter | None = None
    ) -> list[SearchResult]:
        """The same for several queries at once, all from one generation."""
        if isinstance(texts, str):
            raise UsageError("search_many takes a list of texts", next_step="use search")
        queries = [_as_text(text) for text in texts]
        _require_filter(filter)

        def ask(pair: Pair) -> list[SearchResult]:
            opened = pair.opened
            found = opened.reader.search(opened.embedder.embed_queries(queries), k, filter)
            return [_result(pair, hits) for hits in found]

        return self._retrying(ask)

    def search_vector(
        self, vector: Vectors, space: str, k: int = 10, filter: Filter | None = None
    ) -> SearchResult:
        """Search with a vector that the caller made.

        ``space`` is the fingerprint (or ``name@fingerprint``) of the model that made it;
        ``ModelMismatch`` unless that is the space that is served now, or proven equal to it.
        """
        _require_filter(filter)

        def ask(pair: Pair) -> SearchResult:
            served = pair.opened.index.model
            if not self._is_equal(space.rpartition("@")[2], served.fingerprint):
                raise ModelMismatch(
                    f"a vector of another space cannot be searched in {self.name!r}",
                    found=space,
                    expected=served.reference,
                    next_step="embed the query with the model that is served: Collection.route()",
                )
            return _result(pair, pair.opened.reader.search(_as_queries(vector), k, filter)[0])

        return self._retrying(ask)

    @contextmanager
    def route(self) -> Iterator[RouteView]:
        """Index, generation and query model that stay consistent until the block ends."""
        with self._server.serve() as pair:
            opened = pair.opened
            yield RouteView(
                opened.index.name,
                pair.generation,
                opened.index.model,
                opened.reader,
                opened.embedder,
            )

    def close(self) -> None:
        """Release index, models and catalog. Idempotent."""
        self._server.close()
        self._catalog.close()

    def __enter__(self) -> Collection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _retrying(self, ask: Callable[[Pair], _Answer]) -> _Answer:
        """An index that was dropped under a slow reader makes it resolve the route once more."""
        try:
            with self._server.serve() as pair:
                return ask(pair)
        except IndexGone:
            self._server.forget()
            with self._server.serve() as pair:
                return ask(pair)

    def _is_equal(self, space: str, served: str) -> bool:
        if space == served:
            return True
        with self._catalog.read() as connection:
            return space in spaces.equal_to(connection, served)

    def _refuse_other_models(self, accepted: Sequence[str]) -> None:
        with self._catalog.read() as connection:
            route = routes.get(connection, self.name)
            if route.live_index is None:
                return
            live = indexes.get(connection, route.live_index)
            around = indexes.of_collection(
                connection, self.name, IndexState.READY, IndexState.RETAINED
            )
        expected = [resolve.pinned(self._settings, name) for name in accepted]
        fingerprints = {model.fingerprint for model in expected}
        in_transition = any(index.fingerprint in fingerprints for index in around)
        if live.fingerprint not in fingerprints and not in_transition:
            raise ModelMismatch(
                f"{self.name!r} serves another model than this application is configured for",
                found=live.model.reference,
                expected=" or ".join(model.reference for model in expected),
                next_step="embedmigrate upgrade, or name the live model in `model` or "
                "`also_accept`",
            )


def _as_text(query: object) -> str:
    if not isinstance(query, str):
        raise UsageError(
            "the query is not a text",
            found=type(query).__name__,
            expected="str",
            next_step="pass the text to search for; search_vector takes vectors",
        )
    if not query.strip():
        raise UsageError(
            "the query is empty",
            expected="a text with more than white space",
            next_step="pass the text to search for",
        )
    return query


def _require_filter(filter: object) -> None:
    if filter is not None and not isinstance(filter, Mapping):
        raise UsageError(
            "the filter is not a mapping",
            found=type(filter).__name__,
            expected="field -> value or list of accepted values",
            next_step='write it as {"field": "value"}',
        )


def _as_queries(vector: Vectors) -> Vectors:
    return np.ascontiguousarray(vector, dtype=np.float32).reshape(1, -1)


def _result(pair: Pair, hits: list[Hit]) -> SearchResult:
    index = pair.opened.index
    return SearchResult(hits, pair.generation, index.model.name, index.fingerprint, index.name)
