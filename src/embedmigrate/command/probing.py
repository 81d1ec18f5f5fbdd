"""Readiness: is what is live sound?"""

from __future__ import annotations

from typing import Any

from embedmigrate.collection import Collection
from embedmigrate.config import Settings
from embedmigrate.errors import EmbedMigrateError


def check_serving(settings: Settings, collection: str | None = None) -> dict[str, Any]:
    """Open each collection as an application does, and ask for its health.

    Pending revisions have no part in it. The result's ``sound`` is False when one is not served as
    it should be.
    """
    names = [collection] if collection is not None else sorted(settings.collections)
    entries = [_health(settings, name) for name in names]
    return {"schema": 1, "sound": all(entry["ok"] for entry in entries), "collections": entries}


def _health(settings: Settings, name: str) -> dict[str, Any]:
    settings.collection(name)
    try:
        with Collection.open(name, settings) as opened:
            return opened.health()
    except EmbedMigrateError as error:
        return {"collection": name, "ok": False, "problems": [str(error)]}
