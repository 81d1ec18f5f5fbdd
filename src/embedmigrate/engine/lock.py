"""Holding a collection's lock while work goes on, with a heartbeat of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from embedmigrate.catalog import locks
from embedmigrate.catalog.locks import Lease, Role
from embedmigrate.catalog.sessions import Session, session_for
from embedmigrate.engine.belonging import refuse_unknown
from embedmigrate.engine.job import Job
from embedmigrate.errors import FencedOut, LockHeld, Temporary
from embedmigrate.logs import say

_log = logging.getLogger(__name__)

_ASK_AGAIN = 0.1
"""Seconds between two attempts to take a lock that is waited for."""


@contextmanager
def held(
    job: Job, role: Role = Role.RUNNER, *, patience: float = 0.0, anyway: bool = False
) -> Iterator[Lease]:
    """The lease of ``job``'s collection; ``LockHeld`` when another process has it.

    ``UnknownCatalog`` when the catalog is not the one of the indexes that lie in the store (I14);
    ``anyway`` does not ask.

    It is waited for up to ``patience`` seconds. A thread renews it on a connection of its own.
    When the lease is lost the job is told to stop; should it not notice in time, the epoch
    stops every write that it still tries.
    """
    with closing(session_for(job.catalog, job.collection, role)) as session:
        lease = _acquire(job, role, patience, session)
        over = threading.Event()
        heartbeat = threading.Thread(
            target=_beat,
            args=(job, lease, session, over),
            name=f"heartbeat {job.collection}",
            daemon=True,
        )
        heartbeat.start()
        try:
            if not anyway:
                refuse_unknown(job)
            yield lease
        finally:
            over.set()
            heartbeat.join()
            session.close()
            released = locks.release(job.catalog, lease)
    if not released:  # what was done last may have been done by the other runner
        raise locks.lost(lease)


def _acquire(job: Job, role: Role, patience: float, session: Session) -> Lease:
    deadline = time.monotonic() + patience
    while True:
        try:
            return locks.acquire(job.catalog, job.collection, job.lease_seconds, role, session)
        except LockHeld:
            if time.monotonic() >= deadline:
                raise
        job.stop.check()
        time.sleep(_ASK_AGAIN)


def _beat(job: Job, lease: Lease, session: Session, over: threading.Event) -> None:
    while not over.wait(job.lease_seconds / 4):
        try:
            with job.catalog.write() as connection:
                locks.renew(connection, lease)
            session.take()  # again, after a restart of the server
        except FencedOut:
            lost = f"{lease.collection}: another runner took the lock over"
            say(_log, logging.WARNING, "lock_lost", lost, {"collection": lease.collection})
            job.stop.set(f"the lock on {lease.collection!r} was taken over")
            return
        except Temporary:
            continue  # busy or full for now: the lease outlives several missed beats
