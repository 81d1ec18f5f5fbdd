"""The main job: a collection moves from one real model to another, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from embedmigrate import Collection, command
from embedmigrate.catalog import routes
from embedmigrate.errors import EmbedMigrateError, Irreversible, Refused, StickyState
from tests.workspace import Workspace, documents, wait_for

QUERY = "a night with a telescope"


def test_a_first_revision_builds_the_first_index(workspace: Workspace) -> None:
    revision = workspace.revision("wordllama", "first index")

    (entry,) = workspace.upgrade()

    assert entry["live"] and entry["done"] == 40 and entry["embedded"] == 40
    status = workspace.status()
    assert status["live"]["documents"] == 40
    assert status["live"]["generation"] == 1
    assert status["revision"] == revision
    with Collection.open("articles", workspace.settings) as articles:
        assert articles.search(QUERY, k=3).hits[0].metadata == {"topic": "astronomy"}


def test_an_upgrade_moves_the_collection_and_retains_the_old_index(migrated: Workspace) -> None:
    migrated.upgrade()

    status = migrated.status()
    assert status["live"]["model"] == "wordllama-64"
    assert status["live"]["generation"] == 2
    assert [index["model"] for index in status["retained"]] == ["wordllama"]


def test_until_ready_stops_before_the_cut_over_and_cutover_finishes(migrated: Workspace) -> None:
    migrated.upgrade(until_ready=True)
    status = migrated.status()
    assert (status["live"]["model"], status["shadow"]["state"]) == ("wordllama", "ready")
    assert (status["shadow"]["done"], status["shadow"]["total"]) == (40, 40)

    command.cutover(migrated.settings)

    assert migrated.live() == "wordllama-64"


def test_cutover_embeds_nothing_that_was_not_prepared(migrated: Workspace) -> None:
    with pytest.raises(Refused, match="not ready"):
        command.cutover(migrated.settings)
    assert migrated.live() == "wordllama"


def test_a_second_upgrade_does_nothing_and_writes_nothing(migrated: Workspace) -> None:
    migrated.upgrade()
    before = migrated.snapshot()

    assert migrated.upgrade() == []

    assert migrated.snapshot() == before


def test_downgrade_and_rollback_swap_back_without_embedding(migrated: Workspace) -> None:
    migrated.upgrade()
    command.rollback(migrated.settings, "articles", reason="worse")
    status = migrated.status()
    assert (status["live"]["model"], status["live"]["generation"]) == ("wordllama", 3)

    command.downgrade(migrated.settings, "articles@-1")

    assert migrated.live() is None


def test_a_nightly_upgrade_does_not_undo_a_rollback(migrated: Workspace) -> None:
    revision = migrated.upgrade()[0]["revision"]
    command.rollback(migrated.settings, "articles", reason="worse on Russian")

    for _ in range(3):
        with pytest.raises(StickyState, match="rolled back") as refusal:
            migrated.upgrade()
        assert "worse on Russian" in str(refusal.value) and revision in str(refusal.value)
    assert migrated.live() == "wordllama"

    (entry,) = migrated.upgrade(revision, again="fixed the prompt")

    assert migrated.live() == "wordllama-64"
    assert entry["embedded"] == 0, "the index was still valid"


def test_rollback_works_when_the_script_is_gone(migrated: Workspace) -> None:
    migrated.upgrade()
    for script in (migrated.root / "migrations" / "versions").glob("*shorter*.py"):
        script.unlink()

    command.rollback(migrated.settings, "articles")

    assert migrated.live() == "wordllama"
    assert migrated.upgrade() == [], "the version row went back with the route"


def test_of_several_pending_re_embeddings_only_the_last_is_paid_for(migrated: Workspace) -> None:
    command.pin(migrated.to_pin, "fake-a")
    first = migrated.status()["revision"]
    between = command.show(migrated.settings, "articles@head").split()[1]
    last = migrated.revision("fake-a")

    (entry,) = migrated.upgrade()

    assert entry["superseded"] == [between] and entry["revision"] == last
    assert len(list((migrated.root / "indexes").iterdir())) == 2, "nothing was built for it"
    with pytest.raises(Irreversible, match=between) as refusal:
        command.downgrade(migrated.settings, between)
    assert first in str(refusal.value)
    command.rollback(migrated.settings, "articles")
    assert migrated.live() == "wordllama"


def test_every_revision_of_a_block_that_went_back_stays_back(migrated: Workspace) -> None:
    command.pin(migrated.to_pin, "fake-a")
    between = command.show(migrated.settings, "articles@head").split()[1]
    migrated.revision("fake-a")
    migrated.upgrade()
    command.rollback(migrated.settings, "articles", reason="worse")

    with pytest.raises(StickyState, match=between):
        migrated.upgrade(between)
    migrated.upgrade(between, again="this one alone is fine")

    assert migrated.live() == "wordllama-64"


def test_what_changed_during_the_migration_is_in_the_new_index(migrated: Workspace) -> None:
    migrated.upgrade(until_ready=True)
    corpus = documents(40)
    corpus[0]["text"] = "Submarines dive silently below the arctic ice."
    del corpus[1]
    corpus.append({"_id": "new", "title": "", "text": "A violin needs rosin.", "topic": "music"})
    migrated.write_corpus(corpus)

    command.cutover(migrated.settings)

    with Collection.open("articles", migrated.settings) as articles:
        assert articles.search("submarine under ice", k=1).hits[0].id == corpus[0]["_id"]
        assert articles.search("violin rosin", k=1).hits[0].id == "new"
    assert migrated.status()["live"]["documents"] == 40
    assert command.verify(migrated.settings)["holds"]


def test_a_rollback_catches_the_old_index_up_before_it_is_served(migrated: Workspace) -> None:
    migrated.upgrade()
    corpus = documents(40)
    corpus[0]["text"] = "Submarines dive silently below the arctic ice."
    migrated.write_corpus(corpus)

    command.rollback(migrated.settings, "articles")

    with Collection.open("articles", migrated.settings) as articles:
        assert articles.search("submarine under ice", k=1).hits[0].id == corpus[0]["_id"]


def test_contract_waits_out_the_grace_and_then_downgrade_offers_two_ways(
    migrated: Workspace,
) -> None:
    migrated.upgrade()
    with pytest.raises(Refused, match="grace"):
        command.contract(migrated.settings)
    migrated.let_grace_pass()

    assert command.contract(migrated.settings)["collections"][0]["dropped"] == ["articles-0001"]

    with pytest.raises(Irreversible, match="dropped") as refusal:
        command.downgrade(migrated.settings, "articles@-1")
    assert "--rebuild" in str(refusal.value) and "revision" in str(refusal.value)
    command.downgrade(migrated.settings, "articles@-1", rebuild=True)
    assert migrated.live() == "wordllama"
    assert command.verify(migrated.settings)["holds"]


def test_minilm_replaces_wordllama(tmp_path: Path) -> None:
    workspace = Workspace.make(tmp_path / "project", pin=("wordllama", "minilm"))
    workspace.revision("wordllama")
    workspace.upgrade()
    workspace.revision("minilm")
    with Collection.open("articles", workspace.settings) as articles:
        assert articles.search(QUERY).model == "wordllama"
        workspace.upgrade()
        after = wait_for(lambda: articles.search(QUERY, k=5), lambda hits: hits.generation == 2)
        assert after.model == "minilm"
        assert {hit.metadata["topic"] for hit in after.hits} == {"astronomy"}


def test_a_walk_cut_short_inside_a_block_is_finished_by_the_same_command(
    migrated: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    command.pin(migrated.to_pin, "fake-a")
    migrated.revision("fake-a")
    applied_before = command.current(migrated.settings)

    def power_failure(*args: object, **kwargs: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(routes, "cut_over", power_failure)
        with pytest.raises(KeyboardInterrupt):
            migrated.upgrade()
    assert command.current(migrated.settings) != applied_before, "the first row was written"
    assert migrated.live() == "wordllama"

    (entry,) = migrated.upgrade()

    assert entry["live"] and migrated.live() == "fake-a"
    command.rollback(migrated.settings, "articles")
    assert command.current(migrated.settings) == applied_before


def test_a_downgrade_cut_short_is_finished_by_the_same_command(
    migrated: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    command.pin(migrated.to_pin, "fake-a")
    first = migrated.status()["revision"]
    migrated.revision("fake-a")
    migrated.upgrade()
    undo, calls = routes.undo, 0

    def power_failure_in_the_second_step(*args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        undo(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(routes, "undo", power_failure_in_the_second_step)
        with pytest.raises(KeyboardInterrupt):
            command.downgrade(migrated.settings, first)
    assert migrated.live() == "wordllama", "the route moved in the first step"

    command.downgrade(migrated.settings, first)

    assert migrated.live() == "wordllama"
    assert migrated.status()["revision"] == first


def test_a_later_script_that_fails_does_not_undo_an_earlier_cut_over(migrated: Workspace) -> None:
    path = command.revision(migrated.settings, "broken", head="articles@head")
    path.write_text(
        path.read_text("utf-8").replace(
            "def upgrade() -> None:\n    pass",
            "def upgrade() -> None:\n    from alembic import op\n"
            "    op.execute('INSERT INTO no_such_table VALUES (1)')",
        ),
        "utf-8",
    )
    with pytest.raises(EmbedMigrateError):
        migrated.upgrade()
    assert migrated.live() == "wordllama-64"


def test_another_query_prompt_is_a_revision_of_its_own(migrated: Workspace) -> None:
    migrated.edit_config("[models.wordllama]", '[models.wordllama]\nquery_prompt = "question: "')
    command.pin(migrated.to_pin, "wordllama")
    migrated.upgrade()

    migrated.revision("wordllama", "ask with a prompt")
    migrated.upgrade()

    assert command.check(migrated.settings)["agrees"]
    with Collection.open("articles", migrated.settings) as articles, articles.route() as route:
        assert route.model.query_prompt == "question: "
        assert (route.embed_query("stars") != route._embedder.embed_documents(["stars"])[0]).any()
