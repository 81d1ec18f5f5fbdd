"""Commands for a person while somebody else may be at work: pause, resume, cancel."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from embedmigrate.catalog import events, indexes, locks, requests, routes, runs
from embedmigrate.catalog.records import STICKY, RunState
from embedmigrate.catalog.requests import Wanted
from embedmigrate.command.project import Project
from embedmigrate.command.reading import described_request
from embedmigrate.config import Settings
from embedmigrate.engine.belonging import check_store
from embedmigrate.engine.control import comply, drop_abandoned
from embedmigrate.engine.prepare import route_generation
from embedmigrate.errors import LockHeld

PATIENCE_SECONDS = 3.0
"""How long to wait for a runner to do what it is asked, before saying that it is asked."""


def pause(settings: Settings, collection: str, *, reason: str | None = None) -> dict[str, Any]:
    """Leave a collection where it is until ``resume``: a runner that is at work checkpoints and
    ends, and no ``upgrade`` moves it on. Idempotent: who paused it first, and why, stays.
    """
    settings.collection(collection)
    with Project(settings, create_catalog=True) as project:
        with project.catalog.write() as connection:
            indexes.ensure_collection(connection, collection)
            run = runs.under_way(connection, collection)
            run_id = None if run is None else run.id
            _, changed = requests.file(connection, collection, Wanted.PAUSE, reason, run_id)
        _carry_out(project, collection)
        return _told(project, collection, changed=changed)


def resume(settings: Settings, collection: str) -> dict[str, Any]:
    """Take a pause back; the next ``upgrade`` carries on. Idempotent. A cancel stays."""
    settings.collection(collection)
    project = Project.if_any(settings)
    if project is None:
        return _nothing(collection)
    with project:
        with project.catalog.write() as connection:
            request = requests.get(connection, collection)
            paused = request is not None and request.wanted is Wanted.PAUSE
            if paused:
                requests.take_back(connection, collection)
                events.record(connection, "resumed", collection)
        return _told(project, collection, changed=paused)


def cancel(
    settings: Settings, collection: str, *, reason: str | None = None, drop: bool = False
) -> dict[str, Any]:
    """Give up what is being built for a collection. The live index is not touched.

    The run becomes ``cancelled`` and stays so until ``upgrade REVISION --again``; its shadow is
    kept for that, unless ``drop`` removes it, with all that is abandoned. Idempotent. With ``drop``
    ``LockHeld`` while a runner has not let go; what was asked stands all the same.
    """
    settings.collection(collection)
    project = Project.if_any(settings)
    if project is None:
        return _nothing(collection)
    with project:
        changed = _ask_to_cancel(project, collection, reason)
        _carry_out(project, collection)
        try:
            dropped = _drop(project, collection) if drop else []
        except LockHeld as error:
            error.result = _told(project, collection, changed=changed)
            raise
        return _told(project, collection, changed=changed, dropped=dropped)


def _ask_to_cancel(project: Project, collection: str, reason: str | None) -> bool:
    """File the request, if there is something to cancel or somebody who may be beginning it."""
    with project.catalog.write() as connection:
        run = runs.under_way(connection, collection)
        route = routes.get(connection, collection)
        switched = route.settled_generation != route.generation
        at_work = locks.holder(connection, collection) is not None and not switched
        if run is None and not at_work:
            return False
        run_id = None if run is None else run.id
        _, changed = requests.file(connection, collection, Wanted.CANCEL, reason, run_id)
        return changed


def _carry_out(project: Project, collection: str) -> None:
    """Do what is asked, or see a runner do it, or leave it to one that takes its time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not _is_done(project, collection):
        try:
            with project.locked([collection], anyway=True) as leases:
                comply(project.catalog, leases[collection])
            return
        except LockHeld:
            if time.monotonic() > deadline:
                return
            time.sleep(0.2)


def _is_done(project: Project, collection: str) -> bool:
    with project.catalog.read() as connection:
        request = requests.get(connection, collection)
        run = runs.under_way(connection, collection)
    return request is None or (
        request.wanted is Wanted.PAUSE and run is not None and run.state is RunState.PAUSED
    )


def _drop(project: Project, collection: str) -> list[str]:
    job = project.job(collection)
    with project.locked([collection]) as leases:
        check_store(job, route_generation(job))
        return drop_abandoned(job, leases[collection])


def _told(
    project: Project, collection: str, *, changed: bool, dropped: Sequence[str] = ()
) -> dict[str, Any]:
    entry = _entry(collection, changed, dropped)
    with project.catalog.read() as connection:
        if (request := requests.get(connection, collection)) is not None:
            entry["request"] = described_request(request)
        # What was cancelled before it had a run is told by its event alone.
        last = events.last(connection, collection, "run_started", "cut_over", *STICKY)
        if last is not None and last["kind"] == RunState.CANCELLED:
            said = last["data"]
            entry |= {"state": RunState.CANCELLED, "reason": said["reason"]}
            entry["revision"] = said["revision"]
        elif (run := runs.under_way(connection, collection)) is not None:
            entry |= {"state": run.state, "reason": run.reason, "revision": run.revision}
        entry["runner"] = locks.holder(connection, collection)
    return {"schema": 1, "collections": [entry]}


def _nothing(collection: str) -> dict[str, Any]:
    return {"schema": 1, "collections": [_entry(collection, False, ())]}


def _entry(collection: str, changed: bool, dropped: Sequence[str]) -> dict[str, Any]:
    return {
        "collection": collection,
        "changed": changed,
        "request": None,
        "revision": None,
        "state": None,
        "reason": None,
        "runner": None,
        "dropped": list(dropped),
    }
