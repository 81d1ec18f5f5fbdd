"""How long a command may work: minutes, and hours of the day in a time zone."""

from __future__ import annotations

from datetime import datetime

import pytest

from embedmigrate.engine.job import StopSignal
from embedmigrate.engine.limits import Limit, Window, limited
from embedmigrate.errors import Stopped, UsageError


def instant(text: str) -> float:
    """Seconds since 1970 of an ISO time with its offset."""
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("hours", "now", "closes"),
    [
        ("01:00-05:00 Europe/Berlin", "2026-01-10T00:59:59+01:00", None),
        ("01:00-05:00 Europe/Berlin", "2026-01-10T01:00:00+01:00", "2026-01-10T05:00:00+01:00"),
        ("01:00-05:00 Europe/Berlin", "2026-01-10T04:59:59+01:00", "2026-01-10T05:00:00+01:00"),
        ("01:00-05:00 Europe/Berlin", "2026-01-10T05:00:00+01:00", None),
        ("01:00-05:00 Asia/Kolkata", "2026-01-10T20:00:00+00:00", "2026-01-10T23:30:00+00:00"),
        ("01:00-05:00 UTC", "2026-01-10T20:00:00+00:00", None),
        # over midnight
        ("22:00-04:00 America/New_York", "2026-01-10T23:00:00-05:00", "2026-01-11T04:00:00-05:00"),
        ("22:00-04:00 America/New_York", "2026-01-11T03:00:00-05:00", "2026-01-11T04:00:00-05:00"),
        ("22:00-04:00 America/New_York", "2026-01-11T12:00:00-05:00", None),
        ("22:00-00:00 UTC", "2026-01-11T23:59:00+00:00", "2026-01-12T00:00:00+00:00"),
        # clocks put forward, 02:00 to 03:00: an hour less
        ("01:00-05:00 Europe/Berlin", "2026-03-29T01:30:00+01:00", "2026-03-29T05:00:00+02:00"),
        # … over the beginning, which comes at 03:00
        ("02:30-03:15 Europe/Berlin", "2026-03-29T01:59:59+01:00", None),
        ("02:30-03:15 Europe/Berlin", "2026-03-29T03:00:00+02:00", "2026-03-29T03:15:00+02:00"),
        # … and over the end
        ("01:00-02:30 Europe/Berlin", "2026-03-29T01:30:00+01:00", "2026-03-29T03:00:00+02:00"),
        # clocks put back, 03:00 to 02:00: an hour more
        ("01:00-05:00 Europe/Berlin", "2026-10-25T02:30:00+01:00", "2026-10-25T05:00:00+01:00"),
        # … and the first 02:30 is the one
        ("01:00-02:30 Europe/Berlin", "2026-10-25T02:15:00+02:00", "2026-10-25T02:30:00+02:00"),
        ("01:00-02:30 Europe/Berlin", "2026-10-25T02:15:00+01:00", None),
    ],
)
def test_a_window_is_open_from_its_beginning_up_to_its_end(
    hours: str, now: str, closes: str | None
) -> None:
    expected = None if closes is None else instant(closes)
    assert Window.parse(hours).closes(instant(now)) == expected


def test_without_a_zone_the_clock_of_the_machine_counts() -> None:
    noon = datetime(2026, 6, 1, 12, 0).timestamp()

    assert Window.parse("11:00-13:00").closes(noon) == noon + 3600
    assert Window.parse("13:00-14:00").closes(noon) is None


@pytest.mark.parametrize(
    "hours",
    [
        *("", "01:00", "1:00-5:00", "01:00-25:00", "01:00-05:60", "01:00-01:00", "night"),
        *("01:00-05:00 Berlin", "01:00-05:00 Europe/Nowhere", "01:00-05:00 ../../etc/passwd"),
        "01:00-05:00 Europe/Berlin and on",
    ],
)
def test_what_is_no_window_is_refused(hours: str) -> None:
    with pytest.raises(UsageError, match="not a window"):
        limited(StopSignal(), window=hours)


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_no_time_at_all_is_refused(minutes: float) -> None:
    with pytest.raises(UsageError):
        limited(StopSignal(), max_minutes=minutes)


def test_outside_the_window_nothing_begins_and_at_its_end_work_stops() -> None:
    clock = [instant("2026-01-10T00:30:00+00:00")]
    with pytest.raises(Stopped, match="not within the window 01:00-05:00 UTC"):
        limited(StopSignal(), window="01:00-05:00 UTC", now=lambda: clock[0])

    clock[0] = instant("2026-01-10T04:00:00+00:00")
    stop = limited(StopSignal(), window="01:00-05:00 UTC", now=lambda: clock[0])
    stop.check()
    clock[0] += 3600
    with pytest.raises(Stopped, match="the window 01:00-05:00 UTC is over"):
        stop.check()


def test_a_limit_stops_for_the_signal_that_it_stands_in_as_well() -> None:
    signal = StopSignal()
    stop = Limit(signal, 10, "time is over", lambda: 0)
    stop.check()
    signal.set("SIGTERM")
    with pytest.raises(Stopped, match="SIGTERM"):
        stop.check()
