"""What applications import: search a collection with the model that its live index was made by.

Needs the configuration, the catalog and the store; imports no Alembic and needs no scripts except
the pin files beside them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from embedmigrate import resolve
from embedmigrate.catalog import Catalog, indexes, routes, spaces, witnesses
from embedmigrate.catalog.records import IndexRecord, IndexState
from embedmigrate.changing import Changes
from embedmigrate.config import Settings, load_settings
from embedmigrate.embedders.base import Embedder, Vectors
from embedmigrate.errors import (
    Drifted,
    EmbedMigrateError,
    IndexGone,
    ModelMismatch,
    UsageError,
)
from embedmigrate.models import EmbeddingModel, Recipe
from embedmigrate.models.drift import DriftReport
from embedmigrate.models.witness import Witness
from embedmigrate.queries import as_queries, as_text, require_filter
from embedmigrate.serving import Pair, Server
from embedmigrate.sources.managed import ManagedConfig
from embedmigrate.startup import Expectation, is_one_of, probe, validate_route
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
    recipe: Recipe
    """How the texts are made and cut: ``recipe.make_chunks(record)[hit.chunk]`` is that of a hit,
    as long as the record is what it was."""
    _reader: IndexReader = field(repr=False)
    _embedder: Embedder = field(repr=False)

    def embed_query(self, text: str) -> Vectors:
        """The query vector ``(dimensions,)`` of ``text``, with the model of this route."""
        vector: Vectors = self._embedder.embed_queries([as_text(text)])[0]
        return vector

    def search_vector(
        self, vector: Vectors, k: int = 10, filter: Filter | None = None
    ) -> list[Hit]:
        """The ``k`` hits nearest to a query vector of this route's model."""
        require_filter(filter)
        return self._reader.search(as_queries(vector), k, filter)[0]


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
        is_managed = isinstance(configured.source, ManagedConfig)
        self._catalog = Catalog(settings.catalog_url, create=is_managed)
        self._changes = Changes(settings, name, self._catalog)
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
            self._watch = WitnessWatch(
                name, self._on_served, self._known_witness, configured.on_drift, on_drift
            )
            self._server = Server(
                self._catalog,
                name,
                settings.open_store(name),
                lambda model: resolve.embedder_to_serve(settings, name, model),
                self._examine,
                settings.general.switch_grace,
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
        (always checked for one that is only witnessed); ``IndexGone`` when nothing is live yet. A
        ``managed`` collection opens all the same, to be filled: its searches raise that then.
        ``on_drift`` hears the report whenever a check of the witness fails.
        """
        settings = config if isinstance(config, Settings) else load_settings(config)
        configured = settings.collection(name)
        collection = cls(settings, name, on_drift)
        try:
            if collection._has_index() or not collection._changes.is_managed:
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
        """Is the live pair sound? For a readiness probe; never raises, and scans nothing.

        ``ok`` and ``problems`` (texts); what is served, and ``in_transition`` when that is not the
        configured model; the ``candidate`` that goes live next, and whether it is ``open`` here;
        the state of the ``witness``. ``warnings`` tell what fails later unless something is done:
        they make nothing unready, and pending revisions have no part in it at all.
        """
        answer: dict[str, Any] = {
            "collection": self.name,
            "ok": True,
            "problems": [],
            "warnings": [],
            "in_transition": False,
            "candidate": None,
            "witness": self._watch.describe(),
        }
        try:
            with self._server.serve() as pair:
                index = pair.opened.index
                answer |= {
                    "index": index.name,
                    "generation": pair.generation,
                    "model": index.model.reference,
                    "assurance": index.model.pinned_or_witnessed,
                    "provenance": "adopted" if index.adopted else "built",
                    "in_transition": not is_one_of(index.model, [self._expected.declared]),
                }
                answer["witness"] = self._watch.describe(index.model)
                self._server.validate(pair.opened)
                probe(pair.opened.reader, pair.opened.embedder)
                self._watch.refuse_drifted(index.model)
            answer["candidate"], answer["warnings"] = self._outlook()
        except EmbedMigrateError as error:
            answer |= {"ok": False, "problems": [str(error)]}
        except Exception as error:  # what it says is not ours to show
            answer |= {"ok": False, "problems": [type(error).__name__]}
        return answer

    def _outlook(self) -> tuple[dict[str, Any] | None, list[str]]:
        """What goes live next, and why this application could not go on then, or start again."""
        candidate, warnings = None, []
        try:
            self._refuse_other_models()
        except ModelMismatch as error:
            warnings.append(f"this application would not start again: {error}")
        with self._catalog.read() as connection:
            name = routes.get(connection, self.name).candidate_index
            index = None if name is None else indexes.get(connection, name)
        if index is not None:
            is_open = self._server.is_open(index.name)
            candidate = {"index": index.name, "model": index.model.reference, "open": is_open}
            if (why := self._obstacle(index, is_open=is_open)) is not None:
                warnings.append(f"{index.name} goes live next and cannot answer here: {why}")
        return candidate, warnings

    def _obstacle(self, candidate: IndexRecord, *, is_open: bool) -> str | None:
        try:
            self._watch.refuse_drifted(candidate.model)
        except Drifted as error:
            return str(error)
        if not is_open and not resolve.knows(self._settings, candidate.model):
            return f"{candidate.model.reference} is none of this application's models"
        return None if is_open else self._server.trouble(candidate.name)

    def search(self, text: str, k: int = 10, filter: Filter | None = None) -> SearchResult:
        """The ``k`` documents nearest to a query, or chunks where documents are cut, best first.

        A hit names its document, ``id``, and the ``chunk``, from 0; a document may have several.
        ``filter`` is metadata that a hit must have: field -> value or list of accepted values.
        """
        return self.search_many([text], k, filter)[0]

    def search_many(
        self, texts: Sequence[str], k: int = 10, filter: Filter | None = None
    ) -> list[SearchResult]:
        """The same for several queries at once, all from one generation."""
        if isinstance(texts, str):
            raise UsageError("search_many takes a list of texts", next_step="use search")
        queries = [as_text(text) for text in texts]
        require_filter(filter)

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
        require_filter(filter)

        def ask(pair: Pair) -> SearchResult:
            served = pair.opened.index.model
            if not self._is_equal(space.rpartition("@")[2], served.fingerprint):
                raise ModelMismatch(
                    f"a vector of another space cannot be searched in {self.name!r}",
                    found=space,
                    expected=served.reference,
                    next_step="embed the query with the model that is served: Collection.route()",
                )
            return _result(pair, pair.opened.reader.search(as_queries(vector), k, filter)[0])

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
                opened.index.spec.recipe,
                opened.reader,
                opened.embedder,
            )

    def changed(self, ids: Sequence[str]) -> None:
        """Say that documents of the source were added or edited. Call it after the commit.

        On return the change is in the journal: whatever index is, or goes, live will have it. With
        ``changes = "application"`` nothing else is looked at, so that every change must be told.
        """
        self._changes.changed(ids)

    def deleted(self, ids: Sequence[str]) -> None:
        """Say that documents are gone from the source. Call it after the commit."""
        self._changes.deleted(ids)

    def upsert(self, documents: Sequence[Mapping[str, Any]]) -> int:
        """Add or replace documents of a ``managed`` source, all or none; returns how many.

        Text and journal entry are committed in one transaction; ``sync`` makes them found.
        """
        return self._changes.upsert(documents)

    def delete(self, ids: Sequence[str]) -> int:
        """Delete documents of a ``managed`` source; returns how many were there."""
        return self._changes.delete(ids)

    def close(self) -> None:
        """Release index, models and catalog. Idempotent."""
        self._watch.close()
        self._server.close()
        self._changes.close()
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

    def _examine(self, embedder: Embedder) -> None:
        """Before a model is served, also one that comes with a cut-over; see ``refuse_drifted``."""
        only_witnessed = embedder.model.assurance != "digest"
        if self._settings.collection(self.name).witness_at_open or only_witnessed:
            self._watch.examine(embedder)

    def _known_witness(self, model: EmbeddingModel) -> Witness:
        with self._catalog.read() as connection:
            return witnesses.known(connection, model, resolve.witness_of(self._settings, model))

    def _is_equal(self, space: str, served: str) -> bool:
        if space == served:
            return True
        with self._catalog.read() as connection:
            return space in spaces.equal_to(connection, served)

    def _has_index(self) -> bool:
        with self._catalog.read() as connection:
            return routes.get(connection, self.name).live_index is not None

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
                if index.name == route.candidate_index or self._is_kept(index)
            ]
        return validate_route(self._expected, live, around)

    def _is_kept(self, index: IndexRecord) -> bool:
        """Whether ``rollback`` may go to it. Nobody drops an adopted one: its grace ends that."""
        if index.state is not IndexState.ADOPTED:
            return index.state is IndexState.RETAINED
        grace = self._settings.general.retain_seconds
        return index.retained_at is not None and time.time() - index.retained_at < grace


def _result(pair: Pair, hits: list[Hit]) -> SearchResult:
    index = pair.opened.index
    return SearchResult(hits, pair.generation, index.model.name, index.fingerprint, index.name)
