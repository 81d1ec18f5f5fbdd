"""One case that was tried, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from embedmigrate.errors import EmbedMigrateError
from embedmigrate.testing.checker import Findings, check, check_retained, paid_twice
from embedmigrate.testing.points import Step
from embedmigrate.testing.processes import Child
from embedmigrate.testing.subject import COLLECTION, Recipe, Subject
from embedmigrate.testing.tasks import Order, perform

Say = Callable[[str], None]


class NotReached(AssertionError):
    """A process went on to its end where it was to be killed."""


@dataclass
class Case:
    """A case of one form, that of a seed. ``facts`` are figures, ``faults`` what else is wrong."""

    form: str
    name: str
    seed: int
    kills: int = 0
    seconds: float = 0.0
    findings: Findings = field(default_factory=Findings)
    faults: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return not self.faults and self.findings.good

    def __str__(self) -> str:
        said = "; ".join([*self.faults, str(self.findings)])
        return f"{self.form} {self.name!r}, seed {self.seed}: {said}"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "good": self.good}

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> Case:
        values = {name: value for name, value in line.items() if name != "good"}
        return cls(**{**values, "findings": Findings(**values["findings"])})


@dataclass
class Ground:
    """Where cases are tried: a folder, and how the projects in it are made."""

    folder: Path
    recipe: Recipe = field(default_factory=Recipe)
    off: tuple[str, ...] = ()
    """Protections that are turned off: ``package.module:function``."""
    tolerance: float = 1e-5
    _made: int = 0

    def new(self, name: str) -> Path:
        """A path that does not exist yet."""
        self._made += 1
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{self._made:05d}-{name.replace(' ', '-')}"

    def start(self, subject: Subject, verb: str, **parts: Any) -> Child:
        """A child that performs a command in a project; ``parts`` are those of ``Order``."""
        return Child(perform, Order(subject.root, verb, off=self.off, **parts))

    def step(self, subject: Subject, step: Step) -> None:
        """A command that must succeed."""
        self.start(subject, step.verb, options=dict(step.options)).answer()

    def look(self, subject: Subject, case: Case, *, live: str | None = None) -> None:
        """Check a project in the end; what is found is added to ``case``."""
        try:
            found = check(subject.settings, COLLECTION, root=subject.root, tolerance=self.tolerance)
        except EmbedMigrateError as error:
            case.faults.append(f"the index cannot be read: {error}")
            return
        found.paid_twice = paid_twice(subject.asked)
        found.allowed = 2 * self.recipe.batch_size * case.kills
        case.findings.add(found)
        if live is not None and not subject.is_settled_at(live):
            case.faults.append(f"{subject.live()} is live or not settled, expected {live}")

    def look_at_retained(self, subject: Subject, case: Case) -> None:
        """Check what is kept, after everything was taken in."""
        case.findings.add(check_retained(subject.settings, COLLECTION))
