"""What is measured: names, what they mean, and where their values come from."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from sqlalchemy.engine import Connection

from embedmigrate.catalog import Catalog, dead_letters, indexes, journal, routes, runs
from embedmigrate.catalog.database import catalog_exists
from embedmigrate.catalog.records import RunState
from embedmigrate.config import Settings
from embedmigrate.errors import EmbedMigrateError

PREFIX = "embedmigrate_"

MEANINGS = {
    "generation": "Generation of the route: how often what is live has changed",
    "lag_changes": "Journal entries that the live index does not reflect yet",
    "lag_seconds": "How long the oldest of these entries has been waiting",
    "live_info": "What is live, by name; always 1",
    "run_documents": "Documents of the last run",
    "run_documents_done": "Documents of the last run that are in its index",
    "run_documents_skipped": "Documents of the last run that have no text",
    "run_documents_failed": "Documents of the last run that could not be embedded",
    "run_texts_embedded": "Texts that the last run asked its model for",
    "dead_letters": "Documents that an index lacks because its model cannot embed them",
    "run_state": "State of the last run: 1 for the one that it is in",
    "command_running": "Whether the command is at work; still 1 where it was killed",
    "phase_seconds": "How long the phases of the last command of this name took",
    "last_exit_code": "Status that the last command of this name ended with",
    "last_end_timestamp_seconds": "When the last command of this name ended",
    "last_success_timestamp_seconds": "When a command of this name last ended with status 0",
}
OUTLIVES_ITS_COMMAND = frozenset(
    {"last_exit_code", "last_end_timestamp_seconds", "last_success_timestamp_seconds"}
)
"""Kept while the next command of the same name is at work."""


class Sample(NamedTuple):
    """One value; the name without ``PREFIX``."""

    name: str
    labels: Mapping[str, str]
    value: float

    @property
    def key(self) -> tuple[str, frozenset[tuple[str, str]]]:
        return self.name, frozenset(self.labels.items())


def of_collections(settings: Settings) -> list[Sample]:
    """Every configured collection, from the catalog; nothing where that cannot be read now."""
    try:
        if not catalog_exists(settings.catalog_url):
            return []
        with Catalog(settings.catalog_url, create=False) as catalog, catalog.read() as connection:
            return [
                sample
                for name in sorted(settings.collections)
                for sample in _of_collection(connection, name)
            ]
    except EmbedMigrateError:
        return []


def _of_collection(connection: Connection, collection: str) -> Iterator[Sample]:
    own = {"collection": collection}
    route = routes.get(connection, collection)
    yield Sample("generation", own, route.generation)
    if route.live_index is not None:
        live = indexes.get(connection, route.live_index)
        lag = journal.head(connection, collection) - live.position
        since = journal.waiting_since(connection, collection, live.position)
        yield Sample("lag_changes", own, lag)
        yield Sample("lag_seconds", own, 0.0 if since is None else max(0.0, time.time() - since))
        yield Sample("live_info", {**own, "index": live.name, "model": live.model.reference}, 1)
    run = runs.latest(connection, collection)
    for name in {route.live_index, run and run.index_name} - {None}:
        index = indexes.get(connection, str(name))
        found = dead_letters.count(connection, index.container)
        yield Sample("dead_letters", {**own, "index": index.name}, found)
    if run is not None:
        yield Sample("run_documents", own, run.total)
        yield Sample("run_documents_done", own, run.done)
        yield Sample("run_documents_skipped", own, run.skipped)
        yield Sample("run_documents_failed", own, run.failed)
        yield Sample("run_texts_embedded", own, run.embedded)
        for state in RunState:
            yield Sample("run_state", {**own, "state": state.value}, run.state is state)


def of_command(
    command: str, seconds: Mapping[tuple[str, str], float], exit_code: int | None
) -> Iterator[Sample]:
    """A command with its phases; it is still at work while ``exit_code`` is None."""
    own = {"command": command}
    yield Sample("command_running", own, exit_code is None)
    for (collection, phase), took in seconds.items():
        yield Sample("phase_seconds", {**own, "collection": collection, "phase": phase}, took)
    if exit_code is not None:
        now = time.time()
        yield Sample("last_exit_code", own, exit_code)
        yield Sample("last_end_timestamp_seconds", own, now)
        if exit_code == 0:
            yield Sample("last_success_timestamp_seconds", own, now)


def kept_of(before: list[Sample], command: str) -> Iterator[Sample]:
    """What an earlier file says that still holds: of other commands, and of when this one ended."""
    for sample in before:
        by = sample.labels.get("command")
        if by and (by != command or sample.name in OUTLIVES_ITS_COMMAND):
            yield sample
