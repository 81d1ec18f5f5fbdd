"""Progress on standard error: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from tqdm import tqdm

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


class LineReporter:
    """The same for logs: a line a phase, and one every ten seconds while documents go through."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._label, self._total = "", None  # type: str, int | None
        self._done = self._started_with = 0
        self._started = self._last = time.monotonic()

    def phase(self, collection: str, name: str, total: int | None = None, done: int = 0) -> None:
        self._label, self._total = f"{collection}: {name}", total
        self._done = self._started_with = done
        self._started = self._last = time.monotonic()
        self.note(self._label if total is None else f"{self._label}: {done} of {total} documents")

    def advance(self, documents: int) -> None:
        self._done += documents
        now = time.monotonic()
        if self._total is None or (
            now - self._last < _LINE_EVERY_SECONDS and self._done < self._total
        ):
            return
        self._last = now
        rate = (self._done - self._started_with) / max(now - self._started, 1e-9)
        left = (self._total - self._done) / rate if rate else 0.0
        self.note(
            f"{self._label}: {self._done} of {self._total} documents, "
            f"{rate:.1f}/s, {left:.0f} s left"
        )

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        pass


def reporter(*, quiet: bool = False) -> TerminalReporter | LineReporter | None:
    """The reporter that suits standard error; None when nobody wants to hear."""
    if quiet:
        return None
    return TerminalReporter() if sys.stderr.isatty() else LineReporter()
