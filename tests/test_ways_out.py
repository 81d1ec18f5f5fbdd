"""When something is wrong there is a way out, and the error names it."""

from __future__ import annotations

import pytest

from embedmigrate import command, text
from embedmigrate.errors import (
    DamagedIndex,
    Irreversible,
    ScriptError,
    UnknownCatalog,
    UnknownRevision,
    UsageError,
)
from tests.workspace import ARTICLES, Workspace, documents


def damage(workspace: Workspace, index: str) -> None:
    (vectors,) = (workspace.root / "indexes" / index).glob("vectors-*.f32")
    vectors.write_bytes(vectors.read_bytes()[:1000])


def test_a_damaged_live_index_is_left_and_a_new_one_built(migrated: Workspace) -> None:
    revision = migrated.upgrade()[0]["revision"]
    damage(migrated, "articles-0002")
    with pytest.raises(DamagedIndex, match="vectors-") as refusal:
        command.search(migrated.settings, "articles", "a telescope")
    assert "rollback" in str(refusal.value) and "--again" in str(refusal.value)

    command.rollback(migrated.settings, "articles", reason="a damaged file")
    (entry,) = migrated.upgrade(revision, again="a new index")

    assert (entry["index"], entry["live"], entry["embedded"]) == ("articles-0003", True, 40)
    assert command.verify(migrated.settings)["holds"]


def test_a_live_index_that_is_gone_is_damage_not_a_passing_trouble(migrated: Workspace) -> None:
    (migrated.root / "indexes" / "articles-0001").rename(migrated.root / "elsewhere")
    with pytest.raises(DamagedIndex, match="not in its store"):
        command.search(migrated.settings, "articles", "a telescope")


def test_what_catching_up_embedded_is_counted(migrated: Workspace) -> None:
    migrated.upgrade(until_ready=True)
    migrated.write_corpus([*documents(40), *({"_id": f"n{n}", "text": f"n {n}"} for n in range(5))])

    (entry,) = command.cutover(migrated.settings)["collections"]

    assert (entry["total"], entry["done"], entry["embedded"]) == (45, 45, 45)


def test_a_reason_to_try_again_is_not_empty(migrated: Workspace) -> None:
    migrated.upgrade()
    command.rollback(migrated.settings, "articles", reason="worse")
    with pytest.raises(UsageError, match="reason"):
        migrated.upgrade(again=" ")
    (retained,) = migrated.status()["retained"]
    assert (retained["state"], retained["reason"]) == ("rolled_back", "worse")


def test_check_says_that_a_revision_was_rolled_back_and_what_to_type(migrated: Workspace) -> None:
    revision = migrated.upgrade()[0]["revision"]
    command.rollback(migrated.settings, "articles", reason="worse")
    (entry,) = command.check(migrated.settings)["collections"]
    assert entry["differences"][-1] == f"revision {revision} was rolled back by a person"

    migrated.edit_config('model = "wordllama"', 'model = "wordllama-64"')
    (entry,) = command.check(migrated.settings)["collections"]
    assert entry["next_step"] == f'embedmigrate upgrade {revision} --again "reason"'
    assert "next:     embedmigrate upgrade" in text.checked(command.check(migrated.settings))


def test_a_foreign_catalog_is_never_taken_for_an_empty_project(migrated: Workspace) -> None:
    for file in migrated.root.glob("catalog.db-*"):
        file.unlink()
    (migrated.root / "catalog.db").write_bytes(bytes(range(256)) * 20)
    for look in (command.status, command.current, command.plan, command.check):
        with pytest.raises(UnknownCatalog, match="not a catalog"):
            look(migrated.settings)


@pytest.mark.parametrize("target", ["articles@", "", "nope@-1"])
def test_a_target_that_names_nothing_is_said_to(migrated: Workspace, target: str) -> None:
    with pytest.raises(UnknownRevision):
        command.downgrade(migrated.settings, target)


def test_going_back_from_nothing_is_said_to(workspace: Workspace) -> None:
    command.ensure_version(workspace.settings)
    with pytest.raises(UnknownRevision, match="nothing is applied"):
        command.downgrade(workspace.settings, "articles@-1")


def test_an_applied_revision_without_script_names_what_still_works(migrated: Workspace) -> None:
    migrated.upgrade()
    (script,) = (migrated.root / "migrations" / "versions").glob("*shorter*.py")
    script.unlink()
    with pytest.raises(ScriptError, match="gone") as refusal:
        migrated.upgrade()
    assert "embedmigrate rollback" in str(refusal.value)
    command.rollback(migrated.settings, "articles")
    assert migrated.live() == "wordllama"


def test_one_collection_does_not_go_back_with_another(workspace: Workspace) -> None:
    path = workspace.root / "embedmigrate.toml"
    papers = ARTICLES.replace("articles", "papers").replace('"indexes"', '"papers"')
    path.write_text(path.read_text("utf-8") + papers, "utf-8")
    for collection in ("articles", "papers"):
        workspace.revision("wordllama", collection=collection)
    command.merge(workspace.settings, ["heads"], "both")
    workspace.upgrade()
    workspace.revision("wordllama-64", collection="papers")
    workspace.upgrade()

    with pytest.raises(Irreversible, match="other collections"):
        command.downgrade(workspace.settings, "articles@-1")

    assert workspace.live("papers") == "wordllama-64"
