"""What an engine function is given: the parts of one collection, and a way to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

from embedmigrate.catalog import Catalog, spaces, witnesses
from embedmigrate.catalog.locks import Lease
from embedmigrate.catalog.records import IndexRecord, RunRecord
from embedmigrate.embedders.base import Embedder
from embedmigrate.engine.guard import Guard
from embedmigrate.engine.occasion import Deaf, EventName, Hooks, of_run
from embedmigrate.engine.patience import Patient
from embedmigrate.errors import Stopped
from embedmigrate.models import EmbeddingModel, Recipe
from embedmigrate.models.witness import Witness, WitnessRecord
from embedmigrate.sources.base import Source
from embedmigrate.stores.base import IndexReader, IndexWriter, Store


class Reporter(Protocol):
    """Hears how far the work is. The terminal, a log, or nobody."""

    def phase(self, collection: str, name: str, total: int | None = None, done: int = 0) -> None:
        """A new phase begins, of ``total`` documents of which ``done`` are done already."""

    def advance(self, documents: int) -> None:
        """So many documents of this phase are done."""

    def note(self, text: str) -> None:
        """One line for a person."""

    def close(self) -> None: ...


class Silent:
    """A reporter for nobody."""

    def phase(self, collection: str, name: str, total: int | None = None, done: int = 0) -> None:
        pass

    def advance(self, documents: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


_LOOK_SECONDS = 0.2
"""How often a sleeper looks at a signal that stands above its own."""


class StopSignal:
    """Asked between two model calls whether to go on. Set from a signal handler or a thread.

    One that stands ``within`` another stops with it.
    """

    def __init__(self, within: StopSignal | None = None) -> None:
        self._within = within
        self._event = threading.Event()
        self._why = ""

    def set(self, why: str) -> None:
        self._why = self._why or why
        self._event.set()

    def wait(self, seconds: float) -> None:
        """Sleep, unless somebody asks to stop: ``Stopped`` then."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._event.wait(min(left, _LOOK_SECONDS))
            self.check()

    def check(self) -> None:
        """Raise ``Stopped`` when somebody asked to stop."""
        if self._within is not None:
            self._within.check()
        if self._event.is_set():
            raise stopped(self._why)

    def pace(self, texts: int) -> None:
        """Asked before a model call: ``check``, and wait as long as such a call has to."""
        self.check()


def stopped(why: str) -> Stopped:
    return Stopped(
        f"stopped: {why}",
        expected="what is checkpointed stays; nothing is lost",
        next_step="run the same command again to resume",
    )


def _no_witness(_model: EmbeddingModel) -> Witness:
    return Witness()


@dataclass
class Job:
    """One collection's parts. Models are loaded when first used and kept until ``close``."""

    collection: str
    catalog: Catalog
    store: Store
    open_source: Callable[[Recipe], Source]
    load_embedder: Callable[[EmbeddingModel], Embedder]
    work_dir: Path
    pinned_witness: Callable[[EmbeddingModel], Witness] = _no_witness
    batch_size: int = 512
    witness_batches: int = 64
    proof_sample: int = 459
    lease_seconds: float = 30.0
    told_by_application: bool = False
    """Whether the application says itself what it changes (``Collection.changed``)."""
    call_seconds: float = 600.0
    away_seconds: float = 300.0
    """How long work waits for a database server that does not answer."""
    reporter: Reporter = field(default_factory=Silent)
    stop: StopSignal = field(default_factory=StopSignal)
    hooks: Hooks = field(default_factory=Deaf)
    allow_mass_delete: bool = False
    """Whether a diff may delete more than a tenth of an index, and a model fail on as much of a
    collection (``--yes``)."""
    _embedders: dict[tuple[str, str], Embedder] = field(default_factory=dict)
    _guards: dict[tuple[str, str], Guard] = field(default_factory=dict)

    def tell(self, event: EventName, run: RunRecord) -> None:
        """Tell the hooks what happens to a run of this collection. Not inside a transaction."""
        self.hooks.tell(of_run(self.catalog, event, run))

    def spaces(self, index: IndexRecord) -> frozenset[str]:
        """The fingerprints that the vectors of ``index`` may be stamped with."""
        with self.catalog.read() as connection:
            return spaces.equal_to(connection, index.fingerprint)

    def reader(self, index: IndexRecord) -> IndexReader:
        """Open what holds the vectors of ``index``; ``IndexGone`` when it is not there."""
        return self.store.reader(index.container)

    def writer(self, index: IndexRecord, lease: Lease, *, run: str) -> IndexWriter:
        """Open it for writing; ``ModelMismatch`` when it is of another space (I4)."""
        accepts = self.spaces(index)
        writer = self.store.writer(index.container, epoch=lease.epoch, run=run, accepts=accepts)
        try:
            spaces.require(index, writer.manifest.fingerprint, accepts)
        except BaseException:
            writer.close()
            raise
        return writer

    def guard(self, model: EmbeddingModel) -> Guard:
        """The guard of ``model``, loaded and found to be itself; ``Drifted`` when it is not."""
        key = (model.fingerprint, model.query_side)
        if key not in self._guards:
            embedder = self.embedder(model)
            self.reporter.note(f"checking the witness of {model.reference}")
            with self.catalog.read() as connection:
                witness = witnesses.known(connection, model, self.pinned_witness(model))
            guard = Guard(embedder, witness, self._remember(model), self.reporter.note)
            guard.open()
            self._guards[key] = guard
        return self._guards[key]

    def _remember(self, model: EmbeddingModel) -> Callable[[WitnessRecord], None]:
        def remember(record: WitnessRecord) -> None:
            with self.catalog.write() as connection:
                witnesses.remember(connection, model, record, self.collection)

        return remember

    def embedder(self, model: EmbeddingModel) -> Embedder:
        """The loaded embedder of ``model``."""
        key = (model.fingerprint, model.query_side)
        if key not in self._embedders:
            self.reporter.note(f"loading {model.reference}")
            loaded = Patient(self.load_embedder(model), self.call_seconds)
            self._embedders[key] = cast(Embedder, loaded)
        return self._embedders[key]

    def close(self) -> None:
        for embedder in self._embedders.values():
            embedder.close()
        self._embedders.clear()
        self._guards.clear()
