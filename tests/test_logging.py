"""Logging: what happened, for an operator, once it is true; for machines one object a line."""

from __future__ import annotations

import json
import logging
import re
import signal
import time
import warnings
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from embedmigrate import command, logs
from embedmigrate.catalog import Catalog, events, schema
from embedmigrate.command.project import Project
from embedmigrate.engine.lock import held
from embedmigrate.errors import EmbedMigrateError, FencedOut
from tests.command_line import run
from tests.workspace import ARTICLES, GENERAL, Workspace, documents, wait_for

SECRET_TEXT = "aubergine and swordfish"


@pytest.fixture
def project(faking: Workspace) -> Workspace:
    return faking


def objects(errors: str) -> list[dict[str, Any]]:
    """What standard error says, if every line of it is one JSON object."""
    found = [json.loads(line, parse_constant=pytest.fail) for line in errors.splitlines()]
    assert all(isinstance(it, dict) for it in found)
    return found


def of(found: list[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    return [it for it in found if it["event"] == event]


# -- what is logged ---------------------------------------------------------------------------


def test_an_upgrade_is_one_json_object_a_line_with_facts_as_fields(project: Workspace) -> None:
    ended = project.run("--log", "json", "upgrade")

    found = objects(ended.stderr)
    assert ended.returncode == 0
    assert ended.stdout.startswith("articles: fake-b is live"), "results are no logs"
    for it in found:
        assert list(it)[:5] == ["time", "level", "logger", "event", "message"]
        at = datetime.fromisoformat(it["time"])
        assert it["time"].endswith("Z") and abs(datetime.now(UTC) - at) < timedelta(minutes=5)
        assert it["logger"].startswith("embedmigrate.")
    moves = [(it["from"], it["to"]) for it in of(found, "run_state")]
    states = ["planned", "backfilling", "catching_up", "building", "verifying", "ready"]
    assert moves == list(pairwise(states))
    (switch,) = of(found, "cut_over")
    assert switch | {"collection": "articles", "run": 2, "generation": 2} == switch
    assert (switch["from"], switch["to"]) == ("articles-0001", "articles-0002")
    assert (
        of(found, "run_state")[-1] | {"done": 40, "total": 40, "embedded": 40}
        == of(found, "run_state")[-1]
    )
    assert {it["revision"] for it in found if "revision" in it} == {switch["revision"]}
    (end,) = of(found, "command_ended")
    assert (end["command"], end["exit_code"]) == ("upgrade", 0) and end["seconds"] > 0


def test_a_rollback_is_logged_with_its_reason(project: Workspace) -> None:
    project.upgrade()
    answer = run(project.root, "--log", "json", "rollback", "articles", "--reason", "worse")
    (event,) = of(objects(answer.err), "rolled_back")
    assert (event["reason"], event["to"]) == ("worse", "articles-0001")


def test_progress_becomes_events_and_the_bar_is_off(project: Workspace) -> None:
    answer = run(project.root, "--log", "json", "upgrade")
    found = objects(answer.err)
    assert "embedding" in [it["phase"] for it in of(found, "phase")]
    (progress,) = of(found, "progress")
    assert (progress["done"], progress["total"], progress["phase"]) == (40, 40, "embedding")
    assert progress["rate"] > 0


def test_a_discarded_window_and_a_lost_lock_are_warnings(
    project: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    with Catalog(project.settings.catalog_url) as catalog:
        caplog.set_level(logging.INFO)
        with catalog.write() as connection:
            events.record(connection, "window_discarded", "articles", {"batches": 3}, run_id=2)
            events.record(connection, "run_started", "articles", {}, run_id=2)
        job = Project(project.settings).job("articles")
        with pytest.raises(FencedOut), held(replace(job, lease_seconds=0.2)):
            with catalog.write() as connection:
                connection.execute(schema.lease.update().values(epoch=99))
            wait_for(lambda: logged(caplog), lambda said: "lock_lost" in said)
    levels = {
        vars(record)["event"]: record.levelname
        for record in caplog.records
        if "event" in vars(record)
    }
    assert levels == {
        "window_discarded": "WARNING",
        "run_started": "INFO",
        "lock_lost": "WARNING",
    }


def test_what_holds_the_work_up_is_logged_once(project: Workspace) -> None:
    project.edit_config(
        "[models.wordllama]",
        '[collections.articles.throttle]\ncommand = ["test", "-e", "go"]\nevery_seconds = 0.1\n'
        "[models.wordllama]",
    )
    running = project.start("--log", "json", "upgrade")
    wait_for(lambda: project.status()["waiting"], bool)
    time.sleep(0.5)
    (project.root / "go").touch()
    _, errors = running.communicate(timeout=60)

    assert running.returncode == 0
    (waited,) = of(objects(errors), "waiting")
    assert waited["collection"] == "articles" and "test" in waited["reason"]


def test_a_pause_is_logged_by_whom_it_stops(project: Workspace) -> None:
    run(project.root, "pause", "articles", "--reason", "month-end")
    answer = run(project.root, "--log", "json", "resume", "articles")
    assert of(objects(answer.err), "resumed")[0]["collection"] == "articles"


# -- only what is true ------------------------------------------------------------------------


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [vars(record)["event"] for record in caplog.records if "event" in vars(record)]


def test_what_is_rolled_back_is_never_logged(
    project: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Catalog(project.settings.catalog_url) as catalog:
        with pytest.raises(ZeroDivisionError), catalog.write() as connection:
            events.record(connection, "cut_over", "articles")
            raise ZeroDivisionError
        assert logged(caplog) == []
        with catalog.write() as connection:
            events.record(connection, "run_started", "articles")
            assert logged(caplog) == [], "not before it is committed"
    assert logged(caplog) == ["run_started"]


def test_what_cannot_be_committed_is_never_logged(
    project: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Catalog(project.settings.catalog_url) as catalog:
        with catalog.write() as connection:
            connection.exec_driver_sql("CREATE TABLE a (id INTEGER PRIMARY KEY)")
            connection.exec_driver_sql(
                "CREATE TABLE b (a INTEGER REFERENCES a (id) DEFERRABLE INITIALLY DEFERRED)"
            )
        with pytest.raises(sa.exc.IntegrityError), catalog.write() as connection:
            events.record(connection, "cut_over", "articles")
            connection.exec_driver_sql("INSERT INTO b VALUES (1)")  # fails at COMMIT
    assert logged(caplog) == []


def test_a_cut_over_inside_alembics_transaction_is_logged_behind_it(
    project: Workspace, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    seen: list[str | None] = []
    say = logs.say

    def asking(logger: Any, level: int, event: str, *rest: Any) -> None:
        if event == "cut_over":
            seen.append(project.live())  # another connection, which sees what is committed
        say(logger, level, event, *rest)

    monkeypatch.setattr("embedmigrate.catalog.announcing.say", asking)
    project.upgrade()
    assert seen == ["fake-b"]


# -- errors -----------------------------------------------------------------------------------


def test_an_error_is_a_line_with_what_to_type_next(project: Workspace) -> None:
    project.upgrade()
    run(project.root, "rollback", "articles")

    answer = run(project.root, "--log", "json", "upgrade")

    (error,) = of(objects(answer.err), "error")
    assert (error["level"], error["error"], error["exit_code"]) == ("error", "StickyState", 3)
    assert error["next"].startswith("embedmigrate upgrade ") and error["found"]
    assert of(objects(answer.err), "command_ended")[0]["exit_code"] == answer.code == 3


@pytest.mark.parametrize(
    "args",
    [
        ("upgrade", "--nonsense"),
        ("nonsense",),
        ("search", "nope", "text"),
        ("upgrade", "--sql"),
        ("-c", "gone.toml", "status"),
        ("--metrics-file", "embedmigrate.toml", "upgrade"),
    ],
    ids=" ".join,
)
def test_whatever_ends_a_command_is_said_in_json(project: Workspace, args: tuple[str, ...]) -> None:
    ended = project.run("--log", "json", *args)
    assert objects(ended.stderr)
    assert of(objects(ended.stderr), "command_ended")[0]["exit_code"] == ended.returncode


def test_of_an_unexpected_failure_the_place_is_logged_and_not_what_it_quotes(
    project: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_args: object, **_more: object) -> None:
        raise ZeroDivisionError(SECRET_TEXT)

    monkeypatch.setattr("embedmigrate.command.status", fails)

    answer = run(project.root, "--log", "json", "status")

    assert answer.code == 1
    (error,) = of(objects(answer.err), "error")
    assert error["error"] == "ZeroDivisionError" and "test_logging.py" in error["stack"][-1]
    assert SECRET_TEXT not in answer.err


def test_a_signal_ends_with_json_as_well(tmp_path: Path) -> None:
    collections = ARTICLES.replace('"wordllama"', '"fake-a"')
    workspace = Workspace.make(
        tmp_path / "project",
        corpus=documents(2000),
        collections=collections,
        general=GENERAL + "batch_size = 8\n",
        pin=("fake-a",),
    )
    workspace.revision("fake-a")
    running = workspace.start("--log", "json", "upgrade")
    wait_for(lambda: _done(workspace), lambda done: done > 0)
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=60)

    assert running.returncode == 7
    (error,) = of(objects(errors), "error")
    assert (error["error"], error["message"]) == ("Stopped", "stopped: SIGTERM")


def _done(workspace: Workspace) -> int:
    try:
        shadow = workspace.status()["shadow"]
    except EmbedMigrateError:
        return 0
    return int(shadow["done"]) if shadow else 0


# -- how it is shown --------------------------------------------------------------------------


def test_text_is_a_line_an_event_with_time_and_level(project: Workspace) -> None:
    answer = run(project.root, "--log", "text", "upgrade")
    for line in answer.err.splitlines():
        assert re.match(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{3}Z (info|warning|error) +\w+: ", line), line
    assert "cut_over: articles: cut over collection=articles run=2" in answer.err


def test_a_line_of_text_stays_one_line_and_cannot_move_the_cursor(
    capsys: pytest.CaptureFixture[str],
) -> None:
    end = logs.start("text", "info")
    try:
        logger = logging.getLogger("embedmigrate.test")
        logs.say(logger, logging.WARNING, "odd", "a\nb\x1b[2J", {"reason": "c\nd e\x1b[2J", "n": 1})
    finally:
        end()
    (line,) = capsys.readouterr().err.splitlines()
    assert "\x1b" not in line and r"odd: a\nb\x1b[2J reason=" in line and line.endswith(" n=1")


def test_the_level_leaves_out_what_is_below(project: Workspace) -> None:
    project.edit_config("[models.wordllama]", '[hooks]\non_ready = [["false"]]\n[models.wordllama]')
    answer = run(project.root, "--log", "json", "--log-level", "warning", "upgrade")
    assert [it["event"] for it in objects(answer.err)] == ["hook_failed"]
    project.edit_config('[["false"]]', "[]")
    assert run(project.root, "--log-level", "error", "plan").err == ""


def test_quiet_says_nothing_but_warnings(project: Workspace) -> None:
    project.edit_config("[models.wordllama]", '[hooks]\non_ready = [["false"]]\n[models.wordllama]')
    answer = run(project.root, "-q", "upgrade")
    (line,) = answer.err.splitlines()
    assert line.startswith("articles: hook failed") and 'reason="exit status 1"' in line


def test_without_log_nothing_is_said_twice(project: Workspace) -> None:
    project.edit_config("[models.wordllama]", '[hooks]\non_ready = [["false"]]\n[models.wordllama]')
    answer = run(project.root, "upgrade")
    assert answer.err.count("exit status 1") == 1 and "run_state" not in answer.err


def test_figures_that_json_does_not_know_and_foreign_warnings_are_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    end = logs.start("json", "debug")
    try:
        logger = logging.getLogger("embedmigrate.test")
        logs.say(logger, logging.DEBUG, "odd", "it\nis", {"rate": float("nan"), "time": 3, "x": []})
        logging.getLogger("somebody.else").warning("beware")
        logging.getLogger("somebody.else").info("chatter")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old", stacklevel=1)
    finally:
        end()
    odd, beware, old = objects(capsys.readouterr().err)
    assert (odd["rate"], odd["message"]) == ("nan", "it\nis") and "x" not in odd
    assert odd["time"] != 3
    assert (beware["message"], beware["level"]) == ("beware", "warning")
    assert old["logger"] == "py.warnings"


def test_logging_ends_with_the_command(project: Workspace) -> None:
    before = list(logging.getLogger().handlers), logging.getLogger("embedmigrate").level
    run(project.root, "--log", "json", "--log-level", "debug", "status")
    run(project.root, "--log", "json", "nonsense")
    run(project.root, "status")
    after = list(logging.getLogger().handlers), logging.getLogger("embedmigrate").level
    assert after == before


# -- never ------------------------------------------------------------------------------------


def test_no_log_holds_the_text_of_a_document(project: Workspace) -> None:
    corpus = [
        {"_id": f"d{number}", "title": SECRET_TEXT, "text": f"{number}", "topic": "x"}
        for number in range(9)
    ]
    project.write_corpus(corpus)
    said = run(project.root, "--log", "json", "--log-level", "debug", "upgrade", "--yes").err
    project.write_corpus([*corpus, corpus[0]])
    said += run(project.root, "--log", "json", "--log-level", "debug", "rollback", "articles").err
    said += run(project.root, "--log", "json", "search", "articles", SECRET_TEXT).err
    project.write_corpus([{**corpus[0], "text": {"a": SECRET_TEXT}}])
    said += run(project.root, "--log", "json", "verify").err

    assert len(of(objects(said), "error")) == 2 and of(objects(said), "cut_over")
    assert SECRET_TEXT not in said


def test_a_scheduler_that_configures_logging_itself_hears_events(
    project: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    command.upgrade(project.settings)
    assert "cut_over" in logged(caplog)
    (record,) = [it for it in caplog.records if vars(it).get("event") == "cut_over"]
    assert vars(record)["fields"]["generation"] == 2
