"""``sync``: keep what is live up to date with its source, under the same pins."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from typing import Any

from embedmigrate.catalog import indexes, journal, routes
from embedmigrate.catalog.locks import Lease, Role
from embedmigrate.command.outcome import most_severe
from embedmigrate.command.project import Project
from embedmigrate.command.telling import failures_told, tell_failure
from embedmigrate.config import Settings
from embedmigrate.engine import intake
from embedmigrate.engine.dead_letters import of_live_index, refusal, retry
from embedmigrate.engine.follow import Followed
from embedmigrate.engine.job import Job, Reporter, StopSignal
from embedmigrate.engine.lock import held
from embedmigrate.engine.sync import Round, nothing_live
from embedmigrate.engine.sync import sync as sync_once
from embedmigrate.errors import DeadLetters, EmbedMigrateError, LockHeld, Temporary

PATIENCE = 5.0
"""Seconds that one `sync` waits for another to end its round."""
_LONGEST_PAUSE = 60.0


def sync(
    settings: Settings,
    collections: Sequence[str] = (),
    *,
    compare: bool = False,
    retry_failed: bool = False,
    allow_mass_delete: bool = False,
    reporter: Reporter | None = None,
    stop: StopSignal | None = None,
) -> dict[str, Any]:
    """Bring what is live up to what the source is now; by default of every collection that has it.

    ``compare`` compares source and index as a whole even where every change is recorded,
    ``retry_failed`` tries documents again that could not be embedded. Raises ``Drifted`` when
    the model is not itself, ``LockHeld`` when another process is at it, ``DeadLetters`` when
    documents remain that cannot be embedded; everything else is done then. Each collection is
    done, whatever happens to the others; the gravest error is raised, and its ``result`` is what
    would have been returned.
    """
    with Project(
        settings, reporter=reporter, stop=stop, allow_mass_delete=allow_mass_delete
    ) as project:
        names = _names(project, collections)
        entries: list[dict[str, Any]] = []
        failed: list[EmbedMigrateError] = []
        for name in names:
            try:
                with failures_told(project, name):
                    job = project.job(name)
                    if retry_failed:
                        with held(job, Role.FOLLOWER, patience=PATIENCE) as lease:
                            _ask_again(job, lease)
                    entries.append(_through(job, anew=True if compare else None))
                    _refuse_dead_letters(job)
            except DeadLetters as error:
                failed.append(error)
            except EmbedMigrateError as error:
                if error.exit_code == 7:
                    raise
                entries.append({"collection": name, "error": error.message})
                failed.append(error)
        result = {"schema": 1, "collections": entries}
        if failed:
            gravest = most_severe(failed)
            gravest.result = result
            raise gravest
        return result


def follow(
    settings: Settings,
    collections: Sequence[str] = (),
    *,
    every: float = 1.0,
    compare_every: float = 900.0,
    allow_mass_delete: bool = False,
    reporter: Reporter | None = None,
    stop: StopSignal | None = None,
) -> None:
    """``sync`` for ever: a look each ``every`` seconds, until ``stop`` is set (``Stopped``).

    A source that does not tell of its changes is compared each ``compare_every`` seconds. What is
    temporary is tried again, later and later, and keeps no other collection waiting; what is not, a
    model that drifted among it, ends it.
    """
    with Project(
        settings, reporter=reporter, stop=stop, allow_mass_delete=allow_mass_delete
    ) as project:
        names = _names(project, collections)  # unless they are named, others may go live later
        names = names if collections else sorted(settings.collections)
        followers = [_Follower(name, every, compare_every) for name in names]
        while True:
            project.stop.check()
            for follower in followers:
                follower.look(project)
            pause = min(follower.due for follower in followers) - time.monotonic()
            project.stop.wait(max(pause, 0.05))  # whoever waits for the lock shall get it


def lag_of(job: Job) -> dict[str, Any]:
    """How far what is live is behind: changes that wait, and since when the oldest one does.

    Those count, too, that the source has recorded and that nobody has entered into the journal: no
    worker may be there. Since when they wait is not recorded.
    """
    with job.catalog.read() as connection:
        name = routes.get(connection, job.collection).live_index
        if name is None:
            return {"entries": 0, "seconds": 0.0}
        live = indexes.get(connection, name)
        head = journal.head(connection, job.collection)
        since = journal.waiting_since(connection, job.collection, live.position)
    recorded = 0
    with suppress(EmbedMigrateError), closing(job.open_source(live.spec.recipe)) as source:
        recorded = intake.recorded(job, source)
    return {
        "entries": head - live.position + recorded,
        "seconds": 0.0 if since is None else max(0.0, time.time() - since),
    }


def _names(project: Project, collections: Sequence[str]) -> list[str]:
    """The collections to keep up to date; ``IndexGone`` when nothing of them is live."""
    for name in collections:
        project.settings.collection(name)
    wanted = list(dict.fromkeys(collections)) or sorted(project.settings.collections)
    with project.catalog.read() as connection:
        live = [name for name in wanted if routes.get(connection, name).live_index is not None]
    if missing := [name for name in collections if name not in live]:
        raise nothing_live(", ".join(missing))
    if not live:
        raise nothing_live(", ".join(wanted))
    return live


def _through(job: Job, *, anew: bool | None) -> dict[str, Any]:
    """Rounds until nothing is left to do."""
    total, compared = Followed(), None
    while True:
        with held(job, Role.FOLLOWER, patience=PATIENCE) as lease:
            done = sync_once(job, lease, anew=anew, compared=compared)
        _add(total, done.followed)
        if not done.followed.more:
            return _entry(job, done, total)
        anew, compared = False, done.index  # what was found is in the journal
        job.stop.wait(0.2)


def _ask_again(job: Job, lease: Lease) -> None:
    if (live := of_live_index(job)) is not None:
        retry(job, lease, live[0])


def _refuse_dead_letters(job: Job) -> None:
    if (live := of_live_index(job)) is not None:
        with job.catalog.read() as connection:
            if (dead := refusal(connection, live[0], 0)) is not None:
                raise dead


@dataclass
class _Follower:
    """When to look at a collection next, and when it was last compared as a whole."""

    collection: str
    every: float
    compare_every: float
    due: float = 0.0
    _pause: float = 0.0
    """After the last look, if that met something temporary."""
    _compared: tuple[str, float] | None = None
    """Which index, and when."""

    def look(self, project: Project) -> None:
        """Look, if it is time to; what is temporary only puts off the next look."""
        if time.monotonic() < self.due:
            return
        pause = self.every
        try:
            pause = 0.0 if self._look_at(project) else self.every
            self._pause = 0.0
        except LockHeld:
            pass
        except Temporary as error:
            longest = max(_LONGEST_PAUSE, self.every)
            self._pause = pause = min(2 * max(self._pause, self.every), longest)
            project.reporter.note(f"{self.collection}: tried again in {pause:.0f} s: {error}")
        self.due = time.monotonic() + pause

    def _look_at(self, project: Project) -> bool:
        """``_look``; hooks hear of what ends the worker, and not of what is tried again."""
        try:
            return self._look(project.job(self.collection))
        except Exception as error:
            if not isinstance(error, Temporary):
                tell_failure(project, self.collection, error)
            raise

    def _look(self, job: Job) -> bool:
        """One round if there is something to do; whether there is more."""
        index, at = self._compared or (None, 0.0)
        with job.catalog.read() as connection:
            if routes.get(connection, self.collection).live_index is None:
                return False
        overdue = index is None or time.monotonic() - at >= self.compare_every
        if not overdue and not has_work(job):
            return False
        with held(job, Role.FOLLOWER) as lease:
            done = sync_once(job, lease, anew=None if overdue else False, compared=index)
        if overdue or done.index != index:  # what was found is in the journal, applied or not
            self._compared = done.index, time.monotonic()
        if done.followed.changes:
            job.reporter.note(f"{self.collection}: {_said(done.followed)}")
        return done.followed.more


def has_work(job: Job) -> bool:
    """Whether the source has recorded something, the journal holds something, or a switch waits."""
    with job.catalog.read() as connection:
        route = routes.get(connection, job.collection)
        if route.live_index is None:
            return False
        live = indexes.get(connection, route.live_index)
        if route.settled_generation != route.generation:
            return True
        if live.adopted is not None:  # nobody writes to it
            return False
        if journal.head(connection, job.collection) > live.position:
            return True
    with closing(job.open_source(live.spec.recipe)) as source:
        return intake.waits(job, source)


def _add(total: Followed, part: Followed) -> None:
    for field, value in asdict(part).items():
        if field != "more":
            setattr(total, field, getattr(total, field) + value)


def _entry(job: Job, done: Round, total: Followed) -> dict[str, Any]:
    with job.catalog.read() as connection:
        recipe = indexes.get(connection, done.index).spec.recipe
    with closing(job.open_source(recipe)) as source:
        means = intake.means_of(source, told=job.told_by_application)
    figures = {field: value for field, value in asdict(total).items() if field != "more"}
    return {
        "collection": job.collection,
        "index": done.index,
        "generation": done.generation,
        "changes": means,
        **figures,
        "lag": lag_of(job),
    }


def _said(followed: Followed) -> str:
    return (
        f"{followed.written} written ({followed.embedded} embedded), {followed.metadata} metadata, "
        f"{followed.deleted} deleted" + (f", {followed.failed} failed" if followed.failed else "")
    )
