"""kill -9 at random moments, in short; `python -m benchmarks.kill` is the full form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.faults import off
from tests.faults.conftest import BATCH, QUERY
from tests.faults.killing import Campaign, campaign
from tests.faults.project import EndState, Faulty, kill_at
from tests.workspace import documents

BACKFILL = "embedmigrate.engine.backfill"
WRITE = "embedmigrate.stores.faiss.writer:FaissWriter.write"


def killed_at_random(template: Faulty, folder: Path, *, kills: int, seed: int) -> Campaign:
    queries = ["a night with a telescope", "bread in the oven", "the verdict of a jury"]
    result = campaign(template.copy, folder, kills=kills, seed=seed, batch_size=64, queries=queries)
    assert result.good, "\n".join([*result.differences, *result.table()])
    assert len(result.kills) == kills
    return result


@pytest.mark.slow
def test_a_migration_between_real_models_survives_kills(tmp_path: Path) -> None:
    template = Faulty.prepared(
        tmp_path / "template", documents(1500), "wordllama", "wordllama-64", batch_size=64
    )
    killed_at_random(template, tmp_path, kills=3, seed=1)


@pytest.mark.slow
def test_a_migration_to_a_slow_model_survives_kills(tmp_path: Path) -> None:
    template = Faulty.prepared(
        tmp_path / "template", documents(1500), "fake-a", "fake-b", batch_size=64, delay_ms=40
    )
    result = killed_at_random(template, tmp_path, kills=6, seed=2)

    assert len(result.phases_aimed_at) == 6
    assert len(result.states_found) >= 3, result.states_found


# -- would it be noticed? ---------------------------------------------------------------------


def test_a_checkpoint_that_comes_before_its_write_is_a_loss_when_nothing_compares(
    project: Faulty, undisturbed: EndState
) -> None:
    between = [kill_at(WRITE, call=3)]
    project.end("upgrade", faults=between, off=[off.checkpoint_order, off.comparison])
    project.end("upgrade", off=[off.comparison])

    (difference,) = [
        found for found in project.end_state().differences(undisturbed) if "lost" in found
    ]
    assert difference.startswith(f"{BATCH} documents are lost")


def test_a_checkpoint_that_comes_before_its_write_is_found_by_comparing(
    project: Faulty, undisturbed: EndState
) -> None:
    project.end("upgrade", faults=[kill_at(WRITE, call=3)], off=[off.checkpoint_order])
    project.upgrade()

    assert project.end_state([QUERY]).differences(undisturbed) == []


@pytest.mark.parametrize(("unsaved", "too_much"), [(2, False), (100, True)])
def test_more_than_two_unsaved_batches_are_noticed_as_waste(
    project: Faulty, unsaved: int, too_much: bool
) -> None:
    slow = {"at": f"{BACKFILL}:_BackfillWork.save", "do": "sleep", "with_": 0.5, "call": 0}
    project.end(
        "upgrade",
        faults=[
            slow,
            kill_at(f"{BACKFILL}:embed_documents", call=5),
        ],
        constants={"embedmigrate.engine.executor:MAX_UNSAVED_BATCHES": unsaved},
    )
    project.upgrade()

    (wasted,) = project.paid_twice().values()
    assert (wasted > 2 * BATCH) is too_much, wasted


def test_every_difference_of_the_end_state_is_noticed(undisturbed: EndState) -> None:
    first, *others = undisturbed.rows
    changed = {
        "documents are lost": replace(
            undisturbed, rows={key: undisturbed.rows[key] for key in others}
        ),
        "documents too many": replace(undisturbed, rows={**undisturbed.rows, ("new", 0): ("", "")}),
        "other hashes": replace(undisturbed, rows={**undisturbed.rows, first: ("", "")}),
        "vectors differ": replace(undisturbed, vectors=np.roll(undisturbed.vectors, 1, axis=0)),
        "is answered": replace(undisturbed, answers={QUERY: []}),
        "model": replace(undisturbed, model="fake-a"),
        "generation": replace(undisturbed, generation=1),
        "counts": replace(undisturbed, counts=(1, 0, 1)),
        "settled": replace(undisturbed, settled=False),
    }
    for said, state in changed.items():
        (difference,) = state.differences(undisturbed)
        assert said in difference
