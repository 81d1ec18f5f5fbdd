"""The fault harness in short; `python -m benchmarks.faults` is the full form.

Each form has a control: the same with the protection off, of which the harness must say so.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from embedmigrate.testing import POINTS, Case, CrashPoint, Harness, NotReached
from embedmigrate.testing.breaking import NoSuchPlace, find, wrap
from embedmigrate.testing.points import SCENARIOS
from embedmigrate.testing.processes import Child, threads_of_parent

KILLS, RACES, SWITCHES = 20, 50, 20
A_WORKER = 10
"""Parts that the races come in, so that several workers of the tests share them."""

Make = Callable[..., Harness]


@pytest.fixture(scope="session")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    return Harness(tmp_path_factory.mktemp("harness"))


@pytest.fixture
def without(tmp_path: Path) -> Make:
    """A harness of which protections in `tests.faults.off` are off."""

    def make(*protections: str, **options: object) -> Harness:
        off = [f"tests.faults.off:{name}" for name in protections]
        return Harness(tmp_path, off=off, **options)  # type: ignore[arg-type]

    return make


def faults(case: Case) -> set[str]:
    return set(case.findings.faults())


# -- processes --------------------------------------------------------------------------------


def test_children_are_forked_from_a_parent_without_threads() -> None:
    assert Child(threads_of_parent).answer() == 1


# -- crash points -----------------------------------------------------------------------------


def test_there_are_crash_points_enough_and_each_exists() -> None:
    assert len(POINTS) >= 40
    assert len({point.name for point in POINTS}) == len(POINTS)
    assert {point.scenario for point in POINTS} == SCENARIOS.keys()
    for point in POINTS:
        find(point.at)


@pytest.mark.parametrize("at", ["embedmigrate.gone:f", "embedmigrate.engine.job:gone", "writer.no"])
def test_a_place_that_is_not_there_any_more_is_an_error(at: str) -> None:
    with pytest.raises(NoSuchPlace):
        find(at)
    with pytest.raises(NoSuchPlace):
        wrap(at, lambda original: original)


def test_a_point_that_is_never_passed_is_an_error(tmp_path: Path) -> None:
    point = CrashPoint("a drop", "store.drop", "before", "first upgrade", "nothing is dropped")
    with pytest.raises(NotReached):
        Harness(tmp_path, points=[point]).crash(point)


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_killed_at_any_point_the_same_command_finishes(harness: Harness, point: CrashPoint) -> None:
    case = harness.crash(point)
    assert case.good, str(case)


def test_a_checkpoint_before_its_write_is_noticed(without: Make) -> None:
    between = CrashPoint("between", "writer.write", "before", "upgrade", "counted, not stored", 4)
    broken = without("checkpoint_order", "comparison", points=[between])
    assert "lost" in faults(broken.crash(between))


# -- random kills -----------------------------------------------------------------------------


def test_killed_at_random_moments_projects_lose_nothing(harness: Harness) -> None:
    cases = list(harness.kill_at_random(KILLS))
    assert all(case.good for case in cases), [str(case) for case in cases if not case.good]
    assert sum(case.kills for case in cases) == KILLS


def test_kills_without_a_journal_are_noticed(without: Make) -> None:
    (case,) = without("journal").kill_at_random(4)
    assert {"lost", "stale"} & faults(case)


def test_texts_that_are_paid_twice_are_noticed(without: Make) -> None:
    case = without("resumption").crash("moved to catching up")
    assert case.findings.paid_twice > case.findings.allowed and not case.good


# -- races ------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", range(0, RACES, A_WORKER))
def test_of_two_runners_one_works_and_the_other_embeds_nothing(
    harness: Harness, first: int
) -> None:
    for seed in range(first, first + A_WORKER):
        case = harness.race(seed)
        assert case.good, case


def test_a_lock_that_does_not_hold_is_noticed(without: Make) -> None:
    assert without("lock").race().faults


def test_a_runner_that_slept_beyond_its_lease_writes_nothing(harness: Harness) -> None:
    case = harness.sleep("rows committed")
    assert case.good, str(case)


def test_a_sleeper_that_nobody_fences_is_noticed(without: Make) -> None:
    assert without("fencing").sleep("rows committed").faults


def test_a_write_that_arrives_late_changes_nothing(harness: Harness) -> None:
    case = harness.late_write()
    assert case.good, str(case)


def test_a_store_that_does_not_look_at_seqs_is_noticed(without: Make) -> None:
    assert {"stale", "resurrected"} & faults(without("seqs", "verification").late_write())


# -- changes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["managed", "sql"])
def test_no_acknowledged_change_is_lost_while_a_project_moves(
    harness: Harness, source: str
) -> None:
    case = harness.change(source=source)  # type: ignore[arg-type]
    assert case.good, str(case)
    assert case.facts["changes"] >= 400 and case.facts["windows"] >= 3
    assert case.facts["in the window"] >= 3 * 20
    assert all(case.facts[kind] for kind in ("insert", "edit", "metadata", "delete"))


def test_changes_without_a_journal_are_noticed(without: Make) -> None:
    assert {"lost", "resurrected", "stale"} <= faults(without("journal").change())


# -- readers ----------------------------------------------------------------------------------


def test_readers_see_one_consistent_pair_through_every_switch(harness: Harness) -> None:
    case = harness.switch(SWITCHES)
    assert case.good, str(case)
    assert case.facts["generations seen"] > SWITCHES / 2
    assert case.facts["longest pause of a reader"] < 5
    assert case.facts["longest pause of a writer"] < 5


def test_queries_of_another_model_are_noticed(without: Make) -> None:
    case = without("query_model").switch(2)
    assert any("mismatched" in fault for fault in case.faults) and not case.good


# -- models -----------------------------------------------------------------------------------

REAL = """
[models.first]
provider = "static"
package = "wordllama"
weights = "weights/l2_supercat_256.safetensors"
tokenizer = "tokenizers/l2_supercat_tokenizer_config.json"
normalize = true

[models.second]
provider = "static"
package = "wordllama"
weights = "weights/l2_supercat_256.safetensors"
tokenizer = "tokenizers/l2_supercat_tokenizer_config.json"
normalize = true
dimensions = 64
"""


def test_a_real_model_survives_kills(tmp_path: Path) -> None:
    (case,) = Harness(tmp_path, models=REAL).kill_at_random(3, seed=1)
    assert case.good, str(case)
