"""What happens to a collection, as it is told to hooks: figures and names, no text, no secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from embedmigrate.catalog import Catalog, indexes, routes, runs
from embedmigrate.catalog.records import RunRecord
from embedmigrate.errors import EmbedMigrateError

EventName = Literal[
    "on_start",
    "on_ready",
    "before_cutover",
    "after_cutover",
    "on_rollback",
    "on_drift",
    "on_failure",
]


@dataclass(frozen=True)
class Occasion:
    """Something that happens, or is about to. ``from_`` is what was live before it."""

    event: EventName
    collection: str | None
    revision: str | None = None
    run: int | None = None
    from_index: str | None = None
    from_model: str | None = None
    to_index: str | None = None
    to_model: str | None = None
    generation: int | None = None
    """Of the route, behind what happened."""
    counts: Mapping[str, int] | None = None
    reason: str | None = None
    error: Mapping[str, Any] | None = None


class Hooks(Protocol):
    """Hears what happens. Called outside every transaction, in the thread that works."""

    def tell(self, occasion: Occasion) -> None:
        """Tell it once. Returns whatever its hearers do; ``Vetoed`` only for ``before_cutover``."""


class Deaf:
    """Hooks of nobody."""

    def tell(self, occasion: Occasion) -> None:
        pass


def of_run(catalog: Catalog, event: EventName, run: RunRecord) -> Occasion:
    """What happens to a run whose index is not live: it would replace what is live now."""
    with catalog.read() as connection:
        route = routes.get(connection, run.collection)
        live = None if route.live_index is None else indexes.get(connection, route.live_index)
        target, now = indexes.get(connection, run.index_name), runs.get(connection, run.id)
    return Occasion(
        event,
        run.collection,
        revision=run.revision,
        run=run.id,
        from_index=None if live is None else live.name,
        from_model=None if live is None else live.model.reference,
        to_index=target.name,
        to_model=target.model.reference,
        generation=route.generation,
        counts={
            "total": now.total,
            "done": now.done,
            "skipped": now.skipped,
            "failed": now.failed,
            "embedded": now.embedded,
        },
        reason=now.reason,
    )


def of_switch(
    catalog: Catalog,
    event: EventName,
    collection: str,
    *,
    revision: str,
    before: str | None,
    reason: str | None,
) -> Occasion:
    """A switch of the route that is done, away from the index ``before``."""
    with catalog.read() as connection:
        route = routes.get(connection, collection)
        was = None if before is None else indexes.get(connection, before)
        live = None if route.live_index is None else indexes.get(connection, route.live_index)
    return Occasion(
        event,
        collection,
        revision=revision,
        from_index=before,
        from_model=None if was is None else was.model.reference,
        to_index=route.live_index,
        to_model=None if live is None else live.model.reference,
        generation=route.generation,
        reason=reason,
    )


def of_error(
    event: EventName, collection: str | None, error: Exception, run: RunRecord | None = None
) -> Occasion:
    """A failure. Of an error that nobody expected only its class is told: it may quote anything."""
    return Occasion(
        event,
        collection,
        revision=None if run is None else run.revision,
        run=None if run is None else run.id,
        to_index=None if run is None else run.index_name,
        error={"kind": type(error).__name__, **_facts(error)},
    )


def _facts(error: Exception) -> dict[str, Any]:
    if not isinstance(error, EmbedMigrateError):
        return {"exit_code": 1, "message": "unexpected failure"}
    return {
        "exit_code": error.exit_code,
        "message": error.message,
        "found": _said(error.found),
        "expected": _said(error.expected),
        "next_step": error.next_step,
    }


def _said(value: object) -> str | None:
    return None if value is None else str(value)
