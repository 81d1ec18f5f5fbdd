"""SIGTERM and SIGINT: out within 25 s with status 7, and the same command resumes."""

from __future__ import annotations

import signal
import sqlite3
import time
from contextlib import closing

import pytest

from tests.faults.conftest import BATCH, QUERY
from tests.faults.project import EndState, Faulty

SLOW = {"at": "embedmigrate.engine.embedding:_ask", "do": "sleep"}


def a_call_takes(seconds: float, *, from_call: int = 0) -> dict[str, object]:
    return {**SLOW, "with_": seconds, "call": from_call}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_between_two_calls_and_the_same_command_resumes(
    project: Faulty, number: signal.Signals
) -> None:
    runner = project.begin("upgrade", faults=[a_call_takes(0.2)])
    assert runner.wait_for("embedding")
    time.sleep(0.7)
    sent = time.monotonic()
    runner.send(number)

    assert runner.finish() == 7
    assert time.monotonic() - sent < 5
    assert number.name in runner.errors and "run the same command again" in runner.errors
    assert project.live() == "fake-a"
    shadow = project.status()["shadow"]
    assert 0 < shadow["done"] < 200

    assert project.end("upgrade").status == 0
    assert project.live() == "fake-b"
    assert max(project.paid_twice().values(), default=0) <= 2 * BATCH


@pytest.mark.parametrize(
    "at",
    [
        "embedmigrate.catalog.runs:plan_batches",
        "embedmigrate.engine.follow:note_differences",
        "embedmigrate.engine.prepare:verify",
        "embedmigrate.command.forward:_walk",
        "embedmigrate.command.project:Project.settle",
    ],
)
def test_a_signal_in_any_phase_stops_and_the_same_command_resumes(
    project: Faulty, undisturbed: EndState, at: str
) -> None:
    stopped = project.end("upgrade", faults=[{"at": at, "do": "send", "with_": "SIGTERM"}])
    assert stopped.status == 7, stopped.errors

    project.upgrade()

    assert project.end_state([QUERY]).differences(undisturbed) == []
    assert not project.paid_twice()


def test_with_stop_ok_a_signal_is_no_failure(project: Faulty) -> None:
    runner = project.begin("upgrade", "--stop-ok", faults=[a_call_takes(0.2)])
    assert runner.wait_for("embedding")
    runner.send(signal.SIGTERM)

    assert runner.finish() == 0
    assert project.live() == "fake-a"


@pytest.mark.parametrize(("options", "status"), [((), 7), (("--stop-ok",), 0)])
def test_a_model_that_does_not_answer_keeps_nobody(
    project: Faulty, options: tuple[str, ...], status: int
) -> None:
    runner = project.begin(
        "upgrade",
        *options,
        faults=[a_call_takes(600, from_call=3)],
        constants={"embedmigrate.stopping:STOP_SECONDS": 0.5},
    )
    assert runner.wait_for("embedding")
    time.sleep(0.7)
    runner.send(signal.SIGTERM)

    assert runner.finish(10) == status
    assert project.end("upgrade").status == 0, "the lock is free at once"
    assert project.live() == "fake-b"


def test_a_model_that_hangs_ends_by_itself_and_the_lock_is_free(project: Faulty) -> None:
    well = '[models.fake-b]\nprovider = "hashing-not-a-model"'
    ill = '[models.fake-b]\nprovider = "misbehaving-not-a-model"\nkind = "hang"\nfirst_call = 3'
    project.edit_config(well, ill)
    project.edit_config("[embedmigrate]", "[embedmigrate]\ncall_seconds = 1")

    hung = project.begin("upgrade")

    assert hung.finish(30) == 75 and "does not answer" in hung.errors
    assert project.status()["runner"] is None and project.live() == "fake-a"
    project.edit_config(ill, well)
    assert project.end("upgrade").status == 0
    assert project.live() == "fake-b"


def test_a_model_that_hangs_does_not_outlast_a_signal(project: Faulty) -> None:
    well = '[models.fake-b]\nprovider = "hashing-not-a-model"'
    ill = '[models.fake-b]\nprovider = "misbehaving-not-a-model"\nkind = "hang"'
    project.edit_config(well, ill)
    runner = project.begin("upgrade", constants={"embedmigrate.stopping:STOP_SECONDS": 0.5})
    assert runner.wait_for("embedding")
    time.sleep(0.5)
    runner.send(signal.SIGTERM)

    assert runner.finish(10) == 7
    project.edit_config(ill, well)
    assert project.end("upgrade").status == 0, "the lock is free at once"


def test_waiting_for_a_locked_catalog_does_not_outlast_a_signal(project: Faulty) -> None:
    runner = project.begin(
        "upgrade",
        faults=[{"at": "embedmigrate.command.forward:_walk", "do": "send", "with_": "SIGSTOP"}],
        constants={"embedmigrate.stopping:STOP_SECONDS": 0.5},
    )
    runner.wait_until_stopped()
    with closing(sqlite3.connect(project.root / "catalog.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        runner.send(signal.SIGCONT)
        time.sleep(0.5)
        runner.send(signal.SIGTERM)
        assert runner.finish(10) == 7
        other.execute("ROLLBACK")
    assert project.end("upgrade").status == 0
    assert project.live() == "fake-b"
