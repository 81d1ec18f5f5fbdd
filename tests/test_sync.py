"""What changes in the source is found in what is live, under the same pins."""

from __future__ import annotations

import gzip
import re
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from embedmigrate import Collection, command
from embedmigrate.command import back
from embedmigrate.command.project import Project
from embedmigrate.embedders.static import StaticEmbedder
from embedmigrate.engine import follow as following
from embedmigrate.engine.job import StopSignal
from embedmigrate.engine.settle import catch_up
from embedmigrate.errors import (
    Behind,
    Drifted,
    DuplicateId,
    FencedOut,
    IndexGone,
    Irreversible,
    LockHeld,
    Stopped,
    UsageError,
)
from tests.command_line import run
from tests.library import COLLECTION, Library
from tests.workspace import ARTICLES, Workspace, documents, wait_for

MANAGED = re.sub(
    r"\[collections.articles.source\](.|\n)*",
    """[collections.articles.source]
kind = "managed"
id = "_id"
text = ["title", "text"]
metadata = ["topic"]
""",
    ARTICLES,
)


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """Live, and its changes are recorded."""
    library = Library.of(tmp_path / "project")
    command.capture_install(library.settings, "articles")
    library.revision("wordllama", "first index")
    library.upgrade()
    return library


@pytest.fixture
def plain(tmp_path: Path) -> Library:
    """Live, and nothing is recorded."""
    library = Library.of(tmp_path / "project")
    library.revision("wordllama", "first index")
    library.upgrade()
    return library


def sync(workspace: Workspace, **options: Any) -> dict[str, Any]:
    (entry,) = command.sync(workspace.settings, **options)["collections"]
    return {key: entry[key] for key in ("written", "metadata", "deleted", "embedded")}


def holds(workspace: Workspace) -> bool:
    return bool(command.verify(workspace.settings)["holds"])


def change_everything(library: Library) -> None:
    """An edit, an edit of metadata alone, a deletion and a new document."""
    library.sql("UPDATE articles SET text = 'whales and dolphins' WHERE id = 'doc-000001'")
    library.sql("UPDATE articles SET topic = 'sea' WHERE id = 'doc-000002'")
    library.sql("DELETE FROM articles WHERE id = 'doc-000003'")
    library.insert([{"_id": "new", "title": "squid", "text": "in the deep", "topic": "sea"}])


DONE = {"written": 2, "metadata": 1, "deleted": 1, "embedded": 2}
NOTHING = dict.fromkeys(DONE, 0)


# -- one round ---------------------------------------------------------------------------------


def test_what_the_source_recorded_is_applied_without_a_comparison(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync(library)
    change_everything(library)

    def compared(*_: Any) -> None:
        raise AssertionError("compared")

    monkeypatch.setattr(following, "note_differences", compared)
    assert sync(library) == DONE
    assert sync(library) == NOTHING
    monkeypatch.undo()
    assert holds(library)
    with Collection.open("articles", library.settings) as articles:
        assert articles.search("whales and dolphins").hits[0].id == "doc-000001"


def test_without_a_recording_source_and_index_are_compared(plain: Library) -> None:
    change_everything(plain)
    assert sync(plain) == DONE
    assert sync(plain) == NOTHING
    assert holds(plain)


def test_what_changed_while_nothing_was_recorded_is_found_by_one_comparison(
    plain: Library,
) -> None:
    change_everything(plain)
    command.capture_install(plain.settings, "articles")
    assert sync(plain) == DONE


def test_a_recording_that_was_lost_is_made_up_for(library: Library) -> None:
    library.sql("DROP TRIGGER embedmigrate_capture_articles_deleted")
    change_everything(library)
    assert sync(library) == DONE, "compared, because the recording is not whole"
    library.sql("DELETE FROM articles WHERE id = 'doc-000004'")
    command.capture_install(library.settings, "articles")
    assert sync(library)["deleted"] == 1
    assert holds(library)


@pytest.mark.parametrize("changes_since", [1, 5, 9])
def test_a_source_that_was_set_back_is_compared(library: Library, changes_since: int) -> None:
    sync(library)
    backup = (library.root / "library.db.backup").resolve()
    library.sql("VACUUM INTO ?", str(backup))
    for number in range(5):
        library.sql("UPDATE articles SET text = ? WHERE id = 'doc-000001'", f"lost {number}")
    library.sql("DELETE FROM articles WHERE id = 'doc-000002'")
    sync(library)

    for file in library.root.glob("library.db-*"):
        file.unlink()
    backup.replace(library.root / "library.db")
    for number in range(changes_since):
        library.sql("UPDATE articles SET text = ? WHERE id = 'doc-000003'", f"new {number}")

    assert sync(library)["written"] == 3, "the two that came back, and the new one"
    assert holds(library)
    library.sql("DELETE FROM articles WHERE id = 'doc-000004'")
    assert sync(library)["deleted"] == 1
    assert holds(library)


def test_a_catalog_that_was_set_back_is_compared(library: Library) -> None:
    sync(library)
    with closing(sqlite3.connect(library.root / "catalog.db")) as catalog:
        catalog.execute("VACUUM INTO ?", (str(library.root / "catalog.backup"),))
    change_everything(library)
    assert sync(library) == DONE
    library.sql("UPDATE articles SET text = 'again' WHERE id = 'doc-000005'")
    sync(library)
    for file in library.root.glob("catalog.db-*"):
        file.unlink()
    (library.root / "catalog.backup").replace(library.root / "catalog.db")
    library.sql("DELETE FROM articles WHERE id = 'doc-000006'")
    for _ in range(5):  # the store has seen later epochs than the catalog knows of
        with suppress(FencedOut):
            assert sync(library)["deleted"] == 1
            break
    assert holds(library)


def test_a_comparison_can_be_asked_for(library: Library) -> None:
    sync(library)
    source = library.root / "library.db"
    command.capture_remove(library.settings, "articles")
    token_kept = sync(library)
    assert token_kept == NOTHING and source.exists()
    change_everything(library)
    assert sync(library, compare=True) == DONE


def test_the_application_can_tell_itself(tmp_path: Path) -> None:
    told = COLLECTION.replace("also_accept", 'changes = "application"\nalso_accept')
    library = Library.of(tmp_path / "project", collections=told)
    library.revision("wordllama", "first index")
    library.upgrade()
    change_everything(library)
    assert sync(library) == NOTHING, "nothing was told, and nothing else is looked at"
    with Collection.open("articles", library.settings) as articles:
        articles.changed(["doc-000001", "doc-000002", "new"])
        articles.deleted(["doc-000003"])
        with pytest.raises(UsageError, match="list"):
            articles.changed("doc-000001")
        with pytest.raises(UsageError, match="does not own"):
            articles.upsert([{"id": "a"}])
    assert sync(library) == DONE
    assert holds(library)


def test_what_the_application_says_comes_before_a_comparison(plain: Library) -> None:
    sync(plain)
    plain.sql("UPDATE articles SET text = 'whales' WHERE id = 'doc-000001'")
    with Collection.open("articles", plain.settings) as articles:
        articles.changed(["doc-000001"])
    assert plain.status()["live"]["lag"]["entries"] == 1
    assert sync(plain)["written"] == 1
    assert plain.status()["live"]["lag"]["entries"] == 0


def test_updated_at_is_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hinted = COLLECTION + 'updated_at = "updated_at"\n'
    library = Library.of(tmp_path / "project", collections=hinted)
    library.revision("wordllama", "first index")
    library.upgrade()
    sync(library)
    library.sql("UPDATE articles SET text = 'x', updated_at = 2 WHERE id = 'doc-000001'")
    library.sql("UPDATE articles SET text = 'y' WHERE id = 'doc-000002'")
    (entry,) = command.sync(library.settings)["collections"]
    assert entry["changes"] == "updated_at"
    assert entry["written"] == 2, "what the hint does not tell is found by comparing"
    assert holds(library)


def test_nothing_live_is_said(workspace: Workspace) -> None:
    workspace.revision("wordllama", "first")
    workspace.upgrade(until_ready=True)
    with pytest.raises(IndexGone, match="nothing of articles is live"):
        command.sync(workspace.settings, ["articles"])


def test_a_file_is_compared(migrated: Workspace) -> None:
    migrated.write_corpus(documents(40)[1:])
    assert sync(migrated)["deleted"] == 1


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz"])
def test_a_file_that_is_replaced_within_a_round_is_read_as_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    told = ARTICLES.replace("also_accept", 'changes = "application"\nalso_accept')
    told = told.replace("corpus.jsonl", name)
    workspace = Workspace.make(tmp_path / "project", collections=told)
    workspace.edit_config('"sqlite:///catalog.db"', '"sqlite:///catalog.db"\nbatch_size = 1')

    def write(corpus: list[dict[str, str]]) -> None:
        workspace.write_corpus(corpus)
        if name.endswith(".gz"):
            packed = gzip.compress((workspace.root / "corpus.jsonl").read_bytes())
            (workspace.root / "corpus.new").write_bytes(packed)
            (workspace.root / "corpus.new").replace(workspace.root / name)

    write(documents(5))
    workspace.revision("wordllama")
    workspace.upgrade()
    first, *rest = documents(5)
    corpus = [*rest, first | {"text": "whales"}]
    write(corpus)
    apply, pages = following._apply, []

    with Collection.open("articles", workspace.settings) as articles:

        def then_another_is_added(*args: Any) -> Any:
            done = apply(*args)
            pages.append(args)
            if len(pages) == 1:
                write([*corpus, documents(6)[5] | {"_id": "new"}])
                articles.changed(["new"])
            return done

        monkeypatch.setattr(following, "_apply", then_another_is_added)
        articles.changed([first["_id"]])
        assert sync(workspace)["written"] == 2
    assert len(pages) == 2 and holds(workspace)


# -- the model ---------------------------------------------------------------------------------


def test_a_model_that_is_not_itself_writes_nothing(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_everything(library)
    embed_documents = StaticEmbedder.embed_documents
    monkeypatch.setattr(
        StaticEmbedder, "embed_documents", lambda self, texts: -embed_documents(self, texts)
    )
    with pytest.raises(Drifted):
        command.sync(library.settings)
    monkeypatch.undo()
    assert run(library.root, "sync").code == 0
    assert holds(library)


def test_a_deletion_needs_no_model(library: Library) -> None:
    library.edit_config('package = "wordllama"', 'package = "gone"')
    library.sql("DELETE FROM articles WHERE id = 'doc-000003'")
    assert sync(library)["deleted"] == 1


# -- beside others -----------------------------------------------------------------------------


def test_two_at_once_take_turns_or_leave(library: Library) -> None:
    from embedmigrate.command import syncing

    with (
        Project(library.settings) as project,
        project.following(["articles"]),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(syncing, "PATIENCE", 0.2)
        with pytest.raises(LockHeld, match="writes to what is live"):
            command.sync(library.settings)
        assert library.status()["follower"] is not None
    assert sync(library) == NOTHING


def test_what_is_live_is_kept_up_to_date_while_another_index_is_built(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.revision("wordllama-64", "shorter")
    embed_documents = StaticEmbedder.embed_documents
    inside, go_on = threading.Event(), threading.Event()

    def held_up(self: StaticEmbedder, texts: Any) -> Any:
        if self.model.dimensions == 64:
            inside.set()
            assert go_on.wait(60)
        return embed_documents(self, texts)

    monkeypatch.setattr(StaticEmbedder, "embed_documents", held_up)
    upgrade = threading.Thread(target=library.upgrade)
    upgrade.start()
    assert inside.wait(60)
    change_everything(library)
    assert sync(library) == DONE
    with Collection.open("articles", library.settings) as articles:
        assert articles.search("whales and dolphins").hits[0].id == "doc-000001"
        go_on.set()
        upgrade.join(60)
        found = wait_for(
            lambda: articles.search("whales and dolphins"), lambda it: it.model == "wordllama-64"
        )
        assert found.hits[0].id == "doc-000001"
    assert holds(library)


def test_what_is_live_is_kept_up_to_date_while_the_way_back_is_embedded(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.revision("wordllama-64", "shorter")
    library.upgrade()
    library.sql("UPDATE articles SET text = 'squid' WHERE id = 'doc-000004'")
    embed_documents = StaticEmbedder.embed_documents
    inside, go_on = threading.Event(), threading.Event()

    def held_up(self: StaticEmbedder, texts: Any) -> Any:
        if self.model.dimensions == 256 and not go_on.is_set():
            inside.set()
            assert go_on.wait(60)
        return embed_documents(self, texts)

    monkeypatch.setattr(StaticEmbedder, "embed_documents", held_up)
    rollback = threading.Thread(
        target=command.rollback, args=(library.settings, "articles"), kwargs={"reason": "worse"}
    )
    rollback.start()
    assert inside.wait(60)
    change_everything(library)
    assert sync(library)["deleted"] == 1
    go_on.set()
    rollback.join(60)
    assert library.live() == "wordllama"
    assert holds(library), "what came meanwhile is in the old index, too"


def test_no_reader_loses_sight_of_a_change_at_a_cut_over(library: Library) -> None:
    library.revision("wordllama-64", "shorter")
    library.upgrade(until_ready=True)
    with closing(sqlite3.connect(library.root / "catalog.db")) as catalog, catalog:
        catalog.execute("UPDATE embedmigrate_index SET position = 99 WHERE state = 'live'")
    with pytest.raises(Behind, match="does not have every change") as refused:
        command.cutover(library.settings)
    assert refused.value.exit_code == 75 and library.live() == "wordllama"


def test_the_journal_keeps_what_a_retained_index_has_not_deleted(plain: Library) -> None:
    plain.revision("wordllama-64", "shorter")
    plain.upgrade()
    plain.sql("DELETE FROM articles WHERE id = 'doc-000003'")
    with Project(plain.settings) as project, project.locked(["articles"]):
        assert sync(plain)["deleted"] == 1, "a runner is at work, and may write to the other one"
    sync(plain)
    with closing(plain.settings.open_store("articles").reader("articles-0001")) as reader:
        assert reader.get(["doc-000003"]) == []


def test_an_index_that_lags_too_far_is_compared(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedmigrate.engine.sync.JOURNAL_KEPT", 2)
    library.revision("wordllama-64", "shorter")
    library.upgrade()
    change_everything(library)
    sync(library)
    with closing(sqlite3.connect(library.root / "catalog.db")) as catalog:
        (kept,) = catalog.execute("SELECT count(*) FROM embedmigrate_journal").fetchone()
    assert kept == 2, "of four"
    command.rollback(library.settings, "articles", reason="worse")
    assert holds(library)


def end_each_round_after_one_page(monkeypatch: pytest.MonkeyPatch) -> None:
    apply = following._apply

    def slowly(*args: Any) -> Any:
        time.sleep(0.02)
        return apply(*args)

    monkeypatch.setattr(following, "_apply", slowly)
    monkeypatch.setattr("embedmigrate.engine.sync.ROUND_SECONDS", 0.01)


def test_what_is_live_has_to_see_all_of_the_journal(
    plain: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedmigrate.engine.sync.JOURNAL_KEPT", 10)
    plain.edit_config('"sqlite:///catalog.db"', '"sqlite:///catalog.db"\nbatch_size = 5')
    plain.sql("UPDATE articles SET text = 'about ' || id")
    end_each_round_after_one_page(monkeypatch)
    assert sync(plain)["written"] == 40
    assert holds(plain)


def test_the_worker_compares_once_and_not_in_each_round(
    plain: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain.edit_config('"sqlite:///catalog.db"', '"sqlite:///catalog.db"\nbatch_size = 5')
    plain.sql("UPDATE articles SET text = 'about ' || id")
    end_each_round_after_one_page(monkeypatch)
    compared, note = [], following.note_differences

    def counted(*args: Any) -> Any:
        compared.append(args)
        return note(*args)

    monkeypatch.setattr(following, "note_differences", counted)
    with the_worker(plain):
        wait_for(lambda: len(compared), lambda it: it > 0)
        wait_for(lambda: plain.status()["live"]["lag"]["entries"], (0).__eq__)
    assert len(compared) == 1
    assert holds(plain)


@contextmanager
def the_worker(library: Library) -> Iterator[None]:
    """``sync --follow`` in a thread of this process."""
    stop = StopSignal()

    def work() -> None:
        with suppress(Stopped):
            command.follow(library.settings, every=0.05, stop=stop)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set("enough")
        thread.join(60)


def test_the_worker_compares_what_somebody_switched_to(plain: Library) -> None:
    plain.revision("wordllama-64", "shorter")
    plain.upgrade()
    plain.sql("UPDATE articles SET text = 'whales' WHERE id = 'doc-000001'")
    plain.sql("DELETE FROM articles WHERE id = 'doc-000002'")
    sync(plain)  # the journal keeps nothing that the old index could tell from
    with the_worker(plain):
        first = plain.status()["live"]["compared_at"]
        wait_for(lambda: plain.status()["live"]["compared_at"], lambda it: it > first)
        with Project(plain.settings) as project, project.following(["articles"]):
            command.rollback(plain.settings, "articles", reason="worse", now=True)
        with Project(plain.settings) as project:
            wait_for(project.unsettled, (set[str]()).__eq__)
        assert holds(plain)


@pytest.fixture
def two(tmp_path: Path) -> Library:
    """Two live collections of one recorded table."""
    other = COLLECTION.replace("collections.articles", "collections.zines")
    library = Library.of(tmp_path / "project", collections=COLLECTION + other)
    for name in ("articles", "zines"):
        command.capture_install(library.settings, name)
        library.revision("wordllama", f"first of {name}", collection=name)
    library.upgrade()
    return library


def test_the_worker_follows_the_others_while_one_cannot_be_followed(two: Library) -> None:
    with Project(two.settings) as project, project.following(["articles"]), the_worker(two):
        two.sql("DELETE FROM articles WHERE id = 'doc-000002'")
        wait_for(lambda: two.status("zines")["live"]["documents"], (39).__eq__)
    assert two.status("articles")["live"]["documents"] == 40


def test_the_worker_follows_a_collection_that_goes_live_later(tmp_path: Path) -> None:
    other = COLLECTION.replace("collections.articles", "collections.zines")
    library = Library.of(tmp_path / "project", collections=COLLECTION + other)
    for name in ("articles", "zines"):
        command.capture_install(library.settings, name)
    library.revision("wordllama", "first of articles")
    library.upgrade()
    with the_worker(library):
        library.revision("wordllama", "first of zines", collection="zines")
        library.upgrade()
        library.sql("DELETE FROM articles WHERE id = 'doc-000002'")
        wait_for(lambda: library.status("zines")["live"]["documents"], (39).__eq__)


def test_the_gravest_of_several_errors_counts(
    two: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedmigrate.command import syncing

    monkeypatch.setattr(syncing, "PATIENCE", 0.1)
    embed_documents = StaticEmbedder.embed_documents
    monkeypatch.setattr(
        StaticEmbedder, "embed_documents", lambda self, texts: -embed_documents(self, texts)
    )
    two.sql("UPDATE articles SET text = 'whales' WHERE id = 'doc-000001'")
    with (
        Project(two.settings) as project,
        project.following(["articles"]),
        pytest.raises(Drifted) as failed,
    ):
        command.sync(two.settings)
    assert failed.value.result is not None
    assert [set(it) for it in failed.value.result["collections"]] == [{"collection", "error"}] * 2


def test_what_nobody_has_taken_in_counts_as_lag(library: Library) -> None:
    sync(library)
    library.sql("UPDATE articles SET text = 'whales' WHERE id = 'doc-000001'")
    assert library.status()["live"]["lag"]["entries"] == 1
    sync(library)
    assert library.status()["live"]["lag"]["entries"] == 0


def test_a_deleted_document_leaves_the_retained_index_at_once(library: Library) -> None:
    library.revision("wordllama-64", "shorter")
    library.upgrade()
    library.sql("DELETE FROM articles WHERE id = 'doc-000003'")
    library.sql("UPDATE articles SET text = 'whales' WHERE id = 'doc-000001'")
    sync(library)
    library.edit_config('package = "wordllama"', 'package = "gone"')

    ids = kept_in(library)
    assert "doc-000003" not in ids and "doc-000001" in ids and len(ids) == 39
    command.rollback(library.settings, "articles", reason="worse", now=True)
    assert kept_in(library) == ids


def kept_in(library: Library, index: str = "articles-0001") -> set[str]:
    """The documents that an index holds."""
    with closing(library.settings.open_store("articles").reader(index)) as reader:
        return {state.id for state in reader.states()}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE articles SET topic = 'withdrawn' WHERE id = 'doc-000003'",
        "UPDATE articles SET title = '', text = NULL WHERE id = 'doc-000003'",
    ],
    ids=["no longer among those chosen", "emptied"],
)
def test_a_document_that_is_withdrawn_leaves_the_retained_index_at_once(
    tmp_path: Path, statement: str
) -> None:
    chosen = COLLECTION + "where = \"topic <> 'withdrawn'\"\n"
    library = Library.of(tmp_path / "project", collections=chosen)
    command.capture_install(library.settings, "articles")
    for model in ("wordllama", "wordllama-64"):
        library.revision(model)
        library.upgrade()
    library.sql(statement)
    assert sync(library)["deleted"] == 1
    assert len(kept_in(library)) == 39 and "doc-000003" not in kept_in(library)


def test_a_document_that_is_withdrawn_behind_the_end_of_a_round_leaves_it_later(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.edit_config('"sqlite:///catalog.db"', '"sqlite:///catalog.db"\nbatch_size = 1')
    library.revision("wordllama-64", "shorter")
    library.upgrade()
    end_each_round_after_one_page(monkeypatch)
    library.sql("DELETE FROM articles WHERE id = 'doc-000003'")
    library.sql("UPDATE articles SET title = '', text = '' WHERE id = 'doc-000004'")
    library.sql("DELETE FROM articles WHERE id = 'doc-000005'")
    assert sync(library)["deleted"] == 3
    assert kept_in(library) == kept_in(library, "articles-0002")


@pytest.fixture
def narrowed(tmp_path: Path) -> Library:
    """What is live reads another column than what is retained, and the old column is dropped."""
    library = Library.of(tmp_path / "project")
    library.sql("ALTER TABLE articles ADD COLUMN summary TEXT DEFAULT 'in short'")
    command.capture_install(library.settings, "articles")
    library.revision("wordllama", "first index")
    library.upgrade()
    library.edit_config('text = ["title", "text"]', 'text = ["title", "summary"]')
    library.revision("wordllama-64", "shorter")
    library.upgrade()
    library.sql("ALTER TABLE articles DROP COLUMN text")
    library.sql("DELETE FROM articles WHERE id = 'doc-000003'")
    return library


def test_an_old_recipe_that_the_source_no_longer_fits_stops_nobody(narrowed: Library) -> None:
    assert sync(narrowed)["deleted"] == 1
    assert "doc-000003" not in kept_in(narrowed) and len(kept_in(narrowed)) == 39


def test_going_back_at_once_needs_no_source_that_fits_the_old_recipe(narrowed: Library) -> None:
    with Project(narrowed.settings) as project, project.locked(["articles"]):
        sync(narrowed)  # beside a runner, so that the old index is left to it
    assert "doc-000003" in kept_in(narrowed)
    command.rollback(narrowed.settings, "articles", reason="worse", now=True)
    assert narrowed.live() == "wordllama"
    assert "doc-000003" not in kept_in(narrowed) and len(kept_in(narrowed)) == 39


def test_going_back_at_once_needs_no_source(library: Library) -> None:
    library.revision("wordllama-64", "shorter")
    library.upgrade()
    library.sql("DELETE FROM articles WHERE id = 'doc-000003'")
    with Project(library.settings) as project, project.locked(["articles"]):
        sync(library)
    (library.root / "library.db").rename(library.root / "away")
    command.rollback(library.settings, "articles", reason="worse", now=True)
    assert library.live() == "wordllama" and "doc-000003" not in kept_in(library)
    (library.root / "away").rename(library.root / "library.db")
    sync(library)
    assert holds(library)


def test_going_back_at_once_beside_a_follower_brings_no_document_back(library: Library) -> None:
    library.revision("wordllama-64", "shorter")
    library.upgrade()
    library.sql("DELETE FROM articles WHERE id = 'doc-000003'")
    with Project(library.settings) as project, project.following(["articles"]) as leases:
        catch_up(project.job("articles"), leases["articles"], "articles-0002")
        command.rollback(library.settings, "articles", reason="worse", now=True)
    assert library.live() == "wordllama" and "doc-000003" not in kept_in(library)
    sync(library)
    assert holds(library)


def test_what_comes_last_before_the_way_back_is_in_the_old_index(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.revision("wordllama-64", "shorter")
    library.upgrade()
    make_ready = back._make_targets_ready

    def then_more_comes(*args: Any, **options: Any) -> Any:
        plans = make_ready(*args, **options)
        change_everything(library)
        sync(library)
        return plans

    monkeypatch.setattr(back, "_make_targets_ready", then_more_comes)
    command.rollback(library.settings, "articles", reason="worse")
    assert library.live() == "wordllama" and holds(library)


def test_a_rollback_does_not_take_back_what_readers_have_seen(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.revision("wordllama-64", "shorter")
    library.upgrade()
    change_everything(library)
    sync(library)
    monkeypatch.setattr("embedmigrate.command.back._catch_up", lambda *_, **__: None)
    with pytest.raises(Behind):
        command.rollback(library.settings, "articles", reason="worse")
    assert library.live() == "wordllama-64"
    command.rollback(library.settings, "articles", reason="worse", now=True)
    assert library.live() == "wordllama"


def test_a_rollback_without_the_old_model_says_what_would_be_missing(library: Library) -> None:
    library.revision("wordllama-64", "shorter")
    library.upgrade()
    change_everything(library)
    library.edit_config('package = "wordllama"', 'package = "gone"')
    with pytest.raises(Irreversible) as refused:
        command.rollback(library.settings, "articles", reason="worse")
    assert "1 stale and 1 missing documents: 'doc-000001', 'new'" in str(refused.value)
    assert "--now" in str(refused.value) and library.live() == "wordllama-64"

    command.rollback(library.settings, "articles", reason="worse", now=True)
    assert library.live() == "wordllama"
    library.edit_config('package = "gone"', 'package = "wordllama"')
    sync(library)
    assert holds(library)


def test_what_changed_since_the_cut_over_is_in_the_old_index_before_the_switch(
    library: Library,
) -> None:
    library.revision("wordllama-64", "shorter")
    revision = library.upgrade()[0]["revision"]
    change_everything(library)
    command.rollback(library.settings, "articles", reason="worse")
    assert holds(library)
    assert sync(library) == NOTHING
    (entry,) = library.upgrade(revision, again="better now")
    assert entry["index"] == "articles-0002"
    assert entry["embedded"] == 2, "only what changed since"
    assert holds(library)


def test_the_worker_follows_until_it_is_stopped(library: Library) -> None:
    library.revision("wordllama-64", "shorter")
    worker = library.start("--quiet", "sync", "--follow", "--every", "0.1")
    try:
        with Collection.open("articles", library.settings) as articles:
            library.sql("UPDATE articles SET text = 'whales' WHERE id = 'doc-000001'")
            wait_for(lambda: articles.search("whales").hits[0].id, "doc-000001".__eq__)
            library.upgrade()
            library.sql("UPDATE articles SET text = 'a submarine' WHERE id = 'doc-000002'")
            found = wait_for(
                lambda: articles.search("a submarine"), lambda it: it.hits[0].id == "doc-000002"
            )
            assert found.model == "wordllama-64"
            command.rollback(library.settings, "articles", reason="worse")
            library.sql("DELETE FROM articles WHERE id = 'doc-000002'")
            wait_for(
                lambda: [hit.id for hit in articles.search("a submarine", 40).hits],
                lambda ids: "doc-000002" not in ids,
            )
        assert worker.poll() is None
    finally:
        worker.send_signal(signal.SIGTERM)
        _, said = worker.communicate(timeout=60)
    assert worker.returncode == 7, said
    assert holds(library)


def test_the_worker_compares_at_once_when_a_recording_begins(plain: Library) -> None:
    worker = plain.start("--quiet", "sync", "--follow", "--every", "0.1")
    try:
        first = plain.status()["live"]["compared_at"]
        wait_for(lambda: plain.status()["live"]["compared_at"], lambda it: it > first)
        plain.sql("DELETE FROM articles WHERE id = 'doc-000002'")
        command.capture_install(plain.settings, "articles")
        wait_for(lambda: plain.status()["live"]["documents"], (39).__eq__)
    finally:
        worker.terminate()
        worker.communicate(timeout=60)


def test_stop_ok_makes_a_stopped_worker_a_good_one(library: Library) -> None:
    worker = library.start("sync", "--follow", "--stop-ok")
    library.sql("DELETE FROM articles WHERE id = 'doc-000002'")
    wait_for(lambda: library.status()["live"]["documents"], (39).__eq__)
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=60)
    assert worker.returncode == 0


# -- managed -----------------------------------------------------------------------------------


@pytest.fixture
def managed(tmp_path: Path) -> Workspace:
    return Workspace.make(tmp_path / "project", corpus=[], collections=MANAGED)


def test_documents_that_we_own_are_found_after_a_sync(managed: Workspace) -> None:
    with Collection.open("articles", managed.settings) as articles:
        with pytest.raises(IndexGone):
            articles.search("stars")
        assert articles.upsert(documents(10)) == 10
        managed.revision("wordllama", "first")
        (entry,) = managed.upgrade()
        assert (entry["live"], entry["embedded"]) == (True, 10)
        articles.upsert([{"_id": "new", "title": "squid", "text": "in the deep", "topic": "sea"}])
        articles.upsert([documents(10)[0] | {"topic": "other"}])
        assert articles.delete(["doc-000003", "never there"]) == 1
        assert sync(managed) == {"written": 1, "metadata": 1, "deleted": 1, "embedded": 1}
        assert articles.search("squid in the deep").hits[0].id == "new"
        with pytest.raises(UsageError, match="written by embedmigrate"):
            articles.changed(["new"])
    assert holds(managed)
    script = next((managed.root / "migrations" / "versions").glob("*.py")).read_text("utf-8")
    assert "allow_lag" not in script


def test_an_upsert_is_all_or_nothing(managed: Workspace) -> None:
    with Collection.open("articles", managed.settings) as articles:
        with pytest.raises(Exception, match="document 2 for articles"):
            articles.upsert([documents(1)[0], {"_id": None, "title": "x"}])
        with pytest.raises(DuplicateId, match="an id for articles"):
            articles.delete(["a", None])  # type: ignore[list-item]
        with pytest.raises(Exception, match="document 1 for articles: field 'title'"):
            articles.upsert([{"_id": "a", "title": ["a", "list"]}])
        managed.revision("wordllama", "first")
    source = managed.settings.open_source(
        "articles", managed.settings.collection("articles").recipe
    )
    assert source.prepare() == 0 and source.capture is not None
    assert source.capture.read(0, 10) == []
    source.close()
