"""One runner a collection: a lock with a lease and an epoch that only grows (I15).

Every write of a runner renews its lease in the same transaction and fails when the epoch has moved
on. A runner that was stopped beyond its lease and wakes up can therefore change nothing.

A collection has two locks, so that what is served is kept up to date while a migration runs for
hours: the **runner**'s, for building an index and for moving the route, and the **follower**'s, for
writing to what is live. They count their epochs together: of two that ever write to one index, the
later one has the greater epoch.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from embedmigrate.catalog import schema
from embedmigrate.catalog.database import Catalog, clock, now
from embedmigrate.catalog.sessions import NoSession, Session
from embedmigrate.errors import FencedOut, LockHeld

_lock = schema.lease.c


class Role(StrEnum):
    """What a lock is held for."""

    RUNNER = "runner"
    FOLLOWER = "follower"


_SILENT_SHARE = 0.5
"""Share of its lease, two heartbeats, after which an owner without a session counts as dead: one
whose connection was cut needs a moment to come back."""
_HOLDS = {
    Role.RUNNER: "another runner works on",
    Role.FOLLOWER: "another process writes to what is live of",
}


@dataclass(frozen=True)
class Lease:
    """Proof of holding one of a collection's locks."""

    collection: str
    epoch: int
    owner: str
    role: Role = Role.RUNNER


def acquire(
    catalog: Catalog,
    collection: str,
    lease_seconds: float,
    role: Role = Role.RUNNER,
    session: Session | None = None,
) -> Lease:
    """Take the lock, or raise ``LockHeld`` naming who has it.

    A lock is free when its owner gave it back, when its lease ran out, or when its owner no longer
    lives: a process of this machine that is gone, or one whose ``session`` is.
    """
    session = session or NoSession()
    alone = session.take()
    lease = _acquire(catalog, collection, lease_seconds, role, alone=alone is True)
    if alone is False:  # of a process that is stopped, or of one that just gave the lock back
        session.oust()
    return lease


def _acquire(
    catalog: Catalog, collection: str, lease_seconds: float, role: Role, *, alone: bool
) -> Lease:
    owner = _describe_this_process()
    with catalog.write() as connection:
        rows = connection.execute(sa.select(schema.lease).where(_lock.collection == collection))
        locks = {row.role: row for row in rows}
        moment, epoch = clock(connection), max((row.epoch for row in locks.values()), default=0) + 1
        values = {
            "epoch": epoch,
            "owner": owner,
            "heartbeat_at": moment,
            "lease_seconds": lease_seconds,
        }
        row = locks.get(role)
        if row is None:
            key = {"collection": collection, "role": role}
            connection.execute(schema.lease.insert().values(**key, **values))
            return Lease(collection, epoch, owner, role)
        age = moment - row.heartbeat_at
        gone = alone and age >= row.lease_seconds * _SILENT_SHARE
        if row.owner is not None and age < row.lease_seconds and _may_live(row.owner) and not gone:
            raise LockHeld(
                f"{_HOLDS[role]} {collection!r}",
                found=f"{_for_people(row.owner)}, last heard of {age:.0f} s ago",
                expected="no other runner",
                next_step="wait for it, or look at `embedmigrate status`",
            )
        taken = connection.execute(
            schema.lease.update()
            .where(_lock.collection == collection, _lock.role == role, _lock.epoch == row.epoch)
            .values(**values)
        )
        if taken.rowcount != 1:
            raise LockHeld(
                f"another runner took {collection!r} at this moment",
                next_step="run the same command again",
            )
        return Lease(collection, epoch, owner, role)


def renew(connection: Connection, lease: Lease) -> None:
    """Renew the lease in the caller's transaction; ``FencedOut`` when it was lost."""
    held = connection.execute(
        schema.lease.update()
        .where(
            _lock.collection == lease.collection,
            _lock.role == lease.role,
            _lock.epoch == lease.epoch,
            _lock.owner == lease.owner,
        )
        .values(heartbeat_at=now(connection))
    )
    if held.rowcount != 1:
        raise lost(lease)


def lost(lease: Lease) -> FencedOut:
    """The error of a runner that another one has taken over from."""
    return FencedOut(
        f"the lock on {lease.collection!r} is no longer held by this process",
        found="a later epoch",
        expected=f"epoch {lease.epoch}",
        next_step="look at `embedmigrate status`; the other runner carries on",
    )


def release(catalog: Catalog, lease: Lease) -> bool:
    """Give the lock back; False, and nothing is changed, when it was lost."""
    with catalog.write() as connection:
        released = connection.execute(
            schema.lease.update()
            .where(
                _lock.collection == lease.collection,
                _lock.role == lease.role,
                _lock.epoch == lease.epoch,
            )
            .values(owner=None)
        )
        return released.rowcount == 1


def holder(connection: Connection, collection: str, role: Role = Role.RUNNER) -> str | None:
    """Who holds a lock now, for people; None when it is free."""
    chosen = sa.select(schema.lease).where(_lock.collection == collection, _lock.role == role)
    row = connection.execute(chosen).first()
    if row is None or row.owner is None or not _may_live(row.owner):
        return None
    if clock(connection) - row.heartbeat_at >= row.lease_seconds:
        return None
    return _for_people(row.owner)


def _describe_this_process() -> str:
    pid = os.getpid()
    return json.dumps(
        {
            "host": socket.gethostname(),
            "boot": _boot_id(),
            "namespace": _pid_namespace(),
            "pid": pid,
            "started": _process_start(pid),
            "nonce": os.urandom(8).hex(),
        }
    )


def _for_people(owner: str) -> str:
    facts = json.loads(owner)
    return f"process {facts['pid']} on {facts['host']}"


def _may_live(owner: str) -> bool:
    """False only when the owner is known to be dead: this machine, and no such process."""
    facts = json.loads(owner)
    here = (socket.gethostname(), _boot_id(), _pid_namespace())
    if (facts["host"], facts["boot"], facts["namespace"]) != here:
        return True
    try:
        os.kill(facts["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    started = _process_start(facts["pid"])
    return started is None or started == facts["started"]


def _boot_id() -> str | None:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return None


def _pid_namespace() -> str | None:
    """Containers may share a host's name, and count their processes apart."""
    with suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return None


def _process_start(pid: int) -> str | None:
    """Kernel start time of a process, so that a recycled pid is not taken for its predecessor.

    ``"dead"`` for one that only waits to be reaped; None where /proc does not tell.
    """
    with suppress(OSError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8")
        state_and_rest = stat.rpartition(")")[2].split()
        return "dead" if state_and_rest[0] in "ZX" else state_and_rest[19]
    return None
