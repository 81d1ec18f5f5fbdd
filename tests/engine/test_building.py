"""What the reporter hears of an index that is being built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from embedmigrate.engine.building import build
from embedmigrate.stores.base import BuildProgress


@dataclass
class Heard:
    """A reporter, and the job that has it."""

    said: list[Any] = field(default_factory=list)
    collection: str = "things"

    @property
    def reporter(self) -> Heard:
        return self

    def phase(self, collection: str, name: str, total: int | None = None, done: int = 0) -> None:
        self.said.append((name, total, done))

    def advance(self, documents: int) -> None:
        self.said.append(documents)


class Builder:
    """A writer of which only ``build`` is asked."""

    on_progress: Callable[[BuildProgress], None] | None = None

    def build(self) -> None:
        assert self.on_progress is not None
        for progress in (("sorting", 0, 0), ("loading", 0, 100), ("loading", 40, 100)):
            self.on_progress(BuildProgress(*progress))


class Silent:
    built = False

    def build(self) -> None:
        self.built = True


def test_each_phase_of_the_store_is_one_and_advances() -> None:
    heard, writer = Heard(), Builder()
    job: Any = heard
    part: Any = writer
    build(job, part)
    assert heard.said == [("building: sorting", None, 0), ("building: loading", 100, 0), 40]
    assert writer.on_progress is None


def test_a_store_that_cannot_say_is_just_built() -> None:
    heard, writer = Heard(), Silent()
    job: Any = heard
    part: Any = writer
    build(job, part)
    assert writer.built
    assert heard.said == []
