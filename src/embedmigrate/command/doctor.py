"""Doctor: would the other commands find what they need here?

The one command besides ``pin`` that accepts models which are not pinned: it says which, and why.
"""

from __future__ import annotations

import platform
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from embedmigrate import __version__, resolve
from embedmigrate.catalog.database import catalog_exists
from embedmigrate.command.project import FAR_STORES
from embedmigrate.config import Settings, load_settings
from embedmigrate.errors import ConfigError, EmbedMigrateError, UnpinnedReference
from embedmigrate.migration.environment import Environment
from embedmigrate.models.pin_file import read_pins
from embedmigrate.models.witness import processor_family


@dataclass(frozen=True)
class Observation:
    """One thing that was looked at. ``trouble`` is None where all is well."""

    what: str
    found: str
    trouble: str | None = None
    exit_code: int = 0


def doctor(settings: Settings) -> dict[str, Any]:
    """Look at configuration, models, scripts, catalog and stores; changes nothing.

    ``settings`` may be loaded with ``allow_unpinned``. Loads no model: ``drift`` does that. The
    result's ``well`` is False when something is in the way; ``exit_code`` is that of the first.
    """
    observations = [
        Observation(
            "environment",
            f"embedmigrate {__version__}, Python {platform.python_version()}, SQLite "
            f"{sqlite3.sqlite_version}, {processor_family()}",
        ),
        _look("configuration", lambda: _configuration(settings)),
        *(_look(f"model {name}", _model(settings, name)) for name in sorted(settings.models)),
        _look("scripts", lambda: _scripts(settings)),
        _look("catalog", lambda: _catalog(settings)),
        *(
            _look(f"collection {name}", _collection(settings, name))
            for name in sorted(settings.collections)
        ),
    ]
    troubles = [it for it in observations if it.trouble is not None]
    return {
        "schema": 1,
        "well": not troubles,
        "exit_code": troubles[0].exit_code if troubles else 0,
        "observations": [asdict(it) for it in observations],
    }


def _look(what: str, ask: Callable[[], str]) -> Observation:
    try:
        return Observation(what, ask())
    except EmbedMigrateError as error:
        return Observation(what, error.message, str(error), error.exit_code)


def _configuration(settings: Settings) -> str:
    load_settings(settings.path, require_pins=False)  # each model is looked at on its own
    return f"{settings.path}: {len(settings.collections)} collections"


def _model(settings: Settings, name: str) -> Callable[[], str]:
    def look() -> str:
        if not read_pins(settings.pins, name) and not any(_users(settings, name)):
            return "not pinned, and not used by a collection"
        pin = resolve.pin_of(settings, name)
        platforms = ", ".join(it.place for it in pin.witness.records)
        if not platforms:
            raise UnpinnedReference(
                f"{pin.model.reference} was pinned without a witness",
                found="no record of how it behaves",
                expected="its answers to the canaries",
                next_step=f"embedmigrate pin {name}",
            )
        return f"{pin.model.pinned_or_witnessed} as {pin.model.reference}; witness: {platforms}"

    return look


def _users(settings: Settings, name: str) -> Iterator[str]:
    for collection in settings.collections.values():
        if name in (collection.model, *collection.also_accept):
            yield collection.name


def _scripts(settings: Settings) -> str:
    heads = Environment(settings).scripts().get_heads()
    return f"{settings.script_location}: {len(heads)} heads"


def _catalog(settings: Settings) -> str:
    found = "can be read" if catalog_exists(settings.catalog_url) else "not made yet"
    if settings.far_stores:
        raise ConfigError(
            FAR_STORES.format(", ".join(settings.far_stores)),
            next_step="edit `catalog` in the configuration",
        )
    return found


def _collection(settings: Settings, name: str) -> Callable[[], str]:
    def look() -> str:
        configured = settings.collection(name)
        store = settings.open_store(name)
        store.check_writable()
        settings.open_source(name, configured.recipe).close()
        indexes = sum(manifest.collection == name for manifest in store.manifests())
        return f"{configured.source.kind} to {configured.store.kind}, {indexes} indexes"

    return look
