"""What is in the way of the other commands, and the way out of it."""

from __future__ import annotations

import json

from tests.command_line import run
from tests.workspace import Workspace


def test_a_healthy_project_is_well_and_unchanged(migrated: Workspace) -> None:
    before = migrated.snapshot()
    answer = run(migrated.root, "doctor")
    assert answer.code == 0, answer.out
    assert "pinned as wordllama@" in answer.out and "NO " not in answer.out
    assert migrated.snapshot() == before


def test_a_model_that_is_not_pinned_is_named_with_what_to_type(workspace: Workspace) -> None:
    for pin in (workspace.root / "migrations" / "models").glob("wordllama.*"):
        pin.unlink()
    answer = run(workspace.root, "doctor", "--json")
    assert answer.code == 78
    (trouble,) = [it for it in json.loads(answer.out)["observations"] if it["trouble"]]
    assert trouble["what"] == "model wordllama"
    assert "embedmigrate pin wordllama" in trouble["trouble"]


def test_files_that_are_not_the_pinned_ones_are_named(workspace: Workspace) -> None:
    workspace.edit_config("normalize = true", "normalize = false")
    answer = run(workspace.root, "doctor")
    assert answer.code == 3
    assert "NO  model wordllama: " in answer.out and "normalize" in answer.out


def test_a_missing_catalog_is_no_trouble_before_the_first_upgrade(workspace: Workspace) -> None:
    answer = run(workspace.root, "doctor")
    assert answer.code == 0 and "catalog: not made yet" in answer.out
