"""pause, resume and cancel from another process than the runner's, in every phase."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from embedmigrate import command
from embedmigrate.command import controlling
from tests.faults.conftest import BATCH, QUERY
from tests.faults.project import EndState, Fault, Faulty, kill_at
from tests.workspace import wait_for

SLOW: Fault = {
    "at": "embedmigrate.engine.embedding:_ask",
    "do": "sleep",
    "with_": 0.2,
    "call": 0,
}
RACES = int(os.environ.get("RACES", "3"))
PHASES = {
    "loading the model": "embedmigrate.engine.job:Job.guard",
    "planning": "embedmigrate.catalog.runs:plan_batches",
    "embedding": "embedmigrate.engine.backfill:embed_documents",
    "catching up": "embedmigrate.engine.follow:note_differences",
    "building": "embedmigrate.stores.faiss.writer:FaissWriter.build",
    "verifying": "embedmigrate.engine.prepare:verify",
    "right before the cut-over": "embedmigrate.command.forward:_walk",
}


def stop_at(at: str) -> Fault:
    return {**kill_at(at), "with_": "SIGSTOP"}


def files_of(project: Faulty, index: str) -> dict[str, bytes]:
    folder = project.root / "indexes" / index
    assert folder.is_dir()
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".db-shm", ".sqlite-shm", ".sqlite-wal")
    }


def answer(project: Faulty, *args: str) -> Any:
    """What a command in a process of its own says in its document."""
    ended = project.run(*args, "--json")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)["collections"][0]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a runner that is held up by the test."""
    monkeypatch.setattr(controlling, "PATIENCE_SECONDS", 0.0)


# -- pause ------------------------------------------------------------------------------------


def test_a_pause_from_another_process_is_seen_between_two_model_calls(
    project: Faulty, undisturbed: EndState
) -> None:
    before = files_of(project, "articles-0001")
    runner = project.begin("upgrade", faults=[{**SLOW, "with_": 0.6}])
    assert runner.wait_for("embedding")
    time.sleep(0.5)

    asked = answer(project, "pause", "articles", "--reason", "the GPU is needed")

    assert (asked["changed"], asked["state"]) == (True, "paused"), "it waited for the runner"
    ended = time.time()
    assert runner.finish() == 0, runner.errors
    assert ended - asked["request"]["at"] < 2.5
    shadow = project.status()["shadow"]
    assert shadow["state"] == "paused" and 0 < shadow["done"] < 200
    assert "the GPU is needed" in shadow["reason"]
    assert project.live() == "fake-a" and files_of(project, "articles-0001") == before

    paid = project.texts_asked()
    for _ in range(2):
        nightly = project.run("upgrade")
        assert nightly.returncode == 0
        assert "articles: paused by " in nightly.stdout and "the GPU is needed" in nightly.stdout
        assert "embedmigrate resume articles" in nightly.stdout
        assert "loading" not in nightly.stderr
    assert project.texts_asked() == paid

    assert answer(project, "resume", "articles")["changed"]
    assert project.status()["shadow"]["state"] == "paused", "the next upgrade carries on"
    project.upgrade()
    assert project.end_state([QUERY]).differences(undisturbed) == []
    assert not project.paid_twice()


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.usefixtures("impatient")
def test_a_pause_in_any_phase_leaves_the_live_index_and_is_resumed(
    project: Faulty, undisturbed: EndState, phase: str
) -> None:
    before = files_of(project, "articles-0001")
    runner = project.begin("upgrade", faults=[stop_at(PHASES[phase])])
    runner.wait_until_stopped()

    (asked,) = command.pause(project.settings, "articles")["collections"]
    assert asked["request"]["wanted"] == "pause" and asked["state"] != "paused"
    runner.send(signal.SIGCONT)

    assert runner.finish() == 0, runner.errors
    status = project.status()
    assert (status["live"]["model"], status["live"]["generation"]) == ("fake-a", 1)
    assert files_of(project, "articles-0001") == before
    if phase == "loading the model":
        assert status["shadow"] is None, "nothing was begun"
    else:
        assert status["shadow"]["state"] == "paused"
    assert project.upgrade()[0]["held"]

    command.resume(project.settings, "articles")
    project.upgrade()

    assert project.end_state([QUERY]).differences(undisturbed) == []
    assert not project.paid_twice()


@pytest.mark.usefixtures("impatient")
def test_a_pause_that_is_taken_back_in_time_stops_nobody(project: Faulty) -> None:
    runner = project.begin("upgrade", faults=[stop_at(PHASES["embedding"])])
    runner.wait_until_stopped()
    command.pause(project.settings, "articles")
    command.resume(project.settings, "articles")
    runner.send(signal.SIGCONT)

    assert runner.finish() == 0
    assert project.live() == "fake-b"


@pytest.mark.usefixtures("impatient")
def test_a_pause_holds_although_its_runner_was_killed_before_it_saw_it(project: Faulty) -> None:
    runner = project.begin("upgrade", faults=[stop_at(PHASES["embedding"])])
    runner.wait_until_stopped()
    command.pause(project.settings, "articles")
    runner.send(signal.SIGKILL)
    runner.finish()

    assert project.upgrade()[0]["held"]
    assert command.pause(project.settings, "articles")["collections"][0]["state"] == "paused"


# -- cancel -----------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.usefixtures("impatient")
def test_a_cancel_in_any_phase_is_sticky_and_its_work_is_used_again(
    project: Faulty, undisturbed: EndState, phase: str
) -> None:
    before = files_of(project, "articles-0001")
    runner = project.begin("upgrade", faults=[stop_at(PHASES[phase])])
    runner.wait_until_stopped()

    command.cancel(project.settings, "articles", reason="the wrong model")
    runner.send(signal.SIGCONT)

    assert runner.finish() == 3, runner.errors
    status = project.status()
    assert (status["live"]["model"], status["live"]["generation"]) == ("fake-a", 1)
    assert status["request"] is None and files_of(project, "articles-0001") == before
    nightly = project.run("upgrade")
    assert nightly.returncode == 3
    assert "was cancelled by a person" in nightly.stderr and "the wrong model" in nightly.stderr

    project.upgrade(again="it was the right one")

    assert project.end_state([QUERY]).differences(undisturbed) == []
    assert not project.paid_twice()


@pytest.mark.usefixtures("impatient")
def test_a_cancel_is_carried_out_although_its_runner_was_killed(project: Faulty) -> None:
    runner = project.begin("upgrade", faults=[stop_at(PHASES["building"])])
    runner.wait_until_stopped()
    (asked,) = command.cancel(project.settings, "articles")["collections"]
    assert asked["request"]["wanted"] == "cancel"
    runner.send(signal.SIGKILL)
    runner.finish()

    assert project.run("upgrade").returncode == 3
    assert project.live() == "fake-a"
    assert project.status()["shadow"]["state"] == "cancelled"


@pytest.mark.usefixtures("impatient")
def test_a_shadow_is_not_dropped_under_a_runner(project: Faulty) -> None:
    runner = project.begin("upgrade", faults=[stop_at(PHASES["embedding"])])
    runner.wait_until_stopped()
    ended = project.run("cancel", "articles", "--drop")
    assert ended.returncode == 75 and "cancel asked of process" in ended.stdout
    assert (project.root / "indexes" / "articles-0002").is_dir()
    runner.send(signal.SIGCONT)
    assert runner.finish() == 3

    assert answer(project, "cancel", "articles", "--drop")["dropped"] == ["articles-0002"]
    assert not (project.root / "indexes" / "articles-0002").exists()


def test_a_cancel_behind_the_cut_over_says_that_there_is_nothing_to_cancel(
    project: Faulty,
) -> None:
    settling = stop_at("embedmigrate.command.project:Project.settle")
    runner = project.begin("upgrade", faults=[settling])
    runner.wait_until_stopped()

    (asked,) = command.cancel(project.settings, "articles")["collections"]
    runner.send(signal.SIGCONT)

    assert (asked["changed"], asked["request"]) == (False, None)
    assert runner.finish() == 0
    assert project.live() == "fake-b"


@pytest.mark.parametrize("seed", range(RACES))
def test_at_a_random_moment_either_the_request_wins_or_the_cut_over(
    project: Faulty, undisturbed: EndState, seed: int
) -> None:
    randomness = random.Random(seed)
    wanted = randomness.choice(["pause", "cancel"])
    runner = project.begin("upgrade", faults=[{**SLOW, "with_": 0.05}])
    assert runner.wait_for("loading")
    time.sleep(randomness.uniform(0, 1.5))

    ask = command.pause if wanted == "pause" else command.cancel
    (asked,) = ask(project.settings, "articles")["collections"]

    status = runner.finish()
    live = project.status()["live"]
    if live["model"] == "fake-b":
        assert status == 0, runner.errors
        assert asked["state"] is None, "whoever asked was told nothing else"
    else:
        assert status == (0 if wanted == "pause" else 3), runner.errors
        begun = project.status()["shadow"] is not None
        if wanted == "cancel" or begun:
            assert asked["state"] == ("paused" if wanted == "pause" else "cancelled")
        assert live["generation"] == 1
    command.resume(project.settings, "articles")
    project.upgrade(again="after all")
    assert project.end_state([QUERY]).differences(undisturbed) == []
    assert not project.paid_twice()


# -- limits and throttle ----------------------------------------------------------------------


def test_a_time_limit_stops_between_two_calls_and_the_same_command_resumes(
    project: Faulty, undisturbed: EndState
) -> None:
    slow: Fault = {**SLOW, "with_": 0.5}
    runner = project.end("upgrade", "--max-minutes", "0.02", faults=[slow])
    assert runner.status == 7, runner.errors
    assert "0.02 minutes are over" in runner.errors
    assert project.live() == "fake-a"
    again = project.end("upgrade", "--max-minutes", "0.02", "--stop-ok", faults=[slow])
    assert again.status == 0 and project.live() == "fake-a"

    project.upgrade(max_minutes=10)

    assert project.end_state([QUERY]).differences(undisturbed) == []
    assert max(project.paid_twice().values(), default=0) <= 2 * BATCH


@pytest.mark.parametrize("how", ["pause", "SIGTERM", "--max-minutes"])
def test_a_throttle_says_why_it_waits_and_keeps_nobody_from_stopping(
    project: Faulty, how: str
) -> None:
    calm = throttled(project)
    limit = ("--max-minutes", "0.05") if how == "--max-minutes" else ()
    runner = project.begin("upgrade", *limit)
    assert runner.wait_for("embedding")
    wait_for_status(project, "throttle command test ended with 1")
    assert "waiting:  throttle command test ended with 1" in project.run("status").stdout

    if how == "pause":
        command.pause(project.settings, "articles")
    elif how == "SIGTERM":
        runner.send(signal.SIGTERM)
    assert runner.finish(15) == (0 if how == "pause" else 7), runner.errors

    assert project.status()["waiting"] is None
    assert project.texts_asked(runner.process.pid) == 0
    command.resume(project.settings, "articles")
    calm.touch()
    project.upgrade()
    assert project.live() == "fake-b"


def test_a_throttle_lets_the_work_go_on_and_takes_its_reason_back(project: Faulty) -> None:
    calm = throttled(project)
    runner = project.begin("upgrade", faults=[SLOW])
    wait_for_status(project, "throttle command test ended with 1")

    calm.touch()
    wait_for_status(project, None)

    assert project.status()["runner"], "it is at work"
    assert runner.finish() == 0
    assert project.live() == "fake-b"


def throttled(project: Faulty) -> Path:
    """Work goes on as soon as the file that is returned exists."""
    project.edit_config(
        "[collections.articles.source]",
        '[collections.articles.throttle]\ncommand = ["test", "-e", "calm"]\nevery_seconds = 0.3\n\n'
        "[collections.articles.source]",
    )
    return project.root / "calm"


def wait_for_status(project: Faulty, waiting: str | None) -> None:
    wait_for(lambda: project.status()["waiting"], lambda found: found == waiting)
