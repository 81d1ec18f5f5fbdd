"""``capture``: have a source record its own changes, by triggers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from embedmigrate.config import Settings
from embedmigrate.errors import ConfigError
from embedmigrate.sources.base import Recording
from embedmigrate.sources.sql import SqlSource


def capture_install(settings: Settings, collection: str) -> dict[str, Any]:
    """Start recording the changes of a collection's table; nothing is done where it is recorded.

    The triggers belong to the collection and outlive every run. Indexes that are there already are
    compared with the source once more, by the next `sync` or `upgrade`.
    """
    with _recording(settings, collection) as capture:
        began = capture.install()
        return {
            "schema": 1,
            "collection": collection,
            "changed": began,
            "recording": True,
            "unseen": capture.unseen(),
        }


def capture_remove(settings: Settings, collection: str) -> dict[str, Any]:
    """End the recording and drop what it made; what was not taken in is found by comparing."""
    with _recording(settings, collection) as capture:
        return {
            "schema": 1,
            "collection": collection,
            "changed": capture.remove(),
            "recording": False,
            "unseen": [],
        }


def capture_sql(settings: Settings, collection: str, *, remove: bool = False) -> list[str]:
    """The statements of either, for whoever may change the table; nothing is changed."""
    with _recording(settings, collection) as capture:
        return capture.removal() if remove else capture.ddl()


@contextmanager
def _recording(settings: Settings, collection: str) -> Iterator[Recording]:
    configured = settings.collection(collection)
    with closing(settings.open_source(collection, configured.recipe)) as source:
        if not isinstance(source, SqlSource):
            recorded = source.capture is not None
            raise ConfigError(
                f"the changes of {collection!r} are not captured by triggers",
                found=f"kind = {configured.source.kind!r} in its source",
                expected='kind = "sql"',
                next_step="nothing: this source records its changes itself"
                if recorded
                else "embedmigrate sync compares source and index",
            )
        yield source.recording()
