"""One runner a collection: the lock, its epoch, and what a runner that lost it can still do."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest
import sqlalchemy as sa

from embedmigrate.catalog import locks, runs, schema
from embedmigrate.errors import FencedOut, LockHeld
from tests.engine.parts import Bench


def test_a_second_runner_is_told_who_holds_the_lock(bench: Bench) -> None:
    with bench.locked(), pytest.raises(LockHeld, match="another runner") as refusal:
        locks.acquire(bench.catalog, "things", 30)
    assert "process" in str(refusal.value)


def test_every_holder_gets_a_greater_epoch(bench: Bench) -> None:
    epochs = []
    for _ in range(3):
        with bench.locked() as lease:
            epochs.append(lease.epoch)
    assert epochs == [1, 2, 3]


def test_runner_and_follower_exclude_their_like_alone_and_count_their_epochs_together(
    bench: Bench,
) -> None:
    runner = locks.acquire(bench.catalog, "things", 30)
    follower = locks.acquire(bench.catalog, "things", 30, locks.Role.FOLLOWER)
    assert (runner.epoch, follower.epoch) == (1, 2)
    for role in locks.Role:
        with pytest.raises(LockHeld):
            locks.acquire(bench.catalog, "things", 30, role)
    assert locks.release(bench.catalog, runner)
    assert locks.acquire(bench.catalog, "things", 30).epoch == 3, "of two writers, the later one"
    with bench.catalog.write() as connection:
        locks.renew(connection, follower)
        with pytest.raises(FencedOut):
            locks.renew(connection, runner)


def test_the_lock_of_a_dead_process_is_taken_over_at_once(bench: Bench) -> None:
    program = (
        "import sys; from embedmigrate.catalog import Catalog, locks\n"
        "locks.acquire(Catalog(sys.argv[1]), 'things', 3600); import os; os._exit(9)"
    )
    url = bench.catalog.engine.url.render_as_string()
    subprocess.run([sys.executable, "-c", program, url], check=False)
    with bench.catalog.read() as connection:
        owner = connection.execute(sa.select(schema.lease.c.owner)).scalar_one()
    assert json.loads(owner)["pid"]

    assert locks.acquire(bench.catalog, "things", 30).epoch == 2


def test_a_live_process_is_overtaken_only_after_its_lease(bench: Bench) -> None:
    lease = locks.acquire(bench.catalog, "things", 0.2)
    with pytest.raises(LockHeld):
        locks.acquire(bench.catalog, "things", 30)
    threading.Event().wait(0.3)

    assert locks.acquire(bench.catalog, "things", 30).epoch == lease.epoch + 1


def test_a_runner_that_lost_its_lease_changes_nothing(bench: Bench) -> None:
    old = locks.acquire(bench.catalog, "things", 0.0)
    locks.acquire(bench.catalog, "things", 30)

    with pytest.raises(FencedOut), bench.catalog.write() as connection:
        runs.create(connection, old, "r1", "things-0001", None)

    with bench.catalog.read() as connection:
        assert runs.latest(connection, "things") is None
    locks.release(bench.catalog, old)
    with bench.catalog.read() as connection:
        assert locks.holder(connection, "things") is not None, "the new holder keeps its lock"


def test_the_heartbeat_keeps_a_short_lease_alive(bench: Bench) -> None:
    bench.job.lease_seconds = 0.4
    with bench.locked():
        threading.Event().wait(1.0)
        with pytest.raises(LockHeld):
            locks.acquire(bench.catalog, "things", 30)
