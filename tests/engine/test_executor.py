"""The local executor overlaps its stages and never has more than two batches unsaved."""

from __future__ import annotations

import threading
import time

import pytest

from embedmigrate.catalog.records import BatchRecord
from embedmigrate.engine.executor import MAX_UNSAVED_BATCHES, LocalExecutor


class Work:
    """Stages that take a while and write down when they ran."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.fail_at = fail_at
        self.embedded: list[int] = []
        self.saved: list[int] = []
        self.most_unsaved = 0
        self.overlapped = False
        self._saving = threading.Event()

    def read(self, batch: BatchRecord) -> int:
        return batch.ordinal

    def embed(self, reading: int) -> int:
        if reading == self.fail_at:
            raise ValueError("a wrong answer")
        self.embedded.append(reading)
        self.most_unsaved = max(self.most_unsaved, len(self.embedded) - len(self.saved))
        time.sleep(0.002)
        self.overlapped |= self._saving.is_set()
        return reading

    def save(self, embedded: int) -> None:
        self._saving.set()
        time.sleep(0.005)
        self.saved.append(embedded)
        self._saving.clear()


def batches(count: int) -> list[BatchRecord]:
    return [BatchRecord(1, ordinal, None, None, 1) for ordinal in range(count)]


def test_batches_are_saved_in_order_while_the_next_is_embedded() -> None:
    work = Work()
    LocalExecutor().run(batches(30), work)
    assert work.saved == list(range(30))
    assert work.overlapped
    assert work.most_unsaved == MAX_UNSAVED_BATCHES == 2


def test_a_failure_lets_the_save_that_is_under_way_finish() -> None:
    work = Work(fail_at=7)
    with pytest.raises(ValueError, match="wrong answer"):
        LocalExecutor().run(batches(30), work)
    assert work.saved == work.embedded == list(range(7))


def test_a_failing_save_stops_the_embedding() -> None:
    work = Work()

    def full(embedded: int) -> None:
        raise OSError("disk full")

    work.save = full  # type: ignore[method-assign]
    with pytest.raises(OSError, match="disk full"):
        LocalExecutor().run(batches(30), work)
    assert len(work.embedded) <= MAX_UNSAVED_BATCHES
