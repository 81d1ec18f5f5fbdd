"""What goes on while a project moves: writers, a follower, readers, each a process of its own."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from embedmigrate.testing.breaking import Event
from embedmigrate.testing.cases import Case, Ground
from embedmigrate.testing.changes import acknowledged
from embedmigrate.testing.points import Step
from embedmigrate.testing.processes import Child
from embedmigrate.testing.reading import Seen
from embedmigrate.testing.subject import SourceKind, Subject

_WALK = "embedmigrate.command.forward:_walk"
_SETTLE = "embedmigrate.command.project:Project.settle"
_READY = "embedmigrate.command.back:_make_targets_ready"
_BACK = "embedmigrate.command.back:_settle"
OPENS, CLOSES = "window opens", "window closes"
_BATCH = 256
"""Documents a batch at least: who follows must be faster than who writes."""
_IDLE_SECONDS = 60.0
_SOAK_SECONDS = 0.1


def _window(opens: Event, closes: str, changes: int) -> tuple[Event, ...]:
    """The time in which what changes is in no index yet, held open for so many changes."""
    hold = replace(opens, do="hold", value=changes)
    pair = (hold, opens) if opens.when == "before" else (opens, hold)  # the last one is outermost
    return (*pair, Event(closes, "note", value=CLOSES, call=1))


@dataclass
class Changes:
    """Documents that change through backfill, cut-over, soak and rollback."""

    ground: Ground

    def change(
        self,
        *,
        writers: int,
        changes: int,
        in_window: int,
        source: SourceKind = "managed",
        seed: int = 0,
        pause: float = 0.0,
    ) -> Case:
        """Writers make at least ``changes`` changes, each acknowledged, while the project moves.

        Each cut-over and each rollback stays in its window until ``in_window`` changes came. There
        are a cut-over, a rollback and another cut-over at least.
        """
        began = time.monotonic()
        batch_size = max(self.ground.recipe.batch_size, _BATCH)
        recipe = replace(
            self.ground.recipe, source=source, writers=writers, seed=seed, batch_size=batch_size
        )
        subject = Subject.make(self.ground.new(f"changes {source}"), recipe)
        case = Case("changes", f"{writers} writers, {source}", seed)
        forward = _window(Event(_WALK, "note", value=OPENS), _SETTLE, in_window)
        back = _window(Event(_READY, "note", "after", value=OPENS), _BACK, in_window)
        with ExitStack() as stack:

            def start(verb: str, **options: Any) -> Child:
                return stack.enter_context(self.ground.start(subject, verb, options=options))

            reader = start("search")
            follower = start("follow", every=0.05)
            at_work = [
                start("keep changing", number=number + 1, seed=seed, pause=pause)
                for number in range(writers)
            ]
            for number in count():
                options = {"again": "the next round"} if number else {}
                self._run(subject, "upgrade", options, forward)
                time.sleep(_SOAK_SECONDS)
                if number and _made(subject) >= changes:
                    break
                self._run(subject, "rollback", {}, back)
                time.sleep(_SOAK_SECONDS)
            subject.over.touch()
            for writer in at_work:
                writer.answer()
            seen = Seen(**reader.answer())
            if not self.ground.off:  # whoever is stopped in the middle of a page has paid for it
                _until_idle(subject)
            follower.send(signal.SIGTERM)
            follower.answer()
        self.ground.step(subject, Step("sync"))
        self.ground.look(subject, case, live="second")
        self.ground.look_at_retained(subject, case)
        self._tell(subject, case, [seen])
        case.seconds = time.monotonic() - began
        if case.good:
            subject.remove()
        return case

    def _run(
        self, subject: Subject, verb: str, options: dict[str, Any], events: tuple[Event, ...]
    ) -> None:
        self.ground.start(subject, verb, options=options, events=events).answer()

    def _tell(self, subject: Subject, case: Case, readers: Sequence[Seen]) -> None:
        made = list(acknowledged(subject.root))
        moments = [at for _, at in subject.moments()]
        windows = list(zip(moments[::2], moments[1::2], strict=True))
        case.facts = {
            "changes": len(made),
            "in the window": sum(any(a <= it.at <= b for a, b in windows) for it in made),
            "windows": len(windows),
            **{
                kind: sum(it.kind == kind for it in made)
                for kind in dict.fromkeys(m.kind for m in made)
            },
            **_pauses(readers, max(it.took for it in made)),
        }
        _blame(case, readers)


@dataclass
class Switches:
    """Cut-overs and rollbacks under readers."""

    ground: Ground
    readers: int = 2

    def switch(self, switches: int, *, seed: int = 0, pause: float = 0.005) -> Case:
        """Switch so many times while processes search and one changes documents."""
        began = time.monotonic()
        batch_size = max(self.ground.recipe.batch_size, _BATCH)
        recipe = replace(self.ground.recipe, seed=seed, batch_size=batch_size)
        subject = Subject.make(self.ground.new("switches"), recipe)
        case = Case("switches", f"{switches} switches", seed)
        with ExitStack() as stack:

            def start(verb: str, **options: Any) -> Child:
                return stack.enter_context(self.ground.start(subject, verb, options=options))

            readers = [start("search") for _ in range(self.readers)]
            writer = start("keep changing", number=1, seed=seed, pause=pause)
            took = start("switch", switches=switches).answer(7200)
            subject.over.touch()
            writer.answer()
            seen = [Seen(**reader.answer()) for reader in readers]
        self.ground.step(subject, Step("sync"))
        self.ground.look(subject, case, live="first" if switches % 2 == 0 else "second")
        made = list(acknowledged(subject.root))
        case.facts = {
            "switches": switches,
            "seconds a switch": round(sum(took) / len(took), 3),
            "searches": sum(it.searches for it in seen),
            "generations seen": max(it.generations for it in seen),
            "changes": len(made),
            **_pauses(seen, max(it.took for it in made)),
        }
        _blame(case, seen)
        case.seconds = time.monotonic() - began
        if case.good:
            subject.remove()
        return case


def _until_idle(subject: Subject) -> None:
    """Wait until whoever follows has nothing left to do."""
    deadline = time.monotonic() + _IDLE_SECONDS
    while subject.is_behind() and time.monotonic() < deadline:
        time.sleep(0.05)


def _made(subject: Subject) -> int:
    return sum(1 for _ in acknowledged(subject.root))


def _pauses(readers: Sequence[Seen], writer: float) -> dict[str, Any]:
    return {
        "longest pause of a reader": round(max(it.longest_pause for it in readers), 4),
        "longest pause of a writer": round(writer, 4),
    }


def _blame(case: Case, readers: Sequence[Seen]) -> None:
    """What readers must not see is a fault."""
    for it in readers:
        if it.faults:
            case.faults.append(
                f"of {it.searches} searches {len(it.errors)} errors ({it.errors[:1]}), {it.empty} "
                f"empty, {it.mismatched} mismatched, {it.went_back} of an older generation"
            )
