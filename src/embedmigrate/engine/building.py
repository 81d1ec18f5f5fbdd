"""Building what makes an index fast, and telling how far that is where the store can say."""

from __future__ import annotations

from embedmigrate.engine.job import Job
from embedmigrate.stores.base import BuildProgress, IndexWriter, TellsProgress


def build(job: Job, writer: IndexWriter) -> None:
    """``writer.build()``, whose progress the reporter of ``job`` hears."""
    if not isinstance(writer, TellsProgress):
        writer.build()
        return
    writer.on_progress = _Told(job)
    try:
        writer.build()
    finally:
        writer.on_progress = None


class _Told:
    """A phase of the store is a phase of the reporter."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._last = BuildProgress("", 0, 0)

    def __call__(self, now: BuildProgress) -> None:
        last, self._last = self._last, now
        if now.phase == last.phase and now.total == last.total and now.done >= last.done:
            self._job.reporter.advance(now.done - last.done)
        else:
            name = f"building: {now.phase}"
            self._job.reporter.phase(self._job.collection, name, now.total or None, now.done)
