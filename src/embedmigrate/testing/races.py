"""Two runners that want the same collection, and one that sleeps beyond its lease (I15)."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path

from embedmigrate.errors import EmbedMigrateError, FencedOut, LockHeld
from embedmigrate.testing.breaking import Event
from embedmigrate.testing.cases import Case, Ground
from embedmigrate.testing.checker import texts_asked
from embedmigrate.testing.points import CrashPoint
from embedmigrate.testing.processes import running
from embedmigrate.testing.subject import COLLECTION, Subject

_ACQUIRE = "embedmigrate.catalog.locks:acquire"
_ASK = "embedmigrate.engine.embedding:_ask"
_NO_HEARTBEAT = "embedmigrate.testing.races:no_heartbeat"
_BOTH_WORK = 3.0
"""Seconds after which two runners, of which none has ended, are both at work."""
LEASE = 1.0


@dataclass
class Races:
    """Races for a collection's lock."""

    ground: Ground
    _stages: dict[str, Subject] = field(default_factory=dict)

    def race(self, seed: int = 0) -> Case:
        """Two upgrades reach for the lock at one moment: one works, the other ends with 75.

        The winner embeds nothing before the other has ended, so that both are there at once.
        """
        began = time.monotonic()
        subject = self._copy("race", 30.0)
        events = (
            Event(_ACQUIRE, "gate", value="go"),
            Event(_ACQUIRE, "note", value="here"),
            Event(_ASK, "gate", value="decided"),
        )
        case = Case("races", f"race {seed}", seed)
        with running([self.ground.start(subject, "upgrade", events=events) for _ in "12"]) as both:
            _until(lambda: len(subject.moments()) == 2)
            (subject.root / "go").touch()
            ended = wait([child.sentinel for child in both], _BOTH_WORK)
            (subject.root / "decided").touch()
            statuses = {child.wait(): child for child in both}
        if not ended:
            case.faults.append("both work")
        if sorted(statuses) != [0, LockHeld.exit_code]:
            case.faults.append(f"ended with {sorted(statuses)}, expected 0 and 75")
        for status, child in statuses.items():
            if status and (asked := texts_asked(subject.asked, [child.pid])):
                case.faults.append(f"the loser embedded {asked} texts")
        self.ground.look(subject, case, live="second")
        return self._closed(case, subject, began)

    def sleep(self, point: CrashPoint, seed: int = 0) -> Case:
        """A runner is stopped at ``point`` beyond its lease and woken when another one is done."""
        began = time.monotonic()
        subject = self._copy("sleeper", LEASE)
        case = Case("sleepers", point.name, seed)
        stop = Event(point.at, "stop", point.when, point.call or 1)
        # one that is stopped just while its heart beats would keep the catalog's lock
        ground = replace(self.ground, off=(*self.ground.off, _NO_HEARTBEAT))
        with running([ground.start(subject, "upgrade", events=(stop,))]) as (sleeper,):
            _until(lambda: _is_stopped(sleeper.pid) or not sleeper.runs)
            time.sleep(LEASE + 0.05)
            self.ground.start(subject, "upgrade").answer()
            before = _written(subject)
            sleeper.send(signal.SIGCONT)
            status = sleeper.wait()
        if status != FencedOut.exit_code:
            case.faults.append(f"it ended with {status}: {sleeper.said}")
        try:
            if _written(subject) != before:
                case.faults.append("it wrote after it had lost its lock")
        except EmbedMigrateError as error:
            case.faults.append(f"it did damage after it had lost its lock: {error.message}")
        case.findings.allowed = self.ground.recipe.documents
        self.ground.look(subject, case, live="second")
        case.findings.paid_twice = 0  # two runners pay, each for itself
        return self._closed(case, subject, began)

    def late(self, seed: int = 0) -> Case:
        """The first writes arrive again after documents of it were changed and deleted (I5)."""
        began = time.monotonic()
        subject = self._copy("late", 30.0)
        change = Event("embedmigrate.engine.prepare:compare", "change", value=(1, 60))
        case = Case("late writes", f"write {seed}", seed)
        self.ground.start(subject, "upgrade", events=(change,), late=True).wait()
        self.ground.look(subject, case, live="second")
        return self._closed(case, subject, began)

    def _copy(self, name: str, lease_seconds: float) -> Subject:
        if name not in self._stages:
            recipe = replace(self.ground.recipe, lease_seconds=lease_seconds)
            self._stages[name] = Subject.make(self.ground.new(f"stage {name}"), recipe)
        return self._stages[name].copy(self.ground.new(name))

    def _closed(self, case: Case, subject: Subject, began: float) -> Case:
        case.seconds = time.monotonic() - began
        if case.good:
            subject.remove()
        return case


def no_heartbeat() -> None:
    """A protection that is turned off: nobody renews a lease while its owner is busy."""
    from embedmigrate.engine import lock

    def beat(*_: object) -> None:
        return None

    setattr(lock, "_beat", beat)  # noqa: B010


def _until(done: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "nobody came"
        time.sleep(0.002)


def _is_stopped(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8")
        return stat.rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def _written(subject: Subject) -> list[str]:
    """Everything in the catalog, and what every index holds."""
    import sqlalchemy as sa

    from embedmigrate.catalog import indexes, schema
    from embedmigrate.command.project import Project, version_table

    lines: list[str] = []
    with Project(subject.settings) as project, project.catalog.read() as connection:
        for table in (*schema.metadata.sorted_tables, version_table):
            lines += sorted(map(repr, connection.execute(sa.select(table))))
        known = indexes.of_collection(connection, COLLECTION)
    store = subject.settings.open_store(COLLECTION)
    for index in known:
        with closing(store.reader(index.container)) as reader:
            states = list(reader.states())
            lines += map(repr, states)
            lines.append(reader.vectors([(it.id, it.chunk) for it in states]).tobytes().hex())
            lines.append(repr(reader.manifest))
    return lines
