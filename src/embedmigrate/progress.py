"""Progress on standard error: a bar in a terminal, plain lines elsewhere, events in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

from tqdm import tqdm

from embedmigrate.logs import say

if TYPE_CHECKING:
    from embedmigrate.engine.job import Reporter

_log = logging.getLogger(__name__)
_LINE_EVERY_SECONDS = 10.0


class TerminalReporter:
    """Documents, rate, time left and phase, as one moving line."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._bar: tqdm[object] | None = None

    def phase(self, collection: str, name: str, total: int | None = None, done: int = 0) -> None:
        self.close()
        label = f"{collection}: {name}"
        if total is None:
            self.note(label)
            return
        self._bar = tqdm(
            total=total, initial=done, desc=label, unit=" docs", file=self._stream, mininterval=0.2
        )

    def advance(self, documents: int) -> None:
        if self._bar is not None:
            self._bar.update(documents)

    def note(self, text: str) -> None:
        tqdm.write(text, file=self._stream)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _Pace:
    """How far a phase is, and when it is time to say so again."""

    def __init__(self) -> None:
        self.collection, self.name, self.total = "", "", None  # type: str, str, int | None
        self.done = self._started_with = 0
        self._started = self._last = time.monotonic()

    def begin(self, collection: str, name: str, total: int | None, done: int) -> None:
        self.collection, self.name, self.total = collection, name, total
        self.done = self._started_with = done
        self._started = self._last = time.monotonic()

    def is_due(self, documents: int) -> bool:
        """Count ``documents``; whether it is ten seconds since the last time, or the end."""
        self.done += documents
        now = time.monotonic()
        if self.total is None or (
            now - self._last < _LINE_EVERY_SECONDS and self.done < self.total
        ):
            return False
        self._last = now
        return True

    @property
    def rate(self) -> float:
        """Documents a second."""
        return (self.done - self._started_with) / max(self._last - self._started, 1e-9)

    @property
    def left(self) -> float:
        """Seconds that the rest will take at this rate."""
        return ((self.total or 0) - self.done) / self.rate if self.rate else 0.0


class LineReporter:
    """The same for a file: a line a phase, and one every ten seconds while documents go through."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._pace = _Pace()

    def phase(self, collection: str, name: str, total: int | None = None, done: int = 0) -> None:
        self._pace.begin(collection, name, total, done)
        label = f"{collection}: {name}"
        self.note(label if total is None else f"{label}: {done} of {total} documents")

    def advance(self, documents: int) -> None:
        pace = self._pace
        if pace.is_due(documents):
            self.note(
                f"{pace.collection}: {pace.name}: {pace.done} of {pace.total} documents, "
                f"{pace.rate:.1f}/s, {pace.left:.0f} s left"
            )

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        pass


class LogReporter:
    """The same as events of the log."""

    def __init__(self) -> None:
        self._pace = _Pace()

    def phase(self, collection: str, name: str, total: int | None = None, done: int = 0) -> None:
        self._pace.begin(collection, name, total, done)
        facts = {"collection": collection, "phase": name, "total": total}
        self._say(
            "phase", f"{collection}: {name}", facts | ({} if total is None else {"done": done})
        )

    def advance(self, documents: int) -> None:
        pace = self._pace
        if pace.is_due(documents):
            facts = {"collection": pace.collection, "phase": pace.name, "total": pace.total}
            pacing = {
                "done": pace.done,
                "rate": round(pace.rate, 1),
                "seconds_left": round(pace.left),
            }
            self._say("progress", f"{pace.collection}: {pace.name}", facts | pacing)

    def note(self, text: str) -> None:
        self._say("note", text, {})

    def close(self) -> None:
        pass

    def _say(self, event: str, message: str, facts: Mapping[str, Any]) -> None:
        say(_log, logging.INFO, event, message, facts)


def reporter(*, quiet: bool = False, logged: bool = False) -> Reporter | None:
    """The reporter that suits standard error; None when nobody wants to hear."""
    if logged:
        return LogReporter()
    if quiet:
        return None
    return TerminalReporter() if sys.stderr.isatty() else LineReporter()
