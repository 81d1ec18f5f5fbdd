"""How batches are worked off. A batch is a key range, so that any process could take it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Protocol, TypeVar

from embedmigrate.catalog.records import BatchRecord

Reading = TypeVar("Reading")
Embedded = TypeVar("Embedded")

MAX_UNSAVED_BATCHES = 2
"""Batches that may be embedded and not yet checkpointed: what a kill can waste (I13)."""
_READ_AHEAD = 2


class BatchWork(Protocol[Reading, Embedded]):
    """The three stages of a batch. Each is called by one thread at a time, in batch order."""

    def read(self, batch: BatchRecord) -> Reading:
        """Read the texts of the range."""

    def embed(self, reading: Reading) -> Embedded:
        """Make the vectors. The only stage that costs the model's time."""

    def save(self, embedded: Embedded) -> None:
        """Write to the store, durably, and then checkpoint in the catalog (I14)."""


class Executor(Protocol):
    """Works off batches; returns when all are saved, raises what a stage raised."""

    def run(self, batches: Iterable[BatchRecord], work: BatchWork[Reading, Embedded]) -> None: ...


class LocalExecutor:
    """One worker in this process: reading, embedding and saving overlap.

    The queues are bounded: a few batches are read ahead, and the next one is embedded only when at
    most one is still being saved. An exception lets the save that is under way finish.
    """

    def run(self, batches: Iterable[BatchRecord], work: BatchWork[Reading, Embedded]) -> None:
        remaining: Iterator[BatchRecord] = iter(batches)
        with (
            ThreadPoolExecutor(1, "embedmigrate-read") as reader,
            ThreadPoolExecutor(1, "embedmigrate-save") as saver,
        ):
            reads: deque[Future[Reading]] = deque()
            saves: deque[Future[None]] = deque()
            try:
                for batch in islice(remaining, _READ_AHEAD):
                    reads.append(reader.submit(work.read, batch))
                while reads:
                    reading = reads.popleft().result()
                    for batch in islice(remaining, 1):
                        reads.append(reader.submit(work.read, batch))
                    embedded = work.embed(reading)
                    saves.append(saver.submit(work.save, embedded))
                    while len(saves) >= MAX_UNSAVED_BATCHES:
                        saves.popleft().result()
                while saves:
                    saves.popleft().result()
            finally:
                for pending in reads:
                    pending.cancel()
