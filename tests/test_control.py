"""What a person may ask while collections are moved, where one process is enough to show it."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from embedmigrate import command
from embedmigrate.catalog import Catalog, journal, requests, routes, runs
from embedmigrate.command import controlling, forward
from embedmigrate.command.project import Project
from embedmigrate.config import load_settings
from embedmigrate.engine import control, prepare
from embedmigrate.engine.embedding import EmbeddedBatch, embed_documents
from embedmigrate.engine.job import StopSignal
from embedmigrate.errors import (
    ConfigError,
    EmbedMigrateError,
    Refused,
    StickyState,
    Stopped,
    StorageUnavailable,
    UnknownCollection,
)
from embedmigrate.migration.operations import ReembedOp
from embedmigrate.migration.walk import UpgradeWalk
from tests.command_line import run
from tests.workspace import ARTICLES, Workspace

PAPERS = ARTICLES.replace("articles", "papers")


@pytest.fixture
def moving(tmp_path: Path) -> Workspace:
    """`fake-a` live, a revision to `fake-b` pending."""
    workspace = Workspace.make(
        tmp_path / "project",
        collections=ARTICLES.replace('"wordllama"', '"fake-a"'),
        pin=("fake-a", "fake-b"),
    )
    workspace.revision("fake-a", "first")
    workspace.upgrade()
    workspace.revision("fake-b", "second")
    return workspace


@pytest.fixture
def two(tmp_path: Path) -> Workspace:
    """`articles` and `papers`, both with a first revision to `fake-a` pending."""
    workspace = Workspace.make(
        tmp_path / "project",
        collections=(ARTICLES + PAPERS).replace('"wordllama"', '"fake-a"'),
        pin=("fake-a", "fake-b"),
    )
    for collection in ("articles", "papers"):
        workspace.revision("fake-a", f"{collection} first", collection)
    return workspace


def stop_half_way(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade that is stopped by a signal before it embeds anything, and its lock is free."""
    stop = StopSignal()

    def stops(*args: Any, **options: Any) -> EmbeddedBatch:
        stop.set("a test")
        return embed_documents(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr("embedmigrate.engine.backfill.embed_documents", stops)
        with pytest.raises(Stopped):
            workspace.upgrade(stop=stop)


def asked(result: dict[str, Any]) -> dict[str, Any]:
    (entry,) = result["collections"]
    return dict(entry)


def events(workspace: Workspace) -> list[tuple[str, str]]:
    """Kind and whose doing, of everything that was recorded."""
    with closing(sqlite3.connect(workspace.root / "catalog.db")) as catalog:
        return catalog.execute("SELECT kind, actor FROM embedmigrate_event ORDER BY id").fetchall()


# -- pause and resume -------------------------------------------------------------------------


def test_what_is_paused_is_left_alone_until_it_is_resumed(
    moving: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_half_way(moving, monkeypatch)
    first = asked(command.pause(moving.settings, "articles", reason="month-end"))
    assert first["changed"] and first["state"] == "paused"
    before = moving.snapshot()

    (entry,) = moving.upgrade()

    assert moving.snapshot() == before, "nothing is written"
    assert (entry["state"], entry["live"], entry["error"]) == ("paused", False, None)
    assert "month-end" in entry["held"] and "embedmigrate resume articles" in entry["held"]
    assert asked(command.resume(moving.settings, "articles"))["changed"]
    assert moving.upgrade()[0]["live"]
    with Catalog(moving.settings.catalog_url) as catalog, catalog.read() as connection:
        assert journal.head(connection, "articles") == 0, "by its batches, not by comparing"


def test_asking_again_changes_nothing_and_keeps_who_asked_first(moving: Workspace) -> None:
    first = asked(command.pause(moving.settings, "articles", reason="first"))
    second = asked(command.pause(moving.settings, "articles", reason="second"))
    assert (second["changed"], second["request"]) == (False, first["request"])
    assert asked(command.resume(moving.settings, "articles"))["changed"]
    for _ in range(2):
        again = asked(command.resume(moving.settings, "articles"))
        assert (again["changed"], again["request"]) == (False, None)


def test_a_collection_can_be_paused_before_anything_was_ever_made(two: Workspace) -> None:
    command.pause(two.settings, "articles")

    result = command.upgrade(two.settings)

    told = {entry["collection"]: entry for entry in result["collections"]}
    assert told["articles"]["held"] and told["articles"]["state"] == "paused"
    assert (two.live("articles"), two.live("papers")) == (None, "fake-a")
    command.resume(two.settings, "articles")
    two.upgrade()
    assert two.live("articles") == "fake-a"


def test_a_failed_run_that_is_paused_stays_failed_and_is_left_alone(moving: Workspace) -> None:
    corpus = moving.root / "corpus.jsonl"
    kept = corpus.read_bytes()
    corpus.write_text("not json\n")
    with pytest.raises(EmbedMigrateError):
        moving.upgrade()
    command.pause(moving.settings, "articles")
    assert moving.upgrade()[0]["held"]
    command.resume(moving.settings, "articles")
    corpus.write_bytes(kept)
    assert moving.upgrade()[0]["live"]


def test_what_is_ready_can_be_paused_and_is_then_not_cut_over(moving: Workspace) -> None:
    moving.upgrade(until_ready=True)
    assert asked(command.pause(moving.settings, "articles"))["state"] == "paused"

    assert moving.upgrade()[0]["held"]
    with pytest.raises(Refused, match="asked to pause"):
        command.cutover(moving.settings)
    assert moving.live() == "fake-a"

    command.resume(moving.settings, "articles")
    (entry,) = moving.upgrade()
    assert (entry["live"], entry["embedded"]) == (True, 40), "nothing is embedded twice"


def test_a_rollback_does_not_care_about_a_pause(moving: Workspace) -> None:
    moving.upgrade()
    command.pause(moving.settings, "articles")
    command.rollback(moving.settings, "articles", reason="worse")
    assert moving.live() == "fake-a"


def test_an_unknown_collection_is_refused_and_makes_nothing(tmp_path: Path) -> None:
    workspace = Workspace.make(tmp_path / "project", pin=("wordllama",))
    for ask in (command.pause, command.resume, command.cancel):
        with pytest.raises(UnknownCollection) as refusal:
            ask(workspace.settings, "nonsense")
        assert refusal.value.exit_code == 2
    for ask in (command.resume, command.cancel):
        assert asked(ask(workspace.settings, "articles"))["changed"] is False
    assert not (workspace.root / "catalog.db").exists()


def test_every_request_is_recorded_with_who_made_it(
    moving: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_half_way(moving, monkeypatch)
    monkeypatch.setattr(requests, "actor", lambda: "ada@search-1")
    command.pause(moving.settings, "articles")
    command.resume(moving.settings, "articles")
    command.cancel(moving.settings, "articles")

    kinds = [kind for kind, _ in events(moving)]
    assert kinds[-6:] == ["asked", "run_state", "resumed", "asked", "run_state", "cancelled"]
    assert events(moving)[-1] == ("cancelled", "ada@search-1"), "not who carried it out"
    with pytest.raises(StickyState, match="cancelled by a person") as refusal:
        moving.upgrade()
    assert "ada@search-1" in str(refusal.value)


# -- cancel -----------------------------------------------------------------------------------


def test_a_cancelled_run_is_taken_up_with_a_reason_only(
    moving: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving.upgrade(until_ready=True)
    entry = asked(command.cancel(moving.settings, "articles", reason="too dear"))
    assert (entry["changed"], entry["state"], entry["reason"]) == (True, "cancelled", "too dear")
    assert asked(command.cancel(moving.settings, "articles"))["changed"] is False
    with Catalog(moving.settings.catalog_url) as catalog, catalog.read() as connection:
        assert routes.get(connection, "articles").candidate_index is None

    for _ in range(2):
        with pytest.raises(StickyState, match="cancelled"):
            moving.upgrade()
    assert moving.status()["shadow"]["state"] == "cancelled"

    (done,) = moving.upgrade(again="approved")
    assert (done["live"], done["embedded"], done["index"]) == (True, 0, "articles-0002")


def test_a_pause_gives_way_to_a_cancel_and_not_the_other_way_round(
    moving: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_half_way(moving, monkeypatch)
    command.pause(moving.settings, "articles")
    assert asked(command.cancel(moving.settings, "articles"))["state"] == "cancelled"
    assert moving.status()["request"] is None
    with Catalog(moving.settings.catalog_url) as catalog, catalog.write() as connection:
        requests.file(connection, "articles", requests.Wanted.CANCEL, None, None)
        kept, new = requests.file(connection, "articles", requests.Wanted.PAUSE, None, None)
    assert (kept.wanted, new) == (requests.Wanted.CANCEL, False)


def test_with_nothing_to_cancel_nothing_is_cancelled_later(moving: Workspace) -> None:
    assert asked(command.cancel(moving.settings, "articles"))["changed"] is False
    assert moving.upgrade()[0]["live"]
    assert asked(command.cancel(moving.settings, "articles")) == {
        "collection": "articles",
        "changed": False,
        "request": None,
        "revision": None,
        "state": None,
        "reason": None,
        "runner": None,
        "dropped": [],
    }


def test_a_cancel_of_a_run_that_came_to_its_end_is_forgotten(moving: Workspace) -> None:
    """It was asked while a rollback that builds held the lock, say: nobody saw it in time."""
    moving.upgrade()
    with Catalog(moving.settings.catalog_url) as catalog, catalog.write() as connection:
        ended = runs.latest(connection, "articles")
        assert ended is not None
        requests.file(connection, "articles", requests.Wanted.CANCEL, None, ended.id)
    moving.revision("fake-a", "third")

    assert moving.upgrade()[0]["live"]
    assert moving.status()["request"] is None


def test_a_cancel_that_no_runner_saw_comes_before_again(
    moving: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_half_way(moving, monkeypatch)
    with Catalog(moving.settings.catalog_url) as catalog, catalog.write() as connection:
        requests.file(connection, "articles", requests.Wanted.CANCEL, "stop it", None)

    (done,) = moving.upgrade(again="start it")

    assert done["live"]
    assert "cancelled" in [kind for kind, _ in events(moving)]


@pytest.mark.parametrize("what", ["rollback", "contract"])
def test_a_cancel_beside_what_prepares_nothing_does_not_wait_for_the_next_upgrade(
    moving: Workspace, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    moving.upgrade()
    moving.let_grace_pass()
    monkeypatch.setattr(controlling, "PATIENCE_SECONDS", 0.1)
    locked = Project.locked

    @contextmanager
    def asked_within(project: Project, collections: Any, **options: Any) -> Any:
        with locked(project, collections, **options) as leases:
            with monkeypatch.context() as patch:
                patch.setattr(Project, "locked", locked)
                command.cancel(moving.settings, "articles", reason="stop that")
            yield leases

    with monkeypatch.context() as patch:
        patch.setattr(Project, "locked", asked_within)
        getattr(command, what)(moving.settings, "articles")
    assert moving.status()["request"] is None
    if what == "contract":
        moving.revision("fake-a", "back to the first")
        assert moving.upgrade()[0]["live"]


# -- what nobody is going to finish -----------------------------------------------------------


def folders(workspace: Workspace) -> list[str]:
    return sorted(folder.name for folder in (workspace.root / "indexes").iterdir())


def test_shadows_are_dropped_only_when_a_person_says_so(
    moving: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_half_way(moving, monkeypatch)
    command.contract(moving.settings, "articles", abandoned=True)
    assert folders(moving) == ["articles-0001", "articles-0002"], "it may be resumed"
    command.pause(moving.settings, "articles")
    command.contract(moving.settings, "articles", abandoned=True)
    assert folders(moving) == ["articles-0001", "articles-0002"], "nor what is paused"

    command.cancel(moving.settings, "articles")
    command.contract(moving.settings)
    assert folders(moving) == ["articles-0001", "articles-0002"], "nobody asked"

    (entry,) = command.contract(moving.settings, abandoned=True)["collections"]
    assert entry["dropped"] == ["articles-0002"]
    assert folders(moving) == ["articles-0001"] and moving.live() == "fake-a"
    assert moving.status()["shadow"] is None
    assert moving.upgrade(again="after all")[0]["index"] == "articles-0003"


def test_cancel_can_drop_what_was_ready(moving: Workspace) -> None:
    moving.upgrade(until_ready=True)
    assert asked(command.cancel(moving.settings, "articles", drop=True))["dropped"] == [
        "articles-0002"
    ]
    assert folders(moving) == ["articles-0001"]
    again = asked(command.cancel(moving.settings, "articles", drop=True))
    assert (again["changed"], again["dropped"]) == (False, [])


def test_the_shadow_of_a_failed_run_can_be_dropped(
    moving: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("embedmigrate.engine.prepare.verify", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            moving.upgrade()
    assert moving.status()["shadow"]["state"] == "failed"

    command.contract(moving.settings, "articles", abandoned=True)

    assert folders(moving) == ["articles-0001"]
    assert moving.upgrade()[0]["live"]


def test_a_shadow_that_the_collection_went_on_without_can_be_dropped(
    moving: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_half_way(moving, monkeypatch)
    moving.revision("fake-a", "and back")  # of two pending revisions the last is built
    with pytest.raises(Stopped):
        stopped = StopSignal()
        stopped.set("a test")
        moving.upgrade(stop=stopped)
    moving.upgrade()

    assert folders(moving) == ["articles-0001", "articles-0002", "articles-0003"]
    (entry,) = command.contract(moving.settings, abandoned=True)["collections"]
    assert entry["dropped"] == ["articles-0002"]
    assert moving.live() == "fake-a"


def test_what_was_live_waits_out_its_grace_whatever_became_of_its_last_run(
    moving: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving.upgrade()
    command.rollback(moving.settings, "articles")
    moving.upgrade(again="once more", until_ready=True)
    with monkeypatch.context() as patched:
        patched.setattr("embedmigrate.engine.prepare.verify", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            moving.upgrade()
    assert moving.status()["shadow"]["state"] == "failed"
    command.contract(moving.settings, abandoned=True)
    assert folders(moving) == ["articles-0001", "articles-0002"]
    command.cancel(moving.settings, "articles", drop=True)
    moving.upgrade(again="and once more", until_ready=True)
    command.cancel(moving.settings, "articles", drop=True)
    with pytest.raises(Refused, match="grace"):
        command.contract(moving.settings, abandoned=True)
    assert folders(moving) == ["articles-0001", "articles-0002"]
    (kept,) = moving.status()["retained"]
    assert (kept["index"], kept["state"]) == ("articles-0002", "cancelled")


# -- the cut-over -----------------------------------------------------------------------------


def test_a_manual_cut_over_is_left_to_a_person_and_the_others_are_walked(two: Workspace) -> None:
    two.edit_config("[collections.articles]", '[collections.articles]\ncutover = "manual"')
    for _ in range(2):
        answer = run(two.root, "upgrade")
        assert answer.code == 0 and "embedmigrate cutover articles" in answer.out, answer.err
    assert (two.live("articles"), two.live("papers")) == (None, "fake-a")
    assert two.status("articles")["shadow"]["state"] == "ready"
    assert two.status("articles")["revision"] is None, "no version row"

    assert run(two.root, "cutover", "articles").code == 0

    assert two.live("articles") == "fake-a"
    assert two.upgrade() == []


@pytest.mark.parametrize("merged_at", ["first", "second"])
def test_a_collection_that_is_held_holds_what_stands_behind_a_merge_with_it(
    two: Workspace, merged_at: str
) -> None:
    if merged_at == "second":
        two.upgrade()
        for collection in ("articles", "papers"):
            two.revision("fake-b", f"{collection} second", collection)
    command.pause(two.settings, "articles")
    merged = command.merge(two.settings, ["heads"], "together")
    two.revision("fake-b" if merged_at == "first" else "fake-a", "behind it", "papers")
    before = set(command.current(two.settings).split())

    told = {entry["collection"]: entry for entry in two.upgrade()}

    assert told["articles"]["held"]
    papers = told["papers"]
    assert (papers["state"], papers["live"]) == ("ready", False), "its cut-over is behind the merge"
    assert set(command.current(two.settings).split()) == before, "nor a row of it: it would wait"
    command.resume(two.settings, "articles")
    two.upgrade()
    assert two.status("articles")["live"] and two.status("papers")["live"]
    assert two.upgrade() == [] and merged


def test_below_a_merge_a_collection_goes_on_without_the_one_that_is_held(two: Workspace) -> None:
    command.merge(two.settings, ["heads"], "together")
    command.pause(two.settings, "articles")

    result = command.upgrade(two.settings)

    assert (two.live("articles"), two.live("papers")) == (None, "fake-a")
    assert len(result["applied"]) == 1, "neither articles nor the merge"
    command.resume(two.settings, "articles")
    assert len(command.upgrade(two.settings)["applied"]) == 2


@pytest.mark.parametrize("wanted", [requests.Wanted.PAUSE, requests.Wanted.CANCEL])
def test_what_is_asked_while_the_walk_is_under_way_stops_its_own_collection_only(
    two: Workspace, monkeypatch: pytest.MonkeyPatch, wanted: requests.Wanted
) -> None:
    reembed = UpgradeWalk.reembed

    def ask_first(self: UpgradeWalk, context: Any, operation: ReembedOp) -> None:
        if operation.collection == "articles":
            requests.file(context.connection, "articles", wanted, "wait", None)
            context.connection.commit()
            context.connection.begin()
        reembed(self, context, operation)

    monkeypatch.setattr(UpgradeWalk, "reembed", ask_first)
    if wanted is requests.Wanted.PAUSE:
        result: Any = command.upgrade(two.settings)
    else:
        with pytest.raises(StickyState, match="cancelled") as refusal:
            command.upgrade(two.settings)
        result = refusal.value.result

    assert (two.live("articles"), two.live("papers")) == (None, "fake-a")
    states = {entry["collection"]: entry["state"] for entry in result["collections"]}
    assert states["articles"] == ("paused" if wanted is requests.Wanted.PAUSE else "cancelled")
    assert len(result["applied"]) == 1


def test_of_a_block_no_row_is_written_when_it_is_paused_before_the_walk(
    moving: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving.revision("fake-a", "and back")
    walk = forward._walk

    def ask_first(*args: Any) -> list[str]:
        command.pause(moving.settings, "articles")
        return walk(*args)

    monkeypatch.setattr("embedmigrate.command.controlling.PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(forward, "_walk", ask_first)
    before = command.current(moving.settings)

    result = command.upgrade(moving.settings)

    assert result["applied"] == [] and command.current(moving.settings) == before
    assert moving.status()["live"]["generation"] == 1


def test_what_is_asked_while_the_last_check_is_made_is_seen_before_the_lock_is_free(
    moving: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*args: Any) -> Any:
        command.pause(moving.settings, "articles")
        return verify(*args)

    verify = prepare._Preparation._finish
    monkeypatch.setattr("embedmigrate.command.controlling.PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(prepare._Preparation, "_finish", ask)

    assert moving.upgrade(until_ready=True)[0]["state"] == "paused"


def test_why_a_runner_waited_is_not_shown_once_it_is_gone(
    moving: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_half_way(moving, monkeypatch)
    with closing(sqlite3.connect(moving.root / "catalog.db")) as catalog, catalog:
        catalog.execute("UPDATE embedmigrate_run SET waiting = 'the queue is long'")

    assert moving.status()["waiting"] is None
    moving.upgrade()
    with Catalog(moving.settings.catalog_url) as opened, opened.read() as connection:
        run_now = runs.latest(connection, "articles")
    assert run_now is not None and run_now.waiting is None


# -- limits -----------------------------------------------------------------------------------


def hours_from_now(hours: float) -> str:
    """A window of half an hour that begins so many hours from now."""
    start, end = (time.gmtime(time.time() + 3600 * at) for at in (hours, hours + 0.5))
    return f"{start.tm_hour:02}:{start.tm_min:02}-{end.tm_hour:02}:{end.tm_min:02} UTC"


def test_outside_its_window_an_upgrade_ends_before_anything_is_loaded(two: Workspace) -> None:
    before = two.snapshot()
    for script in (two.root / "migrations" / "versions").glob("*.py"):
        script.write_text("raise RuntimeError('loaded')")
    changed = two.snapshot()

    answer = run(two.root, "upgrade", "--window", hours_from_now(6))

    assert answer.code == 7 and "not within the window" in answer.err
    assert two.snapshot() == changed != before, "no catalog was made"
    assert run(two.root, "upgrade", "--stop-ok", "--window", hours_from_now(6)).code == 0
    assert run(two.root, "upgrade", "--window", "at night").code == 2


def test_inside_its_window_an_upgrade_works(two: Workspace) -> None:
    assert run(two.root, "upgrade", "--window", hours_from_now(-0.25)).code == 0
    assert two.live() == "fake-a"


def test_when_time_is_over_what_is_ready_is_cut_over_by_the_next_run(
    moving: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("embedmigrate.engine.limits.time.monotonic", lambda: clock[0])
    walk = forward._walk

    def too_late(*args: Any) -> list[str]:
        clock[0] = 1e9
        return walk(*args)

    with monkeypatch.context() as patched:
        patched.setattr(forward, "_walk", too_late)
        with pytest.raises(Stopped, match="10 minutes are over"):
            moving.upgrade(max_minutes=10)

    assert moving.live() == "fake-b", "a cut-over that was begun is not broken off"
    moving.upgrade()
    assert moving.upgrade() == []


# -- configuration ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        'url = "ftp://example.org/s3cret"',
        'url = "file:///etc/s3cret"',
        'url = "http://:80/s3cret"',
        'url = "http://example.org:99999/s3cret"',
        'url = "http://example.org/a s3cret"',
        'url = "s3cret"',
        'command = "echo s3cret"',
        "command = []",
        "documents_per_second = 0",
        "documents_per_second = inf",
        "timeout_seconds = 0",
    ],
)
def test_a_throttle_that_cannot_be_meant_is_refused_without_being_shown(
    moving: Workspace, line: str
) -> None:
    moving.edit_config(
        "[collections.articles.source]",
        f"[collections.articles.throttle]\n{line}\n\n[collections.articles.source]",
    )
    with pytest.raises(ConfigError) as refusal:
        load_settings(moving.root / "embedmigrate.toml")
    key = line.partition(" ")[0]
    assert f"collections.articles.throttle.{key}" in str(refusal.value)
    assert "s3cret" not in str(refusal.value)


def test_the_url_of_a_throttle_is_not_shown_with_the_settings(
    moving: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOAD_PASSWORD", "s3cret")
    moving.edit_config(
        "[collections.articles.source]",
        '[collections.articles.throttle]\nurl = "https://ada:${LOAD_PASSWORD}@example.org/load"\n\n'
        "[collections.articles.source]",
    )
    assert "s3cret" not in repr(moving.settings)


def test_a_cutover_is_automatic_or_manual(moving: Workspace) -> None:
    moving.edit_config("[collections.articles]", '[collections.articles]\ncutover = "sometimes"')
    with pytest.raises(ConfigError, match=r"collections\.articles\.cutover"):
        load_settings(moving.root / "embedmigrate.toml")


# -- the command line -------------------------------------------------------------------------


def test_each_command_says_what_it_did(moving: Workspace) -> None:
    def say(*args: str) -> str:
        answer = run(moving.root, *args)
        assert (answer.code, answer.err) == (0, "")
        return answer.out

    assert "nothing is being built, and nothing is asked" in say("cancel", "articles")
    moving.upgrade(until_ready=True)
    assert "articles: paused by " in say("pause", "articles", "--reason", "why not")
    assert "asked:    pause, by " in say("status") and "paused, 40 of 40" in say("status")
    assert "embedmigrate upgrade carries it on" in say("resume", "articles")
    assert "is cancelled (too dear)" in say("cancel", "articles", "--reason", "too dear")
    assert "dropped articles-0002" in say("cancel", "articles", "--drop")
    assert json.loads(say("resume", "articles", "--json"))["collections"][0]["changed"] is False
    assert run(moving.root, "pause", "nonsense").code == 2


def test_a_look_at_a_busy_catalog_is_not_the_end(
    moving: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    obey, busy = requests.obey, [True] * 5

    def sometimes(*args: Any) -> None:
        if busy:
            busy.pop()
            raise StorageUnavailable("busy")
        obey(*args)

    monkeypatch.setattr(control, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(requests, "obey", sometimes)

    assert moving.upgrade()[0]["live"] and not busy
