"""Samples of stored rows."""

from __future__ import annotations

import random
from collections.abc import Iterator

from embedmigrate.stores.base import StoredState


class Sample:
    """A uniform sample of stored rows, and duplicates, from one ordered pass (reservoir).

    Memory is bounded by ``size``. Without ``seed`` every sample is another one.
    """

    def __init__(self, size: int, seed: int | None = None) -> None:
        self._size, self._random = size, random.Random(seed)
        self.states: list[StoredState] = []
        self.seen = 0

    def read(self, states: Iterator[StoredState]) -> int:
        """Take the sample and return the number of duplicate (id, chunk)."""
        duplicates, previous = 0, None
        for state in states:
            duplicates += (state.id, state.chunk) == previous
            previous = (state.id, state.chunk)
            self.seen += 1
            if len(self.states) < self._size:
                self.states.append(state)
            elif (slot := self._random.randrange(self.seen)) < self._size:
                self.states[slot] = state
        return duplicates
