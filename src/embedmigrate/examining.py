"""What parts say of the places that they use, to a doctor who knows nothing of their kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from embedmigrate.errors import EmbedMigrateError


@dataclass(frozen=True)
class Observation:
    """One thing that was looked at. ``trouble`` is None where all is well."""

    what: str
    found: str
    trouble: str | None = None
    exit_code: int = 0
    advice: str | None = None
    """What would be better, where nothing is in the way of a command."""


@runtime_checkable
class Examined(Protocol):
    """A source or a store that can say more than whether it can be opened."""

    def examine(self) -> Iterable[Observation]:
        """Look, and change nothing. Of two observations of one name one is told."""


def look(what: str, ask: Callable[[], str | tuple[str, str | None]]) -> Observation:
    """What ``ask`` found, with advice if it gives any; or the trouble that it raised."""
    try:
        answer = ask()
    except EmbedMigrateError as error:
        return Observation(what, error.message, str(error), error.exit_code)
    found, advice = answer if isinstance(answer, tuple) else (answer, None)
    return Observation(what, found, advice=advice)
