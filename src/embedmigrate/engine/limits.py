"""How long a command may work: for some minutes, or in a window of the day."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from zoneinfo import ZoneInfo

from embedmigrate.engine.job import StopSignal, stopped
from embedmigrate.errors import UsageError

_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)(?: +(\S+))?")


class Limit(StopSignal):
    """Stops when ``clock`` reaches ``end``, as well as when ``within`` stops."""

    def __init__(
        self, within: StopSignal, end: float, why: str, clock: Callable[[], float]
    ) -> None:
        super().__init__(within)
        self._end, self._over, self._clock = end, why, clock

    def check(self) -> None:
        super().check()
        if self._clock() >= self._end:
            raise stopped(self._over)


@dataclass(frozen=True)
class Window:
    """From ``start`` to ``end`` by the clocks of ``zone``; over midnight when ``end`` is earlier.

    Clocks that are put forward over ``start`` or ``end`` reach it at that moment; where they are
    put back, the first time counts.
    """

    start: time_of_day
    end: time_of_day
    zone: ZoneInfo | None
    """None: what this machine takes for its own."""

    @classmethod
    def parse(cls, text: str) -> Window:
        """``01:00-05:00``, or ``01:00-05:00 Europe/Berlin``; ``UsageError`` for anything else."""
        match = _WINDOW.fullmatch(text.strip())
        if match is None:
            raise _not_a_window(text, "HH:MM-HH:MM, and the name of a time zone")
        start, end = (time_of_day(int(match[i]), int(match[i + 1])) for i in (1, 3))
        if start == end:
            raise _not_a_window(text, "an end that is not the beginning")
        try:
            zone = None if match[5] is None else ZoneInfo(match[5])
        except (KeyError, ValueError, OSError):
            raise _not_a_window(
                text, "a time zone that is known here (IANA), for example Europe/Berlin"
            ) from None
        return cls(start, end, zone)

    def __str__(self) -> str:
        hours = f"{self.start:%H:%M}-{self.end:%H:%M}"
        return hours if self.zone is None else f"{hours} {self.zone.key}"

    def closes(self, now: float) -> float | None:
        """When the window that is open at ``now`` (seconds since 1970) ends; None outside."""
        today = datetime.fromtimestamp(now, self.zone).date()
        for day in (today - timedelta(days=1), today):
            last = day if self.start < self.end else day + timedelta(days=1)
            opens, closes = self._reached(day, self.start), self._reached(last, self.end)
            if opens <= now < closes:
                return closes
        return None

    def _reached(self, day: date, clock: time_of_day) -> float:
        """When the clocks of that day first show ``clock`` or later, to the second."""
        wanted = datetime.combine(day, clock)
        at = wanted.replace(tzinfo=self.zone).timestamp()
        if self._shown(at) == wanted:
            return at
        # the clocks jump over it: somewhere between the two readings of it
        early = wanted.replace(tzinfo=self.zone, fold=1).timestamp()
        while at - early > 1:
            middle = (early + at) // 2
            early, at = (early, middle) if self._shown(middle) >= wanted else (middle, at)
        return at

    def _shown(self, at: float) -> datetime:
        return datetime.fromtimestamp(at, self.zone).replace(tzinfo=None, fold=0)


def limited(
    stop: StopSignal,
    *,
    max_minutes: float | None = None,
    window: str | None = None,
    now: Callable[[], float] = time.time,
) -> StopSignal:
    """``stop``, which also stops after so many minutes, and when the window closes.

    ``Stopped`` at once outside the window; ``UsageError`` for a limit that cannot be meant.
    """
    if max_minutes is not None:
        if not max_minutes > 0:
            raise UsageError(
                "no time to work in", found=f"{max_minutes} minutes", expected="more than 0"
            )
        end = time.monotonic() + 60 * max_minutes
        stop = Limit(stop, end, f"{max_minutes:g} minutes are over", time.monotonic)
    if window is not None:
        hours = Window.parse(window)
        closes = hours.closes(now())
        if closes is None:
            raise stopped(f"it is not within the window {hours}")
        stop = Limit(stop, closes, f"the window {hours} is over", now)
    return stop


def _not_a_window(text: str, expected: str) -> UsageError:
    return UsageError(
        "not a window of the day",
        found=text,
        expected=expected,
        next_step='for example --window "01:00-05:00 Europe/Berlin"',
    )
