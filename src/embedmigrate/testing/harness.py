"""The fault harness: what it does to a project, and what must be true afterwards."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from embedmigrate.testing.cases import Case, Ground
from embedmigrate.testing.crashes import Crashes, RandomKills, lives
from embedmigrate.testing.cuts import Cuts, How
from embedmigrate.testing.moving import Changes, Switches
from embedmigrate.testing.points import POINTS, CrashPoint
from embedmigrate.testing.processes import Ended
from embedmigrate.testing.races import Races
from embedmigrate.testing.subject import MODELS, Recipe, SourceKind

_CAN_SLEEP = (
    "run wanted",
    "container wanted",
    "batches planned",
    "rows committed",
    "comparison wanted",
    "index to build",
    "walk wanted",
    "generation wanted",
)
"""Points at which a runner may be stopped beyond its lease without holding somebody else up."""


class Harness:
    """Kills, races and moves projects that it makes in ``folder``, and checks each afterwards.

    ``store`` is the TOML table of the store that is tried, one that another package offers among
    them; ``models`` are the tables of two models, ``[models.first]`` and ``[models.second]``.
    ``tolerance`` is how far a component of a stored vector may be off, ``points`` the crash points,
    which are left out where they are those of another store. ``off`` are protections to be turned
    off, ``"package.module:function"``, to see that their loss is noticed.

    ``server`` is the URL of a PostgreSQL server with pgvector: each project then has a database of
    its own there for its catalog and its SQL source, whose URL is ``$DATABASE`` in ``store``.

    Every method returns a ``Case``, which is ``good`` or says what is wrong; its project is kept
    for a look when it is not. Processes are started by the fork server of ``multiprocessing``: a
    script that uses a harness needs its ``if __name__ == "__main__":``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        store: str = '{ kind = "faiss", path = "indexes" }',
        models: str = MODELS,
        documents: int = 64,
        batch_size: int = 8,
        tolerance: float = 1e-5,
        server: str | None = None,
        points: Sequence[CrashPoint] = POINTS,
        off: Sequence[str] = (),
    ) -> None:
        recipe = Recipe(
            store=store, models=models, documents=documents, batch_size=batch_size, server=server
        )
        named = re.search(r"""kind\s*=\s*["']([^"']+)["']""", store)
        kind = named[1] if named else ""
        self.points = tuple(point for point in points if point.store in (None, kind))
        ground = Ground(folder, recipe, tuple(off), tolerance)
        self._crashes, self._kills = Crashes(ground, self.points), RandomKills(ground)
        self._races, self._changes = Races(ground), Changes(ground)
        self._switches, self._cuts = Switches(ground), Cuts(ground)

    def point(self, name: str) -> CrashPoint:
        """The crash point of that name; ``KeyError``."""
        return {point.name: point for point in self.points}[name]

    def crash(self, point: CrashPoint | str, seed: int = 0) -> Case:
        """Kill a command at ``point``, run it again, and check the end.

        The seed draws which call of the point it is, the changes around it, and the kind of source.
        ``NotReached`` when the command never came to the point.
        """
        point = self._found(point)
        with _told(Case("points", point.name, seed, kills=1)) as tried:
            tried.append(self._crashes.crash(point, seed))
        return tried[-1]

    def kill_at_random(self, kills: int, seed: int = 0) -> Iterator[Case]:
        """Kill the commands of projects' lives at random moments, ``kills`` times in all.

        One case a life of at most twelve kills. Documents change meanwhile.
        """
        hit = 0
        while hit < kills:
            with _told(Case("random kills", f"life {seed}", seed)) as tried:
                tried.append(self._kills.life(next(lives(kills - hit)), seed))
            yield tried[-1]
            if tried[-1].faults:
                return
            hit, seed = hit + tried[-1].kills, seed + 1

    def race(self, seed: int = 0) -> Case:
        """Two runners reach for one lock: one wins, the other ends with 75 and embeds nothing."""
        with _told(Case("races", f"race {seed}", seed)) as tried:
            tried.append(self._races.race(seed))
        return tried[-1]

    def sleep(self, point: CrashPoint | str, seed: int = 0) -> Case:
        """A runner is stopped at ``point`` beyond its lease, and writes nothing when it wakes.

        About two seconds each; ``sleepers`` are the points that it is meant for.
        """
        point = self._found(point)
        with _told(Case("sleepers", point.name, seed)) as tried:
            tried.append(self._races.sleep(point, seed))
        return tried[-1]

    @property
    def sleepers(self) -> tuple[CrashPoint, ...]:
        return tuple(point for point in self.points if point.name in _CAN_SLEEP)

    def late_write(self, seed: int = 0) -> Case:
        """Writes that arrive again, after what they wrote was changed and deleted, do nothing."""
        with _told(Case("late writes", f"write {seed}", seed)) as tried:
            tried.append(self._races.late(seed))
        return tried[-1]

    def change(
        self,
        *,
        writers: int = 4,
        changes: int = 400,
        in_window: int = 20,
        source: SourceKind = "managed",
        pause: float = 0.005,
        seed: int = 0,
    ) -> Case:
        """``writers`` processes make at least ``changes`` acknowledged changes while it moves.

        The project goes through backfill, cut-over, soak and rollback until they are made; each
        switch stays open until ``in_window`` of them came in it. ``pause`` is what a writer waits
        after each, in seconds; whoever follows must be faster.
        """
        with _told(Case("changes", f"{writers} writers, {source}", seed)) as tried:
            case = self._changes.change(
                writers=writers,
                changes=changes,
                in_window=in_window,
                source=source,
                seed=seed,
                pause=pause,
            )
            tried.append(case)
        return tried[-1]

    def switch(self, switches: int = 20, seed: int = 0) -> Case:
        """Cut over and roll back by turns, under readers that check every answer and a writer."""
        with _told(Case("switches", f"{switches} switches", seed)) as tried:
            tried.append(self._switches.switch(switches, seed=seed))
        return tried[-1]

    @property
    def commits(self) -> int:
        """How many writes to the catalog an upgrade commits; for ``cut``, on a server."""
        return self._cuts.commits

    def cut(self, commit: int, how: How, seed: int = 0) -> Case:
        """End every session on the project's database at a commit, counted from 1.

        ``how`` is ``"cut"``, before the commit reaches the server, or ``"lose"``: it is committed,
        and the answer is lost. The command goes on or ends with 75.
        """
        with _told(Case("cuts", f"{how} at commit {commit}", seed)) as tried:
            tried.append(self._cuts.cut(commit, how, seed))
        return tried[-1]

    def interrupt(self, disturb: Callable[[], None], seed: int = 0) -> Case:
        """Call ``disturb`` at a random moment of an upgrade: it may restart or kill the server.

        The command goes on or ends with 75, and the end is as it must be. ``kills`` of the case is
        0 when it was over before.
        """
        with _told(Case("interruptions", f"moment {seed}", seed)) as tried:
            tried.append(self._cuts.interrupt(disturb, seed))
        return tried[-1]

    def _found(self, point: CrashPoint | str) -> CrashPoint:
        return self.point(point) if isinstance(point, str) else point

    def facts(self) -> dict[str, Any]:
        """What was tried: versions of the parts that decide."""
        import platform
        import sqlite3
        from importlib.metadata import version

        names = ("embedmigrate", "faiss-cpu", "numpy", "sqlalchemy", "alembic")
        return {
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            **{name: version(name) for name in names},
        }


@contextmanager
def _told(case: Case) -> Iterator[list[Case]]:
    """A command that must succeed and does not is a fault of the case, in its own words."""
    tried = [case]
    try:
        yield tried
    except Ended as error:
        case.faults.append(str(error))
