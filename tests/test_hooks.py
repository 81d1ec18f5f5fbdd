"""Hooks: what an operator has run when something happens, and the one that may say no."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedmigrate import command
from embedmigrate.command.project import Project
from embedmigrate.config import load_settings
from embedmigrate.embedders.local import LocalEmbedder
from embedmigrate.engine.job import StopSignal
from embedmigrate.engine.lock import held
from embedmigrate.engine.verify import Finding
from embedmigrate.errors import ConfigError, LockHeld, Stopped, VerificationFailed, Vetoed
from embedmigrate.hooks.runner import HookRunner
from tests.command_line import run
from tests.workspace import ARTICLES, Workspace, wait_for

EVENTS = (
    *("on_start", "on_ready", "before_cutover", "after_cutover"),
    *("on_rollback", "on_drift", "on_failure"),
)
WRITES = """
import json, sys
with open("told", "a") as file:
    file.write(json.dumps(json.load(sys.stdin)) + "\\n")
"""
PYTHON = json.dumps(sys.executable)


def project(root: Path, hooks: str = "", own: str = "", collections: str = ARTICLES) -> Workspace:
    """A project whose every hook writes down what it is told, except for what ``hooks`` says."""
    named = {line.partition("=")[0].strip() for line in hooks.splitlines()}
    telling = [f'{name} = [[{PYTHON}, "tell.py"]]' for name in EVENTS if name not in named]
    table = "\n".join(["\n[hooks]", *telling, hooks, ""])
    workspace = Workspace.make(
        root,
        collections=collections.replace('"wordllama"', '"fake-a"') + table + own,
        pin=("fake-a", "fake-b"),
    )
    (root / "tell.py").write_text(WRITES, "utf-8")
    return workspace


def told(workspace: Workspace) -> list[dict[str, Any]]:
    path = workspace.root / "told"
    return (
        [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    )


def heard(workspace: Workspace) -> list[str]:
    """The events that were told since the last time."""
    found = [data["event"] for data in told(workspace)]
    (workspace.root / "told").unlink(missing_ok=True)
    return found


def live(root: Path, hooks: str = "", **more: str) -> Workspace:
    """The same with `fake-a` live, a revision to `fake-b` pending, and nothing told yet."""
    workspace = project(root, hooks, **more)
    (root / "go").touch()
    workspace.revision("fake-a", "first")
    workspace.upgrade()
    workspace.revision("fake-b", "second")
    heard(workspace)
    (root / "go").unlink()
    return workspace


# -- what is told -----------------------------------------------------------------------------


def test_every_step_of_an_upgrade_is_told_once_and_in_order(tmp_path: Path) -> None:
    workspace = live(tmp_path / "project")

    ended = workspace.run("upgrade")

    assert ended.returncode == 0, ended.stderr
    documents = told(workspace)
    assert [data["event"] for data in documents] == [
        *("on_start", "on_ready", "before_cutover", "after_cutover")
    ]
    after = documents[-1]
    reference = {name: after[name]["model"].partition("@")[0] for name in ("from", "to")}
    assert reference == {"from": "fake-a", "to": "fake-b"}
    assert [after[name]["index"] for name in ("from", "to")] == ["articles-0001", "articles-0002"]
    assert (after["collection"], after["run"], after["generation"]) == ("articles", 2, 2)
    assert after["counts"] == {
        **{"total": 40, "done": 40, "skipped": 0, "failed": 0},
        "embedded": 40,
    }
    assert after["time"].endswith("Z") and "@" in after["actor"] and len(after["revision"]) == 12
    assert {data["run"] for data in documents} == {2}


def test_nothing_to_do_and_a_cutover_of_what_is_ready_start_nothing(tmp_path: Path) -> None:
    workspace = live(tmp_path / "project")

    run(workspace.root, "upgrade", "--until", "ready")
    assert heard(workspace) == ["on_start", "on_ready"]
    run(workspace.root, "cutover")
    assert heard(workspace) == ["before_cutover", "after_cutover"]
    run(workspace.root, "upgrade")
    assert heard(workspace) == []


def test_a_rollback_is_told_with_its_reason(tmp_path: Path) -> None:
    workspace = live(tmp_path / "project")
    workspace.upgrade()
    heard(workspace)

    run(workspace.root, "rollback", "articles", "--reason", "worse on long queries")

    (data,) = told(workspace)
    assert (data["event"], data["reason"]) == ("on_rollback", "worse on long queries")
    assert [data[name]["index"] for name in ("from", "to")] == ["articles-0002", "articles-0001"]
    assert data["generation"] == 3


def test_a_rollback_without_scripts_and_a_downgrade_are_told_as_well(tmp_path: Path) -> None:
    workspace = live(tmp_path / "project")
    workspace.upgrade()
    heard(workspace)
    for script in (workspace.root / "migrations" / "versions").glob("*.py"):
        script.rename(script.with_suffix(".away"))

    assert run(workspace.root, "rollback", "articles").code == 0
    assert heard(workspace) == ["on_rollback"]

    for script in (workspace.root / "migrations" / "versions").glob("*.away"):
        script.rename(script.with_suffix(".py"))
    assert run(workspace.root, "downgrade", "articles@-1").code == 0
    (data,) = told(workspace)
    assert data["to"] == {"index": None, "model": None}


def test_a_failure_is_told_once_with_the_status_and_the_next_command(tmp_path: Path) -> None:
    workspace = live(tmp_path / "project")
    workspace.write_corpus([{"_id": "one", "title": "", "text": "only", "topic": "x"}] * 2)

    answer = run(workspace.root, "upgrade")

    (data,) = told(workspace)
    assert data["event"] == "on_failure" and data["error"]["exit_code"] == answer.code == 3
    assert data["collection"] == "articles" and data["error"]["kind"] == "DuplicateId"
    assert f"next:     {data['error']['next_step']}" in answer.err


def test_of_an_error_that_nobody_expected_only_the_class_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = live(tmp_path / "project")

    def fails(self: object) -> None:
        raise ZeroDivisionError("whatever it quotes")

    monkeypatch.setattr("embedmigrate.engine.prepare._Preparation._catch_up", fails)
    with pytest.raises(ZeroDivisionError):
        workspace.upgrade()

    data = told(workspace)[-1]
    assert data["event"] == "on_failure"
    assert data["error"]["message"] == "unexpected failure"
    assert data["error"]["kind"] == "ZeroDivisionError"
    assert "quotes" not in json.dumps(data)


def test_another_runner_and_a_stop_are_no_failures(tmp_path: Path) -> None:
    workspace = live(tmp_path / "project")
    with (
        Project(workspace.settings) as other,
        held(other.job("articles")),
        pytest.raises(LockHeld),
    ):
        workspace.upgrade()
    assert heard(workspace) == []

    stop = StopSignal()
    stop.set("a test")
    with pytest.raises(Stopped):
        workspace.upgrade(stop=stop)
    assert heard(workspace) == []


def test_a_model_that_drifted_is_told_by_drift_and_by_an_upgrade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace.make(
        tmp_path / "project",
        collections=ARTICLES + f'\n[hooks]\non_drift = [[{PYTHON}, "tell.py"]]\n',
        pin=("wordllama", "wordllama-64"),
    )
    (workspace.root / "tell.py").write_text(WRITES, "utf-8")
    workspace.revision("wordllama")
    answer = LocalEmbedder._answer
    monkeypatch.setattr(
        LocalEmbedder,
        "_answer",
        lambda self, *args: np.ascontiguousarray(answer(self, *args)[:, ::-1]),
    )

    assert run(workspace.root, "drift").code == 3
    used, unused = told(workspace)
    assert (used["collection"], unused["collection"]) == ("articles", None)
    assert "canaries" in used["error"]["found"]
    heard(workspace)
    assert run(workspace.root, "upgrade").code == 3
    assert heard(workspace) == ["on_drift"]


def test_no_hook_is_told_the_text_of_a_document(tmp_path: Path) -> None:
    workspace = live(tmp_path / "project")
    corpus = [
        {"_id": f"d{number}", "title": "aubergine", "text": "swordfish", "topic": "x"}
        for number in range(8)
    ]
    workspace.write_corpus(corpus)
    run(workspace.root, "upgrade", "--yes")
    run(workspace.root, "rollback", "articles", "--yes")
    workspace.write_corpus([*corpus, {**corpus[0], "topic": {"a": ["swordfish"]}}])
    run(workspace.root, "upgrade", "--yes", "--again", "why not")

    said = (workspace.root / "told").read_text("utf-8")
    assert "after_cutover" in said and "on_rollback" in said and "on_failure" in said
    assert "aubergine" not in said and "swordfish" not in said


# -- the veto ---------------------------------------------------------------------------------

CHECKS = """
import os, sys, time
def falsely(data): return False
def saying(data): return "the quarter closes"
def raising(data): raise LookupError("the quarter closes")
def leaving(data): sys.exit(4)
def sleeping(data): time.sleep(60)
def loud(data):
    print("noise", flush=True)
    print("noise", file=sys.stderr, flush=True)
    os.write(2, b"noise")
    return "the quarter closes"
def fine(data): return None
def also_fine(data): return True
"""


@pytest.mark.parametrize(
    ("hook", "reason"),
    [
        ('["sh", "-c", "echo the quarter closes >&2; exit 1"]', "the quarter closes"),
        (
            '["sh", "-c", "echo progress; echo the quarter closes >&2; exit 1"]',
            "the quarter closes",
        ),
        ('["sh", "-c", "echo; echo the quarter closes; exit 2"]', "the quarter closes"),
        ('["false"]', "exit status 1"),
        ('["sh", "-c", "kill -9 $$"]', "killed by SIGKILL"),
        ('["no-such-program"]', "cannot be started: No such file or directory"),
        ('["tell.py"]', "cannot be started: "),
        ('["sleep", "60"]', "killed after 1."),
        ('"checks:falsely"', "answered False"),
        ('"checks:saying"', "the quarter closes"),
        ('"checks:raising"', "LookupError: the quarter closes"),
        ('"checks:leaving"', "exit status 4"),
        ('"checks:sleeping"', "killed after 1."),
        ('"checks:loud"', "the quarter closes"),
        ('"checks:missing"', "AttributeError"),
        ('"nowhere.checks:missing"', "ModuleNotFoundError"),
    ],
)
def test_whatever_does_not_say_yes_vetoes(tmp_path: Path, hook: str, reason: str) -> None:
    workspace = project(tmp_path / "project", f"before_cutover = [{hook}]\ntimeout = 1.2")
    (workspace.root / "checks.py").write_text(CHECKS, "utf-8")
    workspace.revision("fake-a")

    with pytest.raises(Vetoed) as veto:
        workspace.upgrade()

    assert str(veto.value.found).startswith(reason)
    assert workspace.live() is None


@pytest.mark.parametrize("hook", ['["true"]', '"checks:fine"', '"checks:also_fine"'])
def test_what_says_yes_lets_it_pass(tmp_path: Path, hook: str) -> None:
    workspace = project(tmp_path / "project", f"before_cutover = [{hook}]")
    (workspace.root / "checks.py").write_text(CHECKS, "utf-8")
    workspace.revision("fake-a")
    workspace.upgrade()
    assert workspace.live() == "fake-a"


def test_a_veto_exits_3_and_leaves_the_run_ready(tmp_path: Path) -> None:
    asks = '["sh", "-c", "test -e go || { echo freeze until Monday >&2; exit 1; }"]'
    workspace = live(tmp_path / "project", f"before_cutover = [{asks}]")

    ended = workspace.run("upgrade")

    assert ended.returncode == 3
    assert "the hook sh does not let 'articles' be cut over" in ended.stderr
    assert "freeze until Monday" in ended.stderr
    status = workspace.status()
    assert (status["live"]["model"], status["shadow"]["state"]) == ("fake-a", "ready")
    assert heard(workspace) == ["on_start", "on_ready", "on_failure"]

    (workspace.root / "go").touch()
    (entry,) = command.cutover(workspace.settings)["collections"]
    assert (entry["live"], entry["embedded"]) == (True, 40), "embedded by the first command"
    assert heard(workspace) == ["after_cutover"]


def test_the_next_step_that_a_veto_names_is_right(tmp_path: Path) -> None:
    workspace = live(tmp_path / "project", 'before_cutover = [["test", "-e", "go"]]')
    with pytest.raises(Vetoed) as veto:
        workspace.upgrade()
    (workspace.root / "go").touch()
    program, *words = str(veto.value.next_step).partition(",")[0].split()
    assert program == "embedmigrate" and run(workspace.root, *words).code == 0
    assert workspace.live() == "fake-b"


def test_a_veto_keeps_no_other_collection_from_being_cut_over(tmp_path: Path) -> None:
    papers = ARTICLES.replace("collections.articles", "collections.papers")
    own = '\n[collections.papers.hooks]\nbefore_cutover = [["false"]]\n'
    workspace = project(tmp_path / "project", own=own, collections=ARTICLES + papers)
    for name in ("articles", "papers"):
        workspace.revision("fake-a", collection=name)

    with pytest.raises(Vetoed, match="'papers'"):
        workspace.upgrade()

    assert (workspace.live("articles"), workspace.live("papers")) == ("fake-a", None)
    assert workspace.status("papers")["shadow"]["state"] == "ready"


def test_what_is_left_to_a_person_or_paused_is_asked_when_it_is_switched(tmp_path: Path) -> None:
    workspace = live(tmp_path / "project")
    workspace.edit_config("also_accept", 'cutover = "manual"\nalso_accept')
    run(workspace.root, "upgrade")
    assert heard(workspace) == ["on_start", "on_ready"]
    run(workspace.root, "pause", "articles")
    assert run(workspace.root, "upgrade").code == 0
    assert heard(workspace) == []
    run(workspace.root, "resume", "articles")
    assert run(workspace.root, "cutover").code == 0
    assert heard(workspace)[-2:] == ["before_cutover", "after_cutover"]


def test_a_pause_that_comes_while_a_hook_is_asked_holds_and_no_cut_over_is_told(
    tmp_path: Path,
) -> None:
    pauses = f'before_cutover = [[{PYTHON}, "-m", "embedmigrate", "pause", "articles"]]'
    workspace = project(tmp_path / "project", pauses)
    workspace.revision("fake-a")

    answer = run(workspace.root, "upgrade")

    assert (answer.code, workspace.live()) == (0, None)
    assert heard(workspace) == ["on_start", "on_ready"]


def test_sync_tells_of_its_failures_and_its_worker_of_what_ends_it(tmp_path: Path) -> None:
    workspace = live(tmp_path / "project")
    workspace.write_corpus([{"_id": "one", "title": "", "text": "only", "topic": "x"}] * 2)

    answer = run(workspace.root, "sync")
    assert answer.code == 3 and answer.out.startswith("articles: ")
    assert heard(workspace) == ["on_failure"]
    assert run(workspace.root, "sync", "--follow").code == 3
    (data,) = told(workspace)
    assert (data["collection"], data["error"]["kind"]) == ("articles", "DuplicateId")


def test_a_rollback_asks_nobody(tmp_path: Path) -> None:
    workspace = live(tmp_path / "project")
    workspace.upgrade()
    workspace.edit_config(
        f'before_cutover = [[{PYTHON}, "tell.py"]]', 'before_cutover = [["false"]]'
    )
    assert run(workspace.root, "rollback", "articles").code == 0


def test_the_second_hook_is_not_asked_when_the_first_said_no(tmp_path: Path) -> None:
    workspace = live(
        tmp_path / "project", 'before_cutover = [["test", "-e", "go"], ["touch", "asked"]]'
    )
    (workspace.root / "asked").unlink()
    with pytest.raises(Vetoed):
        workspace.upgrade()
    assert not (workspace.root / "asked").exists()


# -- in nobody's way --------------------------------------------------------------------------


def test_hooks_that_fail_change_nothing_and_are_recorded(tmp_path: Path) -> None:
    broken = '[["sh", "-c", "echo no route to host >&2; exit 7"]]'
    failing = "\n".join(f"{name} = {broken}" for name in EVENTS if name != "before_cutover")
    workspace = live(tmp_path / "project", failing)

    answer = run(workspace.root, "upgrade")
    assert answer.code == 0 and workspace.live() == "fake-b"
    assert "the hook sh (after_cutover) failed: no route to host" in answer.err
    assert run(workspace.root, "rollback", "articles").code == 0

    with closing(sqlite3.connect(workspace.root / "catalog.db")) as catalog:
        rows = catalog.execute("SELECT data FROM embedmigrate_event WHERE kind = 'hook_failed'")
        recorded = [json.loads(row[0]) for row in rows]
    assert [it["on"] for it in recorded][-4:] == [
        *("on_start", "on_ready", "after_cutover", "on_rollback")
    ]
    assert recorded[-1] == recorded[-1] | {"hook": "sh", "reason": "no route to host"}


def test_a_hook_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    slow = 'on_start = [["sh", "-c", "sleep 60 & echo $! > child; wait"]]\ntimeout = 0.5'
    workspace = project(tmp_path / "project", slow)
    workspace.revision("fake-a")

    began = time.monotonic()
    answer = run(workspace.root, "upgrade")

    assert answer.code == 0 and time.monotonic() - began < 20
    assert "the hook sh (on_start) failed: killed after 0.5 s" in answer.err
    child = int((workspace.root / "child").read_text("ascii"))
    wait_for(lambda: is_alive(child), lambda alive: not alive, seconds=5)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def test_a_child_that_goes_on_in_the_background_is_not_waited_for(tmp_path: Path) -> None:
    started = 'on_start = [["sh", "-c", "sleep 60 & echo $! > child"]]'
    workspace = project(tmp_path / "project", started)
    workspace.revision("fake-a")

    began = time.monotonic()
    workspace.upgrade()

    assert time.monotonic() - began < 20
    child = int((workspace.root / "child").read_text("ascii"))
    assert is_alive(child)
    os.kill(child, signal.SIGKILL)


def test_a_hook_that_reads_nothing_and_says_much_does_no_harm(tmp_path: Path) -> None:
    loud = (
        'on_start = [["sh", "-c", "exec <&-; head -c 3000000 /dev/zero | tr \'\\\\0\' x; exit 3"]]'
    )
    workspace = project(tmp_path / "project", loud)
    workspace.revision("fake-a")

    answer = run(workspace.root, "upgrade")

    assert answer.code == 0
    (line,) = [line for line in answer.err.splitlines() if "failed: xxx" in line]
    assert line.endswith("x…") and len(line) < 400


WRITES_TO_THE_CATALOG = """
import json, sqlite3, sys
event = json.load(sys.stdin)["event"]
with sqlite3.connect("catalog.db", timeout=0.2, isolation_level=None) as catalog:
    catalog.execute("BEGIN IMMEDIATE")  # fails while another transaction writes
    catalog.execute("COMMIT")
open(event, "w").close()
"""


def test_no_hook_runs_inside_a_transaction(tmp_path: Path) -> None:
    every = "\n".join(f'{name} = [[{PYTHON}, "writes.py"]]' for name in EVENTS)
    workspace = project(tmp_path / "project", every)
    (workspace.root / "writes.py").write_text(WRITES_TO_THE_CATALOG, "utf-8")
    workspace.revision("fake-a")
    workspace.upgrade()
    workspace.revision("fake-b")
    workspace.upgrade()
    run(workspace.root, "rollback", "articles")
    assert run(workspace.root, "upgrade").code == 3  # on_failure: a person rolled it back

    ran = {name for name in EVENTS if (workspace.root / name).exists()}
    assert ran == set(EVENTS) - {"on_drift"}


def test_what_is_killed_between_cut_over_and_hook_is_not_told_later(tmp_path: Path) -> None:
    workspace = live(tmp_path / "project")
    dies = (
        "import os, signal\n"
        "from embedmigrate import command\n"
        "from embedmigrate.config import load_settings\n"
        "from embedmigrate.hooks.runner import HookRunner\n"
        "tell = HookRunner.tell\n"
        "def die(self, occasion):\n"
        "    if occasion.event == 'after_cutover': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    tell(self, occasion)\n"
        "HookRunner.tell = die\n"
        "command.upgrade(load_settings())\n"
    )

    killed = subprocess.run([sys.executable, "-c", dies], cwd=workspace.root, check=False)

    assert killed.returncode == -signal.SIGKILL and workspace.live() == "fake-b"
    assert heard(workspace) == ["on_start", "on_ready", "before_cutover"]
    assert run(workspace.root, "upgrade").code == 0
    assert heard(workspace) == [], "at most once"


def test_nothing_is_told_twice_by_one_command(tmp_path: Path) -> None:
    workspace = live(tmp_path / "project")
    asked = []
    tell = HookRunner.tell

    def twice(self: HookRunner, occasion: Any) -> None:
        asked.append(occasion.event)
        tell(self, occasion)
        tell(self, occasion)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(HookRunner, "tell", twice)
        workspace.upgrade()

    assert heard(workspace) == asked == [*EVENTS[:4]]


def test_a_stop_ends_a_hook_and_is_no_veto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asks = 'before_cutover = [["sh", "-c", "test -e go || { echo $$ > asked; exec sleep 60; }"]]'
    workspace = live(tmp_path / "project", asks)
    started = workspace.start("upgrade")
    pid = int(wait_for(lambda: _read(workspace.root / "asked"), lambda text: text.endswith("\n")))

    began = time.monotonic()
    started.send_signal(signal.SIGTERM)
    _, errors = started.communicate(timeout=60)

    assert started.returncode == 7, errors
    assert 4 < time.monotonic() - began < 15, "it had a moment to end by itself"
    assert not is_alive(pid)
    assert workspace.status()["shadow"]["state"] == "ready"
    assert "on_failure" not in heard(workspace)


def _read(path: Path) -> str:
    return path.read_text("ascii") if path.exists() else ""


# -- configuration ----------------------------------------------------------------------------


def test_a_collection_replaces_the_hooks_that_it_names_itself(tmp_path: Path) -> None:
    own = '\n[collections.articles.hooks]\non_start = []\non_ready = [["touch", "mine"]]\n'
    workspace = project(tmp_path / "project", own=own)
    workspace.revision("fake-a")

    workspace.upgrade()

    assert heard(workspace) == ["before_cutover", "after_cutover"]
    assert (workspace.root / "mine").exists()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('on_start = ["python", "tell.py"]', "hooks.on_start: a list of hooks"),
        ('on_start = "a.b:c"', "hooks.on_start: a list of hooks"),
        ("on_start = [[]]", "hooks.on_start: a list of hooks"),
        ('on_start = [["a", 1]]', "hooks.on_start: a list of hooks"),
        ('on_start = ["os.system"]', "hooks.on_start: a list of hooks"),
        ('on_start = ["os:sys tem"]', "hooks.on_start: a list of hooks"),
        ("timeout = 0", "hooks.timeout"),
        ("on_finish = []", "hooks.on_finish: unknown key"),
    ],
)
def test_a_mistake_is_found_when_the_configuration_is_read(
    tmp_path: Path, line: str, says: str
) -> None:
    for table, prefix in (
        ("[hooks]", ""),
        ("[collections.articles.hooks]", "collections.articles."),
    ):
        path = tmp_path / "embedmigrate.toml"
        path.write_text(
            ARTICLES + f"\n{table}\n{line}\n\n[models.wordllama]\n"
            'provider = "hashing-not-a-model"\ndimensions = 8\n'
        )
        with pytest.raises(ConfigError) as refusal:
            load_settings(path)
        assert f"{prefix}{says}" in refusal.value.message


def test_what_came_from_the_environment_is_shown_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_TOKEN", "hunter2-hunter2")
    says = '[["sh", "-c", "echo bad token $0 >&2; exit 1", "${HOOK_TOKEN}"]]'
    workspace = project(tmp_path / "project", f"before_cutover = {says}\non_ready = {says}")
    workspace.revision("fake-a")

    answer = run(workspace.root, "--log", "json", "upgrade")

    assert answer.code == 3 and "bad token …" in answer.err
    assert "hunter2" not in answer.err + answer.out + repr(workspace.settings.hooks)
    assert "hunter2" not in (workspace.root / "told").read_text("utf-8")
    assert b"hunter2" not in (workspace.root / "catalog.db").read_bytes()
    with closing(sqlite3.connect(workspace.root / "catalog.db")) as catalog:
        dump = "\n".join(catalog.iterdump())
    assert "bad token" in dump and "hunter2" not in dump


def test_what_a_hook_says_cannot_move_the_cursor(tmp_path: Path) -> None:
    says = 'on_start = [["printf", "x"], ["sh", "-c", "printf \'\\\\033[2Jgone\'; exit 1"]]'
    workspace = project(tmp_path / "project", says)
    workspace.revision("fake-a")
    answer = run(workspace.root, "upgrade")
    assert "\x1b" not in answer.err and "\\x1b[2Jgone" in answer.err


def test_an_index_that_fails_its_verification_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = live(tmp_path / "project")
    broken = Finding(7, "usable", False, {})
    monkeypatch.setattr("embedmigrate.engine.prepare.verify", lambda *_args, **_more: [broken])
    with pytest.raises(VerificationFailed):
        workspace.upgrade()
    assert heard(workspace) == ["on_start", "on_failure"]
