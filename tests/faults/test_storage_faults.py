"""A disk that fills up, a catalog that is busy: stopped with status 75, and resumed."""

from __future__ import annotations

import errno
import resource
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial

import pytest

from tests.faults.conftest import BATCH, QUERY
from tests.faults.project import EndState, Fault, Faulty, kill_at

A_SECOND = {"embedmigrate.catalog.sqlite:BUSY_TIMEOUT_SECONDS": 1}


@contextmanager
def busy(project: Faulty) -> Iterator[None]:
    """Somebody else writes to the catalog and does not come to an end."""
    with closing(sqlite3.connect(project.root / "catalog.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@pytest.mark.parametrize(
    "at",
    [
        "embedmigrate.catalog.locks:acquire",
        "embedmigrate.engine.backfill:_BackfillWork.save",
        "embedmigrate.command.forward:_walk",
        "embedmigrate.engine.settle:catch_up",
    ],
)
def test_a_catalog_that_stays_busy_stops_the_runner_for_now(
    project: Faulty, undisturbed: EndState, at: str
) -> None:
    stop = {**kill_at(at), "with_": "SIGSTOP"}
    runner = project.begin("upgrade", faults=[stop], constants=A_SECOND)
    runner.wait_until_stopped()
    with busy(project):
        runner.send(signal.SIGCONT)
        assert runner.finish() == 75, runner.errors
    assert "locked" in runner.errors and "Traceback" not in runner.errors

    project.upgrade()

    assert project.end_state([QUERY]).differences(undisturbed) == []
    assert sum(project.paid_twice().values()) <= 2 * BATCH


def test_a_catalog_that_is_busy_for_a_moment_stops_nobody(project: Faulty) -> None:
    stop = {**kill_at("embedmigrate.engine.backfill:_BackfillWork.save"), "with_": "SIGSTOP"}
    runner = project.begin("upgrade", faults=[stop])
    runner.wait_until_stopped()
    with busy(project):
        runner.send(signal.SIGCONT)
        time.sleep(1.5)

    assert runner.finish() == 0, runner.errors


@pytest.mark.parametrize("kilobytes", [1, 40, 80, 120, 160])
def test_wherever_the_disk_fills_up_the_runner_stops_and_resumes(
    project: Faulty, undisturbed: EndState, kilobytes: int
) -> None:
    """A limit on the size of files stands in for the disk: whatever grows beyond it fails."""
    most = kilobytes * 1024
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (most, most))
    stopped = project.end("upgrade", preexec_fn=limit)
    assert stopped.status == 75, stopped.errors
    assert "Traceback" not in stopped.errors

    project.upgrade()

    assert project.end_state([QUERY]).differences(undisturbed) == []
    assert sum(project.paid_twice().values()) <= 2 * BATCH


def fails(at: str, number: int, call: int) -> Fault:
    return {"at": at, "do": "fail", "when": "before", "call": call, "with_": number}


@pytest.mark.parametrize(
    "fault",
    [
        *(fails("os:fsync", errno.EIO, call) for call in (1, 3, 6)),
        fails("os:pwrite", errno.ENOSPC, 2),
        fails("tempfile:TemporaryFile", errno.ENOSPC, 1),
        fails("pathlib:Path.rename", errno.EACCES, 1),
    ],
    ids=lambda fault: f"{fault['at']} {fault['call']}",
)
def test_a_write_that_fails_stops_the_runner_and_it_resumes(
    project: Faulty, undisturbed: EndState, fault: Fault
) -> None:
    stopped = project.end("upgrade", faults=[fault])
    assert stopped.status == 75, stopped.errors
    assert "Traceback" not in stopped.errors

    project.upgrade()

    assert project.end_state([QUERY]).differences(undisturbed) == []
