"""Two runners want the same collection: one works, and only one ever writes (I15)."""

from __future__ import annotations

import signal
import sqlite3
import time
from contextlib import closing

import pytest

from embedmigrate import command
from embedmigrate.errors import LockHeld
from tests.faults.conftest import QUERY
from tests.faults.project import EndState, Fault, Faulty, kill_at

RACES = 3

AT_THE_LOCK = {"at": "embedmigrate.catalog.locks:acquire", "do": "send", "with_": "SIGSTOP"}
A_SLOW_START = {
    "at": "embedmigrate.embedders.hashing:HashingEmbedder._embed",
    "do": "sleep",
    "with_": 1.0,
}


@pytest.mark.parametrize("race", range(RACES))
def test_of_two_upgrades_one_works_and_the_other_pays_for_nothing(
    project: Faulty, undisturbed: EndState, race: int
) -> None:
    runners = [project.begin("upgrade", faults=[AT_THE_LOCK, A_SLOW_START]) for _ in range(2)]
    for runner in runners:
        runner.wait_until_stopped()
    for runner in runners[:: 1 if race % 2 else -1]:
        runner.send(signal.SIGCONT)

    winner, loser = sorted(runners, key=lambda runner: runner.finish())

    assert (winner.status, loser.status) == (0, 75)
    assert f"process {winner.process.pid} on" in loser.errors
    assert project.texts_asked(loser.process.pid) == 0
    assert project.end_state([QUERY]).differences(undisturbed) == []
    assert not project.paid_twice()


def test_nothing_else_moves_a_collection_while_a_runner_works(project: Faulty) -> None:
    runner = project.begin("upgrade", faults=[A_SLOW_START])
    assert runner.wait_for("loading")

    with pytest.raises(LockHeld):
        command.rollback(project.settings, "articles")
    with pytest.raises(LockHeld):
        command.contract(project.settings)

    assert runner.finish() == 0
    assert project.live() == "fake-b"


NO_HEARTBEAT = {"at": "embedmigrate.engine.lock:_beat", "do": "return", "when": "instead"}
"""A process that is stopped just while its heart beats keeps SQLite's lock, and everybody waits."""


def stop_at(at: str, when: str = "before", call: int = 1) -> Fault:
    return {**kill_at(at, when, call), "with_": "SIGSTOP"}


@pytest.mark.parametrize(
    "point",
    [
        stop_at("embedmigrate.engine.prepare:_open_run"),
        stop_at("embedmigrate.stores.faiss.store:FaissStore.writer"),
        stop_at("embedmigrate.catalog.runs:plan_batches"),
        stop_at("embedmigrate.stores.faiss.writer:FaissWriter.write", call=2),
        stop_at("embedmigrate.engine.follow:note_differences"),
        stop_at("embedmigrate.stores.faiss.writer:FaissWriter.build"),
        stop_at("embedmigrate.command.forward:_walk"),
        stop_at("embedmigrate.stores.faiss.writer:FaissWriter.set_generation"),
    ],
    ids=lambda point: f"{point['when']} {point['at'].rpartition(':')[2]}",
)
def test_a_runner_that_slept_beyond_its_lease_writes_nothing_more(
    project: Faulty, undisturbed: EndState, point: Fault
) -> None:
    project.edit_config("[embedmigrate]", "[embedmigrate]\nlease_seconds = 1")
    sleeper = project.begin("upgrade", faults=[point, NO_HEARTBEAT])
    sleeper.wait_until_stopped()
    time.sleep(1.1)

    project.upgrade()

    written = everything_written(project)
    sleeper.send(signal.SIGCONT)
    assert sleeper.finish() == 3, sleeper.errors
    assert everything_written(project) == written
    assert project.end_state([QUERY]).differences(undisturbed) == []


def everything_written(project: Faulty) -> dict[str, list[str]]:
    """The catalog, and the rows of every index, as SQL.

    Which writer may go on in a vector file is left out: one that lost an index still closes its
    own file.
    """
    written = {}
    for file in [project.root / "catalog.db", *project.root.glob("indexes/*/rows.sqlite")]:
        with closing(sqlite3.connect(file)) as database:
            lines = database.iterdump()
            written[str(file)] = [line for line in lines if '"segments"' not in line]
    return written


def test_after_a_kill_the_next_runner_does_not_wait_for_the_lease(project: Faulty) -> None:
    project.kill("upgrade", at=kill_at("embedmigrate.engine.backfill:embed_documents", call=2))
    with closing(sqlite3.connect(project.root / "catalog.db")) as catalog:
        row = catalog.execute("SELECT owner, heartbeat_at, lease_seconds FROM embedmigrate_lease")
        owner, heartbeat_at, lease_seconds = row.fetchone()
    assert owner is not None and time.time() - heartbeat_at < lease_seconds

    project.upgrade()

    assert project.live() == "fake-b"


def test_two_first_upgrades_make_one_catalog(project: Faulty) -> None:
    """The race for the catalog itself: neither of the two finds one."""
    for path in (*project.root.glob("catalog.db*"), *project.root.glob("indexes/*/*")):
        path.unlink()
    for folder in project.root.glob("indexes/*"):
        folder.rmdir()
    gate = {**AT_THE_LOCK, "at": "embedmigrate.catalog.database:Catalog._create"}
    runners = [project.begin("upgrade", faults=[gate, A_SLOW_START]) for _ in range(2)]
    for runner in runners:
        runner.wait_until_stopped()
    for runner in runners:
        runner.send(signal.SIGCONT)

    assert sorted(runner.finish() for runner in runners) == [0, 75]
    assert project.live() == "fake-b"
    assert command.verify(project.settings)["holds"]
