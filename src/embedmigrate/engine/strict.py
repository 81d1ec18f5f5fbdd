"""A strict cut: what goes live holds every change that is committed, and not nearly every one.

The writers of the source are held off while the last changes are followed and the route is
switched. Without it, what is committed in these moments follows a moment later.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from embedmigrate.catalog import indexes
from embedmigrate.catalog.locks import Lease
from embedmigrate.engine import intake, settle
from embedmigrate.engine.job import Job
from embedmigrate.errors import Refused, Temporary
from embedmigrate.sources.base import CanStandStill, cannot_stand_still


@contextmanager
def strict_cut(job: Job, lease: Lease, index_name: str, seconds: float) -> Iterator[None]:
    """Catch the index up while nobody writes, and keep it so until the block ends.

    ``Temporary`` when more than ``seconds`` of work is left, or somebody's transaction is in the
    way; the writers go on at once, and nothing was switched. ``ConfigError`` for a source that
    cannot be held still, ``Refused`` for one that does not record its changes.
    """
    with job.catalog.read() as connection:
        recipe = indexes.get(connection, index_name).spec.recipe
    with closing(job.open_source(recipe)) as source:
        if not isinstance(source, CanStandStill):
            raise cannot_stand_still(type(source).__name__)
        if source.capture is None or source.capture.token() is None:
            raise Refused(
                f"a strict cut of {job.collection!r} needs its changes to be recorded",
                found=intake.means_of(source, told=job.told_by_application),
                next_step=f"embedmigrate capture install {job.collection}",
            )
        with source.standstill():
            followed = settle.catch_up(job, lease, index_name, anew=False, seconds=seconds)
            if followed.more:
                raise Temporary(
                    f"{job.collection!r} changed more than {seconds:g} s of work could follow",
                    expected="fewer changes at once, or a larger strict_cut_seconds",
                    next_step="run the same command again; nothing was switched",
                )
            yield
