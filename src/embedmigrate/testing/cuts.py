"""Connections that are cut at a write to the catalog, in a project on a server."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from embedmigrate.testing.breaking import Event
from embedmigrate.testing.cases import Case, Ground
from embedmigrate.testing.subject import Subject

COMMIT = "sqlalchemy.engine.base:Connection._commit_impl"
"""Where every write to the catalog is committed."""
How = Literal["cut", "lose"]
"""``cut``: before the commit reaches the server. ``lose``: committed, and nobody hears of it."""
HOW: tuple[How, ...] = ("cut", "lose")
_TEMPORARY = 75


@dataclass
class Cuts:
    """Cuts at the writes of an upgrade."""

    ground: Ground
    _stage: Subject | None = None
    _commits: int = field(default=0)
    _seconds: float = field(default=0.0)

    @property
    def commits(self) -> int:
        """How many writes an upgrade commits."""
        self._prepare()
        return self._commits

    def cut(self, number: int, how: How, seed: int = 0) -> Case:
        """Cut every connection at the commit of that number; the command goes on, or ends with 75.

        It is run again, and the end must be that of an undisturbed run.
        """
        began = time.monotonic()
        stage = self._prepare()
        subject = stage.copy(self.ground.new(f"{how} {number}"))
        case = Case("cuts", f"{how} at commit {number}", seed, kills=1)
        when: Literal["before", "after"] = "before" if how == "cut" else "after"
        broken = self.ground.start(subject, "upgrade", events=(Event(COMMIT, how, when, number),))
        status = broken.wait()
        case.facts = {"status": status, "of": self._commits}
        return self._ended(subject, case, status, broken.said, began)

    def interrupt(self, disturb: Callable[[], None], seed: int = 0) -> Case:
        """Call ``disturb`` at a random moment of an upgrade; else as ``cut``.

        ``disturb`` may do what it likes to the server, which must answer again in the end.
        """
        began = time.monotonic()
        chance = random.Random(f"interrupt {seed}")
        stage = self._prepare()
        subject = stage.copy(self.ground.new(f"interrupt {seed}"))
        case = Case("interruptions", f"moment {seed}", seed)
        broken = self.ground.start(subject, "upgrade")
        time.sleep(chance.uniform(0, self._seconds))
        case.kills = int(broken.runs)
        disturb()
        status = broken.wait()
        case.facts = {"status": status, "in time": case.kills}
        return self._ended(subject, case, status, broken.said, began)

    def _ended(self, subject: Subject, case: Case, status: int, said: str, began: float) -> Case:
        """Run the command again, after changes, and check the end."""
        if status not in (0, _TEMPORARY):
            case.faults.append(f"it ended with {status}: {said}")
        with subject.writer(1, case.seed) as writer:
            writer.changes(random.Random(f"{case.seed} {case.name}").randint(0, 10))
        for verb in ("upgrade", "sync"):
            self.ground.start(subject, verb).answer()
        self.ground.look(subject, case, live="second")
        case.seconds = time.monotonic() - began
        if case.good:
            subject.remove()
        return case

    def _prepare(self) -> Subject:
        if self._stage is None:
            recipe = replace(self.ground.recipe, source="managed")
            self._stage = Subject.make(self.ground.new("stage cuts"), recipe)
            rehearsal = self._stage.copy(self.ground.new("rehearsal cuts"))
            began = time.monotonic()
            counts = self.ground.start(rehearsal, "upgrade", counted=(COMMIT,)).answer()
            self._seconds = time.monotonic() - began
            self._commits = counts[COMMIT]
            rehearsal.remove()
        return self._stage
