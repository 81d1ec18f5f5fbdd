"""kill -9 at random moments of a migration, and what is checked afterwards."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.project import EndState, Fault, Faulty, Runner

PHASES = {
    "starting": "",
    "reading": "reading the source",
    "planning": "fault: planning",
    "embedding": "embedding",
    "comparing": "comparing",
    "building": "building",
    "verifying": "verifying",
    "cutting over": "fault: cutting over",
    "settling": "fault: settling",
}
"""What a migration goes through, in order, and what its runner says when it begins."""


def _announce(at: str, phase: str) -> Fault:
    return {"at": at, "do": "say", "with_": phase}


ANNOUNCED: Sequence[Fault] = (
    _announce("embedmigrate.catalog.runs:plan_batches", "planning"),
    _announce("embedmigrate.command.forward:_walk", "cutting over"),
    _announce("embedmigrate.command.project:Project.settle", "settling"),
)


@dataclass
class Kill:
    """One kill: at which phase and how long after its beginning, and what stood there then."""

    round: int
    phase: str
    delay: float
    pid: int
    found: str
    """State of the run, as the catalog tells it."""
    documents: int
    """Documents that were checkpointed by then."""
    embedded_again: int = 0
    """Texts that had to be embedded again because of this kill."""


@dataclass
class Campaign:
    """What came of many kills."""

    seed: int
    batch_size: int
    kills: list[Kill] = field(default_factory=list)
    missed: int = 0
    """Commands that had ended before the kill."""
    differences: list[str] = field(default_factory=list)
    """What differs from an undisturbed migration; must be empty."""

    @property
    def most_embedded_again(self) -> int:
        return max((kill.embedded_again for kill in self.kills), default=0)

    @property
    def embedded_again(self) -> int:
        return sum(kill.embedded_again for kill in self.kills)

    @property
    def good(self) -> bool:
        return not self.differences and self.most_embedded_again <= 2 * self.batch_size

    @property
    def phases_aimed_at(self) -> set[str]:
        return {kill.phase for kill in self.kills}

    @property
    def states_found(self) -> set[str]:
        return {kill.found for kill in self.kills}

    def table(self) -> Iterator[str]:
        yield "kill round  phase          after      run was         checkpointed  embedded again"
        for number, kill in enumerate(self.kills, start=1):
            yield (
                f"{number:4} {kill.round:5}  {kill.phase:12} {kill.delay * 1000:6.0f} ms   "
                f"{kill.found:14} {kill.documents:13} {kill.embedded_again:15}"
            )


def durations(runner: Runner, began: float, ended: float) -> dict[str, float]:
    """How long each phase of an undisturbed run took, in seconds."""
    starts = {"starting": began}
    for at, line in runner.lines:
        for phase, said in PHASES.items():
            if said and said in line and phase not in starts:
                starts[phase] = at
    ends = [*list(starts.values())[1:], ended]
    return {phase: end - start for (phase, start), end in zip(starts.items(), ends, strict=True)}


def campaign(
    make_project: Callable[[Path], Faulty],
    folder: Path,
    *,
    kills: int,
    seed: int,
    batch_size: int,
    queries: Sequence[str],
    kills_a_round: int = 3,
    say: Callable[[str], None] = lambda _: None,
) -> Campaign:
    """Migrate again and again, killed at up to ``kills_a_round`` random moments each time.

    The moments are drawn phase by phase, so that short phases are hit as often as long ones: a
    random delay after the beginning of a phase, as long as the phase takes when nothing happens.
    """
    randomness = random.Random(seed)
    result = Campaign(seed, batch_size)
    undisturbed = make_project(folder / "undisturbed")
    expected, lengths = _undisturbed(undisturbed, queries)
    paid_for = undisturbed.texts_asked()
    say("undisturbed: " + ", ".join(f"{p} {s * 1000:.0f} ms" for p, s in lengths.items()))
    cards = [*PHASES, "embedding", "embedding"]  # where nearly all of the time goes
    deck: list[str] = []
    number = 0
    while len(result.kills) < kills:
        number += 1
        project = make_project(folder / f"round-{number}")
        wanted = min(kills_a_round, kills - len(result.kills))
        if len(deck) < wanted:
            deck += randomness.sample(cards, len(cards))
        aims, deck = sorted(deck[:wanted], key=list(PHASES).index), deck[wanted:]
        struck = [
            kill
            for phase in aims
            if (kill := _strike(project, number, phase, randomness.uniform(0, lengths[phase])))
        ]
        result.missed += len(aims) - len(struck)
        last = project.end("upgrade")
        if last.status != 0:
            result.differences.append(f"round {number} ended with {last.status}: {last.errors}")
            continue
        paid_twice = project.paid_twice()
        for kill in struck:
            kill.embedded_again = paid_twice.pop(kill.pid, 0)
        result.kills += struck
        extra = project.texts_asked() - paid_for
        if paid_twice or extra > 2 * batch_size * len(struck):
            result.differences.append(
                f"round {number}: {extra} texts more than needed, unexplained: {paid_twice}"
            )
        found = project.end_state(queries).differences(expected)
        result.differences += [f"round {number}: {difference}" for difference in found]
        say(f"round {number}: killed while {', '.join(kill.found for kill in struck) or '-'}")
    return result


def _undisturbed(project: Faulty, queries: Sequence[str]) -> tuple[EndState, dict[str, float]]:
    began = time.monotonic()
    runner = project.end("upgrade", faults=ANNOUNCED)
    assert runner.status == 0, runner.errors
    return project.end_state(queries), durations(runner, began, time.monotonic())


def _strike(project: Faulty, number: int, phase: str, delay: float) -> Kill | None:
    """Kill an upgrade ``delay`` seconds into a phase; None when it had ended before."""
    runner = project.begin("upgrade", faults=ANNOUNCED)
    if PHASES[phase]:
        runner.wait_for(PHASES[phase])
    time.sleep(delay)
    runner.send(signal.SIGKILL)
    if runner.finish() != -signal.SIGKILL:
        return None
    found, documents = project.progress()
    return Kill(number, phase, delay, runner.process.pid, found, documents)
