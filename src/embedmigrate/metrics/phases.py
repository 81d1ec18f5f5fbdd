"""How long each phase of a command takes."""

from __future__ import annotations

import time

from embedmigrate.engine.job import Reporter


class Phases:
    """A reporter that measures phases, and passes on what it hears."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._seconds: dict[tuple[str, str], float] = {}
        self._now: tuple[tuple[str, str], float] | None = None

    def phase(self, collection: str, name: str, total: int | None = None, done: int = 0) -> None:
        self._end()
        self._now = (collection, name), time.monotonic()
        self._reporter.phase(collection, name, total, done)

    def advance(self, documents: int) -> None:
        self._reporter.advance(documents)

    def note(self, text: str) -> None:
        self._reporter.note(text)

    def close(self) -> None:
        self._end()
        self._reporter.close()

    def seconds(self) -> dict[tuple[str, str], float]:
        """By collection and phase; the present one so far. From any thread."""
        now, seconds = self._now, self._seconds
        if now is None:
            return seconds
        phase, since = now
        return {**seconds, phase: seconds.get(phase, 0.0) + time.monotonic() - since}

    def _end(self) -> None:
        self._seconds, self._now = self.seconds(), None
