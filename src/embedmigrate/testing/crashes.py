"""Kills: at one named point, and at random moments of a project's life."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from embedmigrate.errors import VerificationFailed
from embedmigrate.testing.breaking import Event
from embedmigrate.testing.cases import Case, Ground, NotReached
from embedmigrate.testing.points import SCENARIOS, CrashPoint, Scenario, Step
from embedmigrate.testing.subject import SourceKind, Subject

_SOURCES: tuple[SourceKind, SourceKind] = ("managed", "sql")


@dataclass(frozen=True)
class _Stage:
    """A project before the command of a scenario, and how often it makes which calls."""

    subject: Subject
    counts: dict[str, int]


@dataclass
class Crashes:
    """Kills at named points."""

    ground: Ground
    points: tuple[CrashPoint, ...]
    _stages: dict[tuple[str, int], _Stage] = field(default_factory=dict)

    def crash(self, point: CrashPoint, seed: int = 0) -> Case:
        """Kill a command at ``point``, run it again, and check the end.

        ``NotReached`` when the command never came to the point.
        """
        began = time.monotonic()
        scenario = SCENARIOS[point.scenario]
        stage = self._stage(point.scenario, seed)
        calls = stage.counts[point.at]
        if calls == 0:
            raise NotReached(f"{point.name}: {point.at} is not called by {point.scenario!r}")
        call = point.call or random.Random(f"{seed} {point.name}").randint(1, calls)
        subject = stage.subject.copy(self.ground.new(point.name))
        kill = Event(point.at, "kill", point.when, call)
        killed = self.ground.start(
            subject,
            scenario.command.verb,
            options=dict(scenario.command.options),
            events=(kill, *scenario.events),
            misbehaves=scenario.misbehaves,
        )
        status = killed.wait()
        if status != -signal.SIGKILL:
            raise NotReached(f"{point.name}, call {call} of {calls}: {status}, {killed.said}")
        case = Case("points", point.name, seed, kills=1, facts={"call": call, "of": calls})
        for step in self._steps(subject, scenario):
            self.ground.step(subject, step)
        self._look(subject, scenario, case)
        case.seconds = time.monotonic() - began
        if case.good:
            subject.remove()
        return case

    def _steps(self, subject: Subject, scenario: Scenario) -> tuple[Step, ...]:
        """What is left to do after the kill.

        What a model of files made before its process died counts until the index is verified: one
        that answered wrongly all the same is found out there, and the next run builds anew.
        """
        if scenario.misbehaves:
            command = scenario.command
            again = self.ground.start(subject, command.verb, options=dict(command.options))
            if again.wait() not in (0, VerificationFailed.exit_code):
                raise NotReached(again.said)
        return (scenario.command, *scenario.after)

    def _look(self, subject: Subject, scenario: Scenario, case: Case) -> None:
        self.ground.look(subject, case, live=scenario.live)
        if scenario.misbehaves:
            case.findings.allowed += 2 * self.ground.recipe.documents
        if Step("sync") in (scenario.command, *scenario.after):
            self.ground.look_at_retained(subject, case)

    def _stage(self, name: str, seed: int) -> _Stage:
        """Made once a scenario and seed; an undisturbed run counts the calls."""
        if (name, seed) not in self._stages:
            scenario = SCENARIOS[name]
            recipe = replace(
                self.ground.recipe,
                source=scenario.source or _SOURCES[seed % 2],
                with_index=scenario.with_index,
                captured=scenario.captured,
                seed=seed,
            )
            subject = Subject.make(self.ground.new(f"stage {name}"), recipe)
            for step in scenario.before:
                self.ground.step(subject, step)
            rehearsal = subject.copy(self.ground.new(f"rehearsal {name}"))
            counts = self.ground.start(
                rehearsal,
                scenario.command.verb,
                options=dict(scenario.command.options),
                events=scenario.events,
                misbehaves=scenario.misbehaves,
                counted=tuple(it.at for it in self.points if it.scenario == name),
            ).answer()
            rehearsal.remove()
            self._stages[name, seed] = _Stage(subject, counts)
        return self._stages[name, seed]


LIFE = (
    Step("upgrade"),
    Step("sync"),
    Step("rollback", (("unless_at", "first"),)),
    Step("sync"),
    Step("upgrade", (("again", "once more"),)),
    Step("sync"),
    Step("contract"),
)
"""What a project goes through, again and again."""
_KILLS_A_COMMAND = 3


@dataclass
class RandomKills:
    """Kills at random moments, while documents change."""

    ground: Ground
    _lengths: dict[int, float] = field(default_factory=dict)

    def life(self, kills: int, seed: int) -> Case:
        """One project's life with up to ``kills`` kills, each command killed three times at most.

        A kill that comes too late is none.
        """
        began = time.monotonic()
        chance = random.Random(f"life {seed}")
        recipe = replace(self.ground.recipe, source=_SOURCES[seed % 2], seed=seed)
        subject = Subject.make(self.ground.new(f"life {seed}"), recipe)
        if not self._lengths:
            self._measure(subject)
        case = Case("random kills", f"life {seed}", seed)
        struck: list[str] = []
        for number, step in enumerate(LIFE):
            for _ in range(_KILLS_A_COMMAND):
                if case.kills < kills and self._strike(subject, number, step, chance):
                    case.kills += 1
                    struck.append(step.verb)
            self.ground.step(subject, step)
        self.ground.step(subject, Step("sync"))
        self.ground.look(subject, case, live="second")
        self.ground.look_at_retained(subject, case)
        case.facts = {verb: struck.count(verb) for verb in dict.fromkeys(struck)}
        case.seconds = time.monotonic() - began
        if case.good:
            subject.remove()
        return case

    def _measure(self, subject: Subject) -> None:
        """How long each command takes when nothing happens."""
        rehearsal = subject.copy(self.ground.new("rehearsal"))
        for number, step in enumerate(LIFE):
            began = time.monotonic()
            self.ground.step(rehearsal, step)
            self._lengths[number] = time.monotonic() - began
        rehearsal.remove()

    def _strike(self, subject: Subject, number: int, step: Step, chance: random.Random) -> bool:
        """Kill a command at a random moment, with changes meanwhile; whether it was hit."""
        child = self.ground.start(subject, step.verb, options=dict(step.options))
        moment = time.monotonic() + chance.uniform(0, self._lengths[number])
        with subject.writer(1, number) as writer:
            while (left := moment - time.monotonic()) > 0:
                writer.change()
                time.sleep(min(left, chance.uniform(0, 0.02)))
        child.kill()
        return child.wait() == -signal.SIGKILL


def lives(kills: int, a_life: int = 12) -> Iterator[int]:
    """How many kills each life takes, so that there are ``kills`` in all if none comes too late."""
    while kills > 0:
        yield min(kills, a_life)
        kills -= a_life
