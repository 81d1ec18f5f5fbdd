"""Outlasting a restart of the database server: the work is taken up again where it was.

All that a run does can be repeated, and its lease outlives the connection that it was taken on. So
a server that is away for a minute costs that minute, and no person.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from embedmigrate.engine.job import Job
from embedmigrate.errors import ServerAway

_T = TypeVar("_T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_SETTLED_SECONDS = 60.0
"""Work that went on for so long has outlasted what was before."""


def outlasting(job: Job, work: Callable[[], _T]) -> _T:
    """What ``work`` returns. It is called again while a server is away, ``job.away_seconds`` long.

    Raises ``ServerAway`` after that, and ``Stopped`` when somebody asks to stop meanwhile.
    """
    away_since, pause = None, _FIRST_PAUSE
    while True:
        started = time.monotonic()
        try:
            return work()
        except ServerAway as error:
            now = time.monotonic()
            if away_since is None or now - started > _SETTLED_SECONDS:
                away_since, pause = now, _FIRST_PAUSE
            if now + pause - away_since > job.away_seconds:
                raise
            job.reporter.note(f"{job.collection}: waiting for the server: {error.message}")
        job.stop.wait(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
