"""Following the route: which (index, model, generation) a process serves now, and what is next.

Readers see exactly one pair at a time (I8). An index is opened and warmed off the request path,
then put in place in one assignment; the old one stays open until the last reader has left it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import NamedTuple

from embedmigrate.catalog import Catalog, indexes, spaces
from embedmigrate.catalog.records import IndexRecord, IndexState, Route
from embedmigrate.embedders.base import Embedder
from embedmigrate.errors import DamagedIndex, EmbedMigrateError, IndexGone, UsageError
from embedmigrate.following import RouteWatcher
from embedmigrate.models import EmbeddingModel
from embedmigrate.startup import probe, validate_index
from embedmigrate.stores.base import IndexReader, Store

LOOK_EVERY_SECONDS = 1.0
"""How often the route is looked at when no request comes."""
RETRY_SECONDS = 1.0
"""Wait before an index that could not be opened is tried again."""

_log = logging.getLogger(__name__)


class OpenIndex:
    """An index that is open with the embedder of its model; closes when nobody uses it any more."""

    def __init__(
        self, index: IndexRecord, reader: IndexReader, embedder: Embedder, resources: ExitStack
    ) -> None:
        """``resources`` are what closing releases."""
        self.index, self.reader, self.embedder = index, reader, embedder
        self._resources = resources
        self._users, self._retired, self._lock = 0, False, threading.Lock()

    def enter(self) -> bool:
        """Count a user; False when it is closed already."""
        with self._lock:
            if self._retired and self._users == 0:
                return False
            self._users += 1
            return True

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            unused = self._retired and self._users == 0
        if unused:
            self._resources.close()

    def retire(self) -> None:
        """Close as soon as nobody uses it."""
        with self._lock:
            unused = not self._retired and self._users == 0
            self._retired = True
        if unused:
            self._resources.close()


class Pair(NamedTuple):
    """What a reader sees at one moment (I8)."""

    opened: OpenIndex
    generation: int


class Embedders:
    """Embedders shared by the open indexes of one model, closed with the last of them."""

    def __init__(self, load: Callable[[EmbeddingModel], Embedder]) -> None:
        self._load, self._lock = load, threading.Lock()
        self._loaded: dict[tuple[str, str], Embedder] = {}
        self._users: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def taken(self, model: EmbeddingModel) -> Iterator[Embedder]:
        """The embedder of ``model``, loaded unless it is; not closed before the block ends."""
        key = (model.fingerprint, model.query_side)
        with self._lock:
            embedder = self._loaded.get(key)
            self._users[key] += embedder is not None
        if embedder is None:
            loaded = self._load(model)  # outside the lock: it may take minutes
            with self._lock:
                embedder = self._loaded.setdefault(key, loaded)
                self._users[key] += 1
            if embedder is not loaded:
                loaded.close()
        try:
            yield embedder
        finally:
            with self._lock:
                self._users[key] -= 1
                if unused := not self._users[key]:
                    del self._loaded[key], self._users[key]
            if unused:
                embedder.close()


class Server:
    """Serves the pair that the route names, and opens the candidate beside it."""

    def __init__(
        self,
        catalog: Catalog,
        collection: str,
        store: Store,
        load_embedder: Callable[[EmbeddingModel], Embedder],
        examine: Callable[[Embedder], None],
        switch_grace: float,
    ) -> None:
        """Open what is live now.

        ``examine`` sees each embedder before it is served; ``switch_grace`` is how long an old pair
        may be served, in seconds.
        """
        self._catalog, self._collection, self._store = catalog, collection, store
        self._embedders, self._examine = Embedders(load_embedder), examine
        self._switch_grace = switch_grace
        self._watcher = RouteWatcher(catalog, collection)
        self._lock = threading.RLock()
        self._open: dict[str, OpenIndex] = {}
        self._pair: Pair | None = None
        self._generation = 0  # of the newest route that was seen here
        self._settled: Route | None = None  # the route that needs no more work here
        self._behind_since = 0.0
        self._troubles: dict[str, tuple[str, str]] = {}
        self._closed, self._process = False, os.getpid()
        self._wake = threading.Event()
        self._look_out = threading.Thread(
            target=self._keep_looking, name=f"route of {collection}", daemon=True
        )
        self._look_out.start()

    @contextmanager
    def serve(self) -> Iterator[Pair]:
        """The pair to serve from, kept open until the block ends.

        ``IndexGone`` when there is no live index; whatever opening it raises, once the grace in
        which the old one may still be served is over.
        """
        pair = self._current()
        while not pair.opened.enter():
            pair = self._current()
        try:
            yield pair
        finally:
            pair.opened.leave()

    def _current(self) -> Pair:
        self._refuse_unusable()
        route = self._watcher.route()
        pair = self._pair if route is self._settled else self._move_to(route)
        if pair is None:
            raise IndexGone(
                f"collection {self._collection!r} has no live index",
                expected="a first index",
                next_step="embedmigrate upgrade",
            )
        return pair

    def _move_to(self, route: Route) -> Pair | None:
        """Put the live index of ``route`` in place as soon as it is open here."""
        with self._lock:
            self._refuse_unusable()
            if route.generation < self._generation:
                return self._pair  # the caller slept since it had read the route
            self._generation = route.generation
            live, wanted = route.live_index, (route.live_index, route.candidate_index)
            if live is None:
                self._pair = None
            elif live in self._open or self._pair is None or self._overdue():
                self._pair = Pair(self._opened(live), route.generation)
            self._note_time(live)
            if all(name is None or name in self._open for name in wanted):
                for name in self._open.keys() - set(wanted):
                    self._open.pop(name).retire()
                self._settled = route
            else:
                self._wake.set()
            return self._pair

    def _refuse_unusable(self) -> None:
        if os.getpid() != self._process:  # no thread follows the route here; SQLite forbids it, too
            raise UsageError(
                f"collection {self._collection!r} was opened before this process was forked",
                next_step="call Collection.open in each process",
            )
        if self._closed:
            raise IndexGone(
                f"collection {self._collection!r} was closed here",
                next_step="open it again: Collection.open",
            )

    def _serves(self, name: str) -> bool:
        return self._pair is not None and self._pair.opened is self._open.get(name)

    def _note_time(self, live: str | None) -> None:
        """The time in which an old pair may serve runs since it was first seen to be one."""
        with self._lock:
            if self._pair is None or live is None or self._serves(live):
                self._behind_since = 0.0
            elif not self._behind_since:
                self._behind_since = time.monotonic()

    def _overdue(self) -> bool:
        since = self._behind_since
        return since > 0 and time.monotonic() - since > self._switch_grace

    def _keep_looking(self) -> None:
        """Open and warm what the route names, also when no request comes; a failure is retried."""
        while not self._closed:
            self._wake.wait(LOOK_EVERY_SECONDS)
            self._wake.clear()
            try:
                done = self._look()
            except Exception as error:  # of whatever kind: without this thread nothing is opened
                done = False
                if not self._closed:
                    _log.warning(
                        "%s: the route cannot be followed: %s", self._collection, _told(error)
                    )
            if not done and not self._closed:
                time.sleep(RETRY_SECONDS)

    def _look(self) -> bool:
        """Open what the route names; False when not all of it can be opened."""
        route = self._watcher.route()
        if route is self._settled:
            return True
        live, candidate = route.live_index, route.candidate_index
        self._note_time(live)
        live_is_open = live is None or self._open_ahead(live, live=True)
        candidate_is_open = candidate is None or self._open_ahead(candidate, live=False)
        if live_is_open:
            self._move_to(route)
        return live_is_open and candidate_is_open

    def _open_ahead(self, name: str, *, live: bool) -> bool:
        """Open an index off the request path; what is in the way is said once, not every second."""
        try:
            self._opened(name, warm=True)
        except Exception as error:
            role = "live" if live else "next"
            trouble = role, _told(error)
            if not self._closed and self._troubles.get(name) != trouble:
                _log.warning("%s: %s is %s and not open here: %s", self._collection, name, *trouble)
            self._troubles[name] = trouble
            return False
        self._troubles.pop(name, None)
        return True

    def is_open(self, name: str) -> bool:
        """Whether an index is open here, so that it can go live without a wait."""
        return name in self._open

    def trouble(self, name: str) -> str | None:
        """Why an index could not be opened ahead, when that was tried last."""
        return self._troubles[name][1] if name in self._troubles else None

    def _opened(self, name: str, *, warm: bool = False) -> OpenIndex:
        """The open index of that name; opens it without taking the lock, as that may take long."""
        with self._lock:
            if name in self._open:
                return self._open[name]
        opened = self._open_index(name, warm=warm)
        with self._lock:
            if name in self._open or self._closed:
                opened.retire()
            self._refuse_unusable()
            return self._open.setdefault(name, opened)

    def _open_index(self, name: str, *, warm: bool) -> OpenIndex:
        with self._catalog.read() as connection:
            index = indexes.get(connection, name)
        with ExitStack() as resources:
            reader = resources.enter_context(closing(self._reader(index)))
            self._validate(index, reader)
            embedder = resources.enter_context(self._embedders.taken(index.model))
            if warm:  # reads all of an index that is searched exactly: only where nobody waits
                reader.search(embedder.embed_queries(["warm up"]), 1)
            else:
                probe(reader, embedder)
            self._examine(embedder)
            return OpenIndex(index, reader, embedder, resources.pop_all())

    def validate(self, opened: OpenIndex) -> None:
        """``ModelMismatch`` when an open index does not hold what it should; see ``startup``."""
        self._validate(opened.index, opened.reader)

    def _validate(self, index: IndexRecord, reader: IndexReader) -> None:
        with self._catalog.read() as connection:
            known = indexes.known_fingerprints(connection)
            equal = spaces.equal_to(connection, index.fingerprint)
        validate_index(index, reader, equal, known)

    def _reader(self, index: IndexRecord) -> IndexReader:
        try:
            return self._store.reader(index.container)
        except IndexGone as error:
            if index.state not in (IndexState.LIVE, IndexState.ADOPTED):
                raise
            raise DamagedIndex(
                f"the live index {index.name} is not in its store any more",
                found=error.message,
                expected="the index that the route names",
                next_step=f"restore it from a backup; or embedmigrate rollback {self._collection}, "
                "then embedmigrate upgrade --again REASON builds a new one",
            ) from error

    def forget(self) -> None:
        """Resolve the route once more from scratch: an index turned out to be gone."""
        with self._lock:
            self._pair = self._settled = None
            for name in list(self._open):
                self._open.pop(name).retire()

    def close(self) -> None:
        """Close everything that no reader is using; the rest when its reader leaves."""
        with self._lock:
            if self._closed:
                return
            self._closed, self._settled = True, None
        self._wake.set()
        self._look_out.join()
        self.forget()
        self._watcher.close()


def _told(error: Exception) -> str:
    """What may be shown of an error: others than ours may hold statements and texts (I21)."""
    return str(error) if isinstance(error, EmbedMigrateError) else type(error).__name__
