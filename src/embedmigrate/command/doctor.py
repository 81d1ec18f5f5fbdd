"""Doctor: would the other commands find what they need here?

The one command besides ``pin`` that accepts models which are not pinned: it says which, and why.
"""

from __future__ import annotations

import platform
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Protocol, runtime_checkable

from embedmigrate import __version__, resolve
from embedmigrate.catalog import Catalog, routes
from embedmigrate.catalog.database import catalog_exists
from embedmigrate.catalog.examining import examine as examine_catalog
from embedmigrate.command.project import FAR_STORES, refuse_to_begin_anew
from embedmigrate.config import Settings, load_settings
from embedmigrate.engine.belonging import looked_at
from embedmigrate.errors import ConfigError, EmbedMigrateError, Temporary, UnpinnedReference
from embedmigrate.examining import Examined, Observation, look
from embedmigrate.migration.environment import Environment
from embedmigrate.models.pin_file import read_pins
from embedmigrate.models.witness import processor_family
from embedmigrate.stores.base import IndexManifest


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
        look("configuration", lambda: _configuration(settings)),
        *(look(f"model {name}", _model(settings, name)) for name in sorted(settings.models)),
        look("scripts", lambda: _scripts(settings)),
        *_catalog(settings),
        *(it for name in sorted(settings.collections) for it in _collection(settings, name)),
    ]
    observations = list({it.what: it for it in observations}.values())  # of a server once
    troubles = [it for it in observations if it.trouble is not None]
    return {
        "schema": 1,
        "well": not troubles,
        "exit_code": troubles[0].exit_code if troubles else 0,
        "observations": [asdict(it) for it in observations],
    }


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


def _catalog(settings: Settings) -> Iterator[Observation]:
    def ask() -> str:
        refuse_to_begin_anew(settings)
        found = "can be read" if catalog_exists(settings.catalog_url) else "not made yet"
        if settings.far_stores:
            raise ConfigError(
                FAR_STORES.format(", ".join(settings.far_stores)),
                next_step="edit `catalog` in the configuration",
            )
        return found

    first = look("catalog", ask)
    yield first
    yield from _examined(
        "database of the catalog", first, lambda: examine_catalog(settings.catalog_url)
    )


def _collection(settings: Settings, name: str) -> Iterator[Observation]:
    """Whether it can be read and written and the catalog is its own; what its parts say."""
    parts: list[object] = []

    def ask() -> str:
        configured = settings.collection(name)
        store = settings.open_store(name)
        parts.append(store)
        parts.append(settings.open_source(name, configured.recipe))
        store.check_writable()
        ours = [it for it in store.manifests() if it.collection == name]
        if catalog_exists(settings.catalog_url):
            _refuse_unknown(settings, ours)
        return f"{configured.source.kind} to {configured.store.kind}, {len(ours)} indexes"

    try:
        first = look(f"collection {name}", ask)
        yield first
        for what, part in zip(("store", "source"), parts, strict=False):
            if isinstance(part, Examined):
                yield from _examined(f"{what} of {name}", first, part.examine)
    finally:
        for part in parts:
            if isinstance(part, _Closeable):
                part.close()


def _examined(
    what: str, first: Observation, examine: Callable[[], Iterable[Observation]]
) -> Iterator[Observation]:
    """What a part says of its place, or why it cannot; that nobody answers was told ``first``."""
    try:
        yield from examine()
    except EmbedMigrateError as error:
        if not isinstance(error, Temporary) or first.trouble is None:
            yield Observation(what, error.message, str(error), error.exit_code)


def _refuse_unknown(settings: Settings, manifests: Sequence[IndexManifest]) -> None:
    """``UnknownCatalog`` when the catalog is not that of these indexes."""
    with Catalog(settings.catalog_url, create=False) as catalog:
        with catalog.read() as connection:
            generations = {
                name: routes.get(connection, name).generation for name in settings.collections
            }
        for _, refusal in looked_at(catalog, manifests, generations):
            if refusal is not None:
                raise refusal


@runtime_checkable
class _Closeable(Protocol):
    def close(self) -> None: ...
