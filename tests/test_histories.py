"""Random histories: whatever is done in whatever order, the invariants hold after each step.

Thousands of them: ``python -m benchmarks.histories``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from embedmigrate.catalog import routes
from embedmigrate.engine import intake
from embedmigrate.stores.faiss.writer import FaissWriter
from tests.histories import History, template

PARTS = 2
HISTORIES = 120
STEPS = 8


def tell(folder: Path, histories: int, *phases: Phase) -> None:
    class Here(History):
        root = folder / "template"
        revisions = template(folder / "template")

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=histories,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            print_blob=True,
            phases=phases,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
def test_the_invariants_hold_in_every_history(tmp_path: Path, part: int) -> None:
    tell(tmp_path, HISTORIES // PARTS, Phase.generate, Phase.shrink)


def journal_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(intake, "take_in", intake.begin)
    patch.setattr(intake, "is_tracked", lambda *_: True)


def deletes_lost(patch: pytest.MonkeyPatch) -> None:
    class Nothing:
        applied = 0

    patch.setattr(FaissWriter, "delete", lambda *_: Nothing())


def rows_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(routes, "_add_applied", lambda *_: None)


@pytest.mark.parametrize("switch_off", [journal_lost, deletes_lost, rows_lost])
def test_a_history_fails_without_its_protection(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    switch_off: Callable[[pytest.MonkeyPatch], Any],
) -> None:
    switch_off(monkeypatch)
    with pytest.raises(BaseException) as failed:
        tell(tmp_path, 40, Phase.generate)
    assert not isinstance(failed.value, KeyboardInterrupt)
