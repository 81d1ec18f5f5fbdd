"""The command that drops indexes: contract."""

from __future__ import annotations

import time
from typing import Any

from embedmigrate.catalog import indexes
from embedmigrate.command.project import Project
from embedmigrate.config import Settings
from embedmigrate.engine import settle
from embedmigrate.engine.belonging import check_store
from embedmigrate.engine.control import drop_abandoned
from embedmigrate.engine.job import Reporter
from embedmigrate.engine.prepare import route_generation
from embedmigrate.errors import Refused


def contract(
    settings: Settings,
    collection: str | None = None,
    *,
    abandoned: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Drop the retained indexes whose grace is over (I20); returns their names.

    ``abandoned`` drops the shadows, too, that nobody is going to finish: of runs that were
    cancelled or failed, and those that the collection went on without.
    """
    names = [collection] if collection is not None else sorted(settings.collections)
    with Project(settings, reporter=reporter) as project:
        dropped, refused = [], []
        for name in names:
            settings.collection(name)
            with project.catalog.read() as connection:
                known = bool(indexes.of_collection(connection, name))
            if not known:
                continue
            with project.locked_for_a_person([name]) as leases:
                job, gone = project.job(name), list[str]()
                if abandoned:
                    check_store(job, route_generation(job))
                    gone += drop_abandoned(job, leases[name])
                try:
                    gone += settle.contract(
                        job,
                        leases[name],
                        retain_seconds=settings.general.retain_seconds,
                        now=time.time(),
                    )
                except Refused as error:
                    refused.append(error)
                    if not gone:
                        continue
                dropped.append({"collection": name, "dropped": gone})
        if refused and not any(entry["dropped"] for entry in dropped):
            raise refused[0]
        return {"schema": 1, "collections": dropped}
