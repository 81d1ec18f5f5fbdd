"""Control while running: what a person asks from another process, and how a runner obeys.

A request is a row of the catalog, so that neither a signal nor a shared machine is needed. The
runner looks at it between model calls, at most once a second, and once more inside the transaction
of the cut-over: what was asked before that is obeyed, what was asked behind it came too late.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress

from embedmigrate.catalog import (
    Catalog,
    dead_letters,
    events,
    indexes,
    locks,
    requests,
    routes,
    runs,
)
from embedmigrate.catalog.locks import Lease
from embedmigrate.catalog.records import UNDER_WAY, IndexRecord, IndexState, RunState
from embedmigrate.catalog.requests import Request, Wanted
from embedmigrate.engine.job import Job, StopSignal
from embedmigrate.engine.throttle import Throttle
from embedmigrate.errors import Temporary
from embedmigrate.logs import say

_log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often a runner looks at what is asked of it."""


class Control(StopSignal):
    """The stop signal of one collection while a command moves it forward.

    ``check`` raises ``AskedToStop`` when a person asked, ``pace`` waits for the throttle besides.
    """

    def __init__(
        self, within: StopSignal, catalog: Catalog, lease: Lease, throttle: Throttle | None = None
    ) -> None:
        super().__init__(within)
        self._catalog, self._lease, self._throttle = catalog, lease, throttle
        self._looked_at = 0.0
        self._told: str | None = None
        self._logged: str | None = None

    def check(self) -> None:
        super().check()
        if time.monotonic() - self._looked_at >= LOOK_SECONDS:
            self.look()

    def look(self) -> None:
        """``AskedToStop`` when something is asked now."""
        self._looked_at = time.monotonic()
        with suppress(Temporary), self._catalog.read() as connection:  # a busy one: a second later
            requests.obey(connection, self._lease.collection)

    def pace(self, texts: int) -> None:
        self.check()
        if self._throttle is not None:
            try:
                self._throttle.wait(texts, self.check, self._tell)
            finally:
                self._tell(None)

    def _tell(self, reason: str | None) -> None:
        if reason not in (None, self._logged):
            self._logged = reason
            collection = self._lease.collection
            fields = {"collection": collection, "reason": reason}
            say(_log, logging.INFO, "waiting", f"{collection}: waiting", fields)
        if reason != self._told:
            with suppress(Temporary), self._catalog.write() as connection:
                runs.note_waiting(connection, self._lease, reason)
                self._told = reason


def comply(catalog: Catalog, lease: Lease, revision: str | None = None) -> Request | None:
    """Do to the run what is asked of its collection; returns what that was, None for nothing.

    ``revision`` is what a runner is preparing, whether it has a run already or not. The live index
    is not touched. Idempotent: a pause stands until it is taken back, a cancel goes with its run.
    """
    collection = lease.collection
    with catalog.write() as connection:
        locks.renew(connection, lease)
        request = requests.get(connection, collection)
        if request is None:
            return None
        run = runs.under_way(connection, collection)
        if request.wanted is Wanted.PAUSE:
            if run is not None and run.state in UNDER_WAY | {RunState.READY}:
                run = runs.take_over(connection, lease, run)
                runs.move(connection, lease, run, RunState.PAUSED, reason=request.by)
            return request
        requests.take_back(connection, collection)
        asked_of = None if request.run_id is None else runs.get(connection, request.run_id)
        if asked_of is not None and not runs.is_open(connection, asked_of):
            return None  # it came to its end before anybody saw the request
        if run is not None and revision in (None, run.revision):
            run = runs.take_over(connection, lease, run)
            runs.move(connection, lease, run, RunState.CANCELLED, reason=request.reason)
            if routes.get(connection, collection).candidate_index == run.index_name:
                routes.offer_candidate(connection, lease, None)
            index = indexes.get(connection, run.index_name)
            if index.state is IndexState.READY and index.retained_at is not None:
                indexes.move(connection, index.name, (index.state,), IndexState.RETAINED)
            revision = run.revision
        if revision is None:
            return None
        events.record(
            connection,
            RunState.CANCELLED,
            collection,
            {"revision": revision, "reason": request.reason},
            run_id=run.id if run is not None and run.revision == revision else None,
            by=request.actor,
        )
        return request


def abandoned(catalog: Catalog, collection: str) -> list[IndexRecord]:
    """Shadows that nobody is going to finish unasked, oldest first (I20).

    Never was live or retained, and its last run was cancelled or failed, or a later run of the
    collection works on another index.
    """
    with catalog.read() as connection:
        last = runs.latest(connection, collection)
        found = []
        for index in indexes.of_collection(
            connection, collection, IndexState.BUILDING, IndexState.READY
        ):
            run = runs.latest(connection, collection, index=index.name)
            left = run is None or run.state in (RunState.CANCELLED, RunState.FAILED)
            passed = run is not None and last is not None and last.id != run.id
            if index.retained_at is None and index.adopted is None and (left or passed):
                found.append(index)
    return found


def drop_abandoned(job: Job, lease: Lease) -> list[str]:
    """Drop what is ``abandoned``; returns the names. Only ever called because a person asked."""
    dropped = []
    for index in abandoned(job.catalog, job.collection):
        with job.catalog.write() as connection:
            locks.renew(connection, lease)
            if routes.get(connection, job.collection).candidate_index == index.name:
                routes.offer_candidate(connection, lease, None)
            indexes.move(connection, index.name, (index.state,), IndexState.DROPPED)
            in_use = index.container in indexes.containers(connection)
            if not in_use:
                dead_letters.forget_container(connection, index.container)
            data = {"index": index.name, "state": index.state}
            events.record(connection, "shadow_dropped", job.collection, data)
        if not in_use:
            job.store.drop(index.container)
        dropped.append(index.name)
    return dropped
