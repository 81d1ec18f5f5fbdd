"""What applications import: search a collection with the model that its live index was made by.

Needs the configuration, the catalog and the store; imports no Alembic and needs no scripts except
the pin files beside them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from embedmigrate import resolve
from embedmigrate.catalog import Catalog, indexes, routes, spaces, witnesses
from embedmigrate.catalog.records import IndexState
from embedmigrate.config import Settings, load_settings
from embedmigrate.embedders.base import Embedder, Vectors
from embedmigrate.errors import EmbedMigrateError, IndexGone, ModelMismatch, UsageError
from embedmigrate.models import EmbeddingModel
from embedmigrate.models.drift import DriftReport
from embedmigrate.models.witness import Witness
from embedmigrate.serving import Pair, Server
from embedmigrate.startup import Expectation, validate_route
from embedmigrate.stores.base import Filter, Hit, IndexReader
from embedmigrate.watching import Hook, WitnessWatch

_Answer = TypeVar("_Answer")

_log = logging.getLogger(__name__)


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

    def __init__(self, settings: Settings, name: str, on_drift: Hook | None = None) -> None:
        """Use ``Collection.open``."""
        self.name, self._settings = name, settings
        configured = settings.collection(name)
        self._catalog = Catalog(settings.catalog_url, create=False)
        try:
            self._expected = Expectation(
                name,
                [
                    resolve.pinned(settings, it)
                    for it in (configured.model, *configured.also_accept)
                ],
                configured.store.metric,
            )
            if (notice := self._refuse_other_models()) is not None:
                _log.warning("in transition: %s", notice)
            self._server = Server(
                self._catalog,
                name,
                settings.open_store(name),
                lambda model: resolve.load_embedder(settings, model),
                settings.general.switch_grace,
            )
            self._watch = WitnessWatch(
                name, self._on_served, self._known_witness, configured.on_drift, on_drift
            )
        except BaseException:
            self._catalog.close()
            raise

    @classmethod
    def open(
        cls,
        name: str,
        config: Path | str | Settings | None = None,
        *,
        on_drift: Callable[[DriftReport], None] | None = None,
    ) -> Collection:
        """Open a collection of the configuration (found as the command line finds it, or given).

        Raises ``UnpinnedReference`` for a model that is not pinned; ``ModelMismatch``, by a class
        of its own for each kind, when what is live is neither the configured model, nor one in
        ``also_accept``, nor the other end of a transition that is under way, or when the index
        holds something else; ``Drifted`` when ``witness_at_open`` finds a model that is not itself
        (always checked for one that is only witnessed); ``IndexGone`` when nothing is live yet.
        ``on_drift`` hears the report whenever a check of the witness fails.
        """
        settings = config if isinstance(config, Settings) else load_settings(config)
        configured = settings.collection(name)
        collection = cls(settings, name, on_drift)
        try:
            with collection.route() as route:
                only_witnessed = route.model.assurance != "digest"
            if configured.witness_at_open or only_witnessed:
                collection.check_witness()
                with collection.route():
                    pass
            if configured.witness_every:
                collection._watch.start(configured.witness_every)
            return collection
        except BaseException:
            collection.close()
            raise

    def check_witness(self) -> DriftReport:
        """Ask the model that is served for the canaries, both sides, and compare, now.

        With ``on_drift = "refuse"``, searches raise ``Drifted`` until a later check passes.
        """
        return self._watch.check()

    def health(self) -> dict[str, Any]:
        """Is the live pair sound? For a readiness probe; never raises.

        ``ok``, ``problems`` (texts), what is served, ``in_transition`` (it is not the configured
        model), and the state of the ``witness``. Pending revisions have no part in it.
        """
        answer: dict[str, Any] = {
            "collection": self.name,
            "ok": True,
            "problems": [],
            "in_transition": False,
            "witness": self._watch.describe(),
        }
        try:
            notice = self._refuse_other_models()
            with self._server.serve() as pair:
                index = pair.opened.index
                answer |= {
                    "index": index.name,
                    "generation": pair.generation,
                    "model": index.model.reference,
                    "assurance": index.model.pinned_or_witnessed,
                    "provenance": "adopted" if index.adopted else "built",
                    "in_transition": notice is not None,
                }
                self._server.validate(pair.opened)
                pair.opened.reader.search(pair.opened.embedder.embed_queries(["health"]), 1)
                self._watch.refuse_drifted(index.model)
        except EmbedMigrateError as error:
            answer["ok"] = False
            answer["problems"].append(str(error))
        return answer

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
            self._watch.refuse_drifted(opened.index.model)
            yield RouteView(
                opened.index.name,
                pair.generation,
                opened.index.model,
                opened.reader,
                opened.embedder,
            )

    def close(self) -> None:
        """Release index, models and catalog. Idempotent."""
        self._watch.close()
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
            return self._asking(ask)
        except IndexGone:
            self._server.forget()
            return self._asking(ask)

    def _asking(self, ask: Callable[[Pair], _Answer]) -> _Answer:
        with self._server.serve() as pair:
            self._watch.refuse_drifted(pair.opened.index.model)
            return ask(pair)

    def _on_served(self, check: Callable[[Embedder], _Answer]) -> _Answer:
        with self._server.serve() as pair:
            return check(pair.opened.embedder)

    def _known_witness(self, model: EmbeddingModel) -> Witness:
        with self._catalog.read() as connection:
            return witnesses.known(connection, model, resolve.witness_of(self._settings, model))

    def _is_equal(self, space: str, served: str) -> bool:
        if space == served:
            return True
        with self._catalog.read() as connection:
            return space in spaces.equal_to(connection, served)

    def _refuse_other_models(self) -> str | None:
        """``ModelMismatch`` unless the application may serve what is live; see ``startup``."""
        with self._catalog.read() as connection:
            route = routes.get(connection, self.name)
            if route.live_index is None:
                return None
            live = indexes.get(connection, route.live_index)
            around = [
                index
                for index in indexes.of_collection(connection, self.name)
                if index.name == route.candidate_index
                or index.state in (IndexState.RETAINED, IndexState.ADOPTED)
            ]
        return validate_route(self._expected, live, around)


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
