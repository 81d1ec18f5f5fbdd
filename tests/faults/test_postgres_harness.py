"""The fault harness where catalog, source and store are one PostgreSQL database; a short form.

All of it: ``python -m benchmarks.faults --server own``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from embedmigrate.testing import CrashPoint, Harness
from tests.postgres_server import PostgresServer

SHORT = ("rows committed", "switched")
STORE = '{ kind = "pgvector", url = "$DATABASE" }'
POINTS = (
    "rows committed",
    "entries taken in",
    "index built",
    "switched",
    "rolled back",
    "container to drop",
)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One of its own: it is killed, and stops being shared."""
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def harness(server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Harness:
    return Harness(tmp_path_factory.mktemp("harness"), store=STORE, server=server.url())


@pytest.mark.parametrize(
    "point",
    [it if it in SHORT else pytest.param(it, marks=pytest.mark.slow) for it in POINTS],
)
def test_a_kill_at_a_point_loses_nothing(harness: Harness, point: str) -> None:
    case = harness.crash(point)
    assert case.good, case


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing(harness: Harness) -> None:
    for case in harness.kill_at_random(2):
        assert case.good, case


@pytest.mark.slow
def test_of_two_runners_one_works(harness: Harness) -> None:
    for seed in range(2):
        assert (case := harness.race(seed)).good, case


@pytest.mark.slow
@pytest.mark.parametrize("point", ["batches planned", "index to build"])
def test_a_runner_that_slept_beyond_its_lease_writes_nothing(harness: Harness, point: str) -> None:
    case = harness.sleep(point)
    assert case.good, case


@pytest.mark.slow
def test_writes_that_arrive_late_change_nothing(harness: Harness) -> None:
    case = harness.late_write()
    assert case.good, case


@pytest.mark.slow
def test_changes_through_cut_overs_and_rollbacks_are_all_there(harness: Harness) -> None:
    case = harness.change(writers=3, changes=80, in_window=5)
    assert case.good, case


@pytest.mark.slow
def test_readers_are_answered_through_switches(harness: Harness) -> None:
    case = harness.switch(2)
    assert case.good, case


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cut", "lose"])
def test_connections_that_are_cut_at_a_write_of_the_catalog_lose_nothing(
    harness: Harness, how: str
) -> None:
    for commit in range(2, harness.commits + 1, harness.commits // 2):
        case = harness.cut(commit, "cut" if how == "cut" else "lose")
        assert case.good, case


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_server_that_is_killed_and_comes_back_loses_nothing(
    harness: Harness, server: PostgresServer, seed: int
) -> None:
    def disturb() -> None:
        server.kill()
        time.sleep(0.3)
        server.start()

    case = harness.interrupt(disturb, seed)
    assert case.good, case


@pytest.mark.slow
def test_the_control_a_checkpoint_before_its_write_is_noticed(
    server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("control")
    between = CrashPoint("between", "writer.write", "before", "upgrade", "counted, not stored", 4)
    off = ("tests.faults.off:checkpoint_order", "tests.faults.off:comparison")
    broken = Harness(folder, store=STORE, server=server.url(), off=off, points=[between])
    case = broken.crash("between")
    assert case.findings.lost
