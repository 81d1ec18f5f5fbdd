"""The metrics file: valid, whole at every moment, and true."""

from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from embedmigrate import command
from embedmigrate.embedders.base import Vectors
from embedmigrate.embedders.hashing import HashingEmbedder
from embedmigrate.errors import Refused, UsageError
from embedmigrate.metrics import file as metrics_module
from embedmigrate.metrics import metrics_file
from tests.command_line import run
from tests.workspace import ARTICLES, Workspace, documents, wait_for

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def project(faking: Workspace) -> Workspace:
    return faking


def values(path: Path) -> Values:
    """What a file says, by name (without its prefix) and labels; it has to be valid."""
    text = path.read_text("utf-8")
    assert_good_style(text)
    found: Values = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name.removeprefix("embedmigrate_"), frozenset(sample.labels.items())
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def assert_good_style(text: str) -> None:
    """What ``promtool check metrics`` asks for, beyond what the parser does."""
    assert text.endswith("\n")
    helped = re.findall(r"^# HELP (\S+) \S", text, re.MULTILINE)
    typed = dict(re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE))
    assert helped == list(typed), "each has one help and one type, together"
    for name, kind in typed.items():
        assert re.fullmatch(r"embedmigrate_[a-z]+(_[a-z]+)*", name)
        assert name.endswith("_total") == (kind == "counter")
        assert not re.search(r"_(gauge|milliseconds|minutes|ms|count|sum|bucket)$", name)
    names = set(re.findall(r"^(\w+)[{ ]", text, re.MULTILINE))
    assert names == set(typed)


def of(path: Path, name: str, **labels: str) -> float | None:
    return values(path).get((name, frozenset(labels.items())))


# -- what it says -----------------------------------------------------------------------------


def test_after_an_upgrade_the_file_says_what_was_done(project: Workspace) -> None:
    path = project.root / "embedmigrate.prom"
    before = time.time()

    ended = project.run("--metrics-file", "embedmigrate.prom", "upgrade")

    assert ended.returncode == 0, ended.stderr
    found = values(path)

    def articles(name: str, **labels: str) -> float | None:
        return found.get((name, frozenset({"collection": "articles", **labels}.items())))

    assert articles("generation") == 2 and articles("lag_changes") == 0
    assert articles("run_documents") == articles("run_documents_done") == 40
    assert articles("run_documents_skipped") == articles("run_documents_failed") == 0
    assert articles("run_texts_embedded") == 40
    states = {
        dict(labels)["state"]: value
        for (name, labels), value in found.items()
        if name == "run_state"
    }
    assert sum(states.values()) == states["ready"] == 1 and len(states) == 10
    (info,) = [dict(labels) for name, labels in found if name == "live_info"]
    assert info["index"] == "articles-0002" and info["model"].startswith("fake-b@")
    assert articles("phase_seconds", command="upgrade", phase="embedding") > 0  # type: ignore[operator]
    assert of(path, "last_exit_code", command="upgrade") == 0
    assert of(path, "command_running", command="upgrade") == 0
    for name in ("last_end_timestamp_seconds", "last_success_timestamp_seconds"):
        assert before < (of(path, name, command="upgrade") or 0) <= time.time()
    assert list(project.root.glob("*.prom*")) == [path]


def test_a_lag_is_the_changes_that_the_live_index_does_not_reflect(project: Workspace) -> None:
    with closing(sqlite3.connect(project.root / "catalog.db")) as catalog, catalog:
        catalog.execute("UPDATE embedmigrate_collection SET journal_head = journal_head + 7")
    path = project.root / "m.prom"
    assert (
        run(project.root, "--metrics-file", str(path), "cutover").code == 3
    )  # writes nothing else
    assert of(path, "lag_changes", collection="articles") == 7


def test_dead_letters_are_counted_and_logged(tmp_path: Path) -> None:
    workspace = Workspace.make(
        tmp_path / "project",
        corpus=[*documents(6), {"_id": "poison", "title": "", "text": "POISON", "topic": "x"}],
        collections=ARTICLES.replace('"wordllama"', '"fake-a"'),
        pin=("fake-a",),
    )
    workspace.revision("fake-a")
    path = workspace.root / "m.prom"
    embed = HashingEmbedder.embed_documents

    def poisoned(self: HashingEmbedder, texts: Sequence[str]) -> Vectors:
        if any("POISON" in text for text in texts):
            raise ValueError(texts)
        return embed(self, texts)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(HashingEmbedder, "embed_documents", poisoned)
        answer = run(workspace.root, "--log", "text", "--metrics-file", str(path), "upgrade")

    assert answer.code == 6 and "dead_letters: dead letters" in answer.err
    assert "POISON" not in answer.err
    assert of(path, "dead_letters", collection="articles", index="articles-0001") == 1
    assert of(path, "run_documents_failed", collection="articles") == 1
    assert run(workspace.root, "--metrics-file", str(path), "upgrade", "--retry-failed").code == 0
    assert of(path, "dead_letters", collection="articles", index="articles-0001") == 0


def test_a_failure_keeps_the_time_of_the_last_success(project: Workspace) -> None:
    path = project.root / "m.prom"
    assert run(project.root, "--metrics-file", "m.prom", "upgrade").code == 0
    success = of(path, "last_success_timestamp_seconds", command="upgrade")
    run(project.root, "rollback", "articles")

    assert run(project.root, "--metrics-file", "m.prom", "upgrade").code == 3

    assert of(path, "last_exit_code", command="upgrade") == 3
    assert of(path, "last_success_timestamp_seconds", command="upgrade") == success
    assert (of(path, "last_end_timestamp_seconds", command="upgrade") or 0) > (success or 0)
    assert of(path, "run_state", collection="articles", state="rolled_back") == 1


def test_commands_that_share_a_file_keep_what_the_other_said(project: Workspace) -> None:
    path = project.root / "m.prom"
    run(project.root, "--metrics-file", "m.prom", "upgrade")
    run(project.root, "--metrics-file", "m.prom", "rollback", "articles")

    for name in ("upgrade", "rollback"):
        assert of(path, "last_exit_code", command=name) == 0
    phases = {dict(labels)["command"] for name, labels in values(path) if name == "phase_seconds"}
    assert phases == {"upgrade", "rollback"}
    assert of(path, "generation", collection="articles") == 3


def test_commands_at_the_same_time_lose_nothing_of_each_other(project: Workspace) -> None:
    path = project.root / "m.prom"
    names = [f"c{number}" for number in range(6)]
    body = (
        "import sys\n"
        "from pathlib import Path\n"
        "from embedmigrate.config import load_settings\n"
        "from embedmigrate.metrics import metrics_file\n"
        "settings = load_settings()\n"
        "for round in range(20):\n"
        "    metrics_file(settings, Path('m.prom'), sys.argv[1])._write(round)\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", body, name], cwd=project.root) for name in names
    ]
    assert [it.wait(timeout=60) for it in running] == [0] * 6
    assert [of(path, "last_exit_code", command=name) for name in names] == [19] * 6


def test_a_project_without_a_catalog_has_figures_of_its_command_alone(tmp_path: Path) -> None:
    workspace = Workspace.make(
        tmp_path / "project",
        collections=ARTICLES.replace('"wordllama"', '"fake-a"'),
        pin=("fake-a",),
    )
    assert run(workspace.root, "--metrics-file", "m.prom", "rollback", "articles").code != 0
    found = values(workspace.root / "m.prom")
    assert {name for name, _ in found} == {
        *("command_running", "last_exit_code", "last_end_timestamp_seconds")
    }
    assert not (workspace.root / "catalog.db").exists(), "looking makes nothing"


# -- while it works ---------------------------------------------------------------------------


def test_the_file_is_written_again_while_the_command_works(
    project: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_module, "EVERY_SECONDS", 0.05)
    project.edit_config(
        "[models.wordllama]",
        '[hooks]\non_start = [["sh", "-c", "sleep 0.5; cp m.prom early.prom"]]\n'
        'on_ready = [["sh", "-c", "sleep 0.5; cp m.prom late.prom"]]\n[models.wordllama]',
    )

    run(project.root, "--metrics-file", "m.prom", "upgrade")

    early, late = project.root / "early.prom", project.root / "late.prom"
    for path, state in ((early, "planned"), (late, "ready")):
        assert of(path, "command_running", command="upgrade") == 1
        assert of(path, "run_state", collection="articles", state=state) == 1
        assert of(path, "last_exit_code", command="upgrade") is None
    assert of(late, "run_documents_done", collection="articles") == 40
    assert of(early, "run_documents_done", collection="articles") == 0


def test_a_reader_never_sees_half_a_file(project: Workspace) -> None:
    path, over = project.root / "m.prom", threading.Event()
    metrics = metrics_file(project.settings, path, "upgrade")
    metrics._write(None)
    seen: list[object] = []

    def read() -> None:
        while not over.is_set():
            try:
                seen.append(len(values(path)))
            except Exception as error:
                seen.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(150):
        metrics._write(None)
    over.set()
    reader.join()
    assert len(seen) > 20 and len(set(seen)) == 1


def test_a_command_that_was_killed_is_still_said_to_be_at_work(project: Workspace) -> None:
    project.edit_config(
        "[models.wordllama]", '[hooks]\non_start = [["sleep", "20"]]\n[models.wordllama]'
    )
    running = project.start("--metrics-file", "m.prom", "upgrade")
    wait_for((project.root / "m.prom").exists, lambda there: there)
    running.send_signal(signal.SIGKILL)
    running.communicate()

    assert of(project.root / "m.prom", "command_running", command="upgrade") == 1
    assert of(project.root / "m.prom", "last_exit_code", command="upgrade") is None


# -- where, and where not ---------------------------------------------------------------------


def test_the_place_can_be_configured_and_the_option_comes_first(project: Workspace) -> None:
    project.edit_config("[embedmigrate]", '[embedmigrate]\nmetrics_file = "configured.prom"')
    run(project.root / "migrations", "upgrade")
    assert of(project.root / "configured.prom", "last_exit_code", command="upgrade") == 0
    run(project.root / "migrations", "--metrics-file", "named.prom", "rollback", "articles")
    assert (project.root / "migrations" / "named.prom").exists(), "as any path of a command line"
    assert of(project.root / "configured.prom", "last_exit_code", command="rollback") is None


def test_commands_that_only_look_write_no_metrics(project: Workspace) -> None:
    for name in ("status", "plan", "check", "history"):
        run(project.root, "--metrics-file", "m.prom", name)
    assert not (project.root / "m.prom").exists()


def test_a_file_that_holds_something_else_is_left_alone(project: Workspace) -> None:
    before = project.snapshot()
    answer = run(project.root, "--metrics-file", "embedmigrate.toml", "upgrade")
    assert answer.code == 2 and "holds something else" in answer.err
    assert project.snapshot() == before
    with pytest.raises(UsageError):
        metrics_file(project.settings, project.root / "corpus.jsonl", "upgrade")


@pytest.mark.parametrize("place", ["gone/m.prom", "taken"])
def test_a_file_that_cannot_be_written_is_said_once_and_stops_nothing(
    project: Workspace, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_module, "EVERY_SECONDS", 0.05)
    (project.root / "taken").mkdir()
    path = "taken/m.prom"
    if place == "taken":
        (project.root / "taken" / "m.prom").mkdir()
    else:
        path = place
    project.edit_config(
        "[models.wordllama]", '[hooks]\non_start = [["sleep", "0.3"]]\n[models.wordllama]'
    )
    project.edit_config("[embedmigrate]", f'[embedmigrate]\nmetrics_file = "{path}"')

    answer = run(project.root, "upgrade")

    assert answer.code == 0 and project.live() == "fake-b"
    assert answer.err.count("metrics cannot be written to") == 1
    assert not list(project.root.glob("*.prom*"))


def test_a_broken_file_of_ours_is_written_anew(project: Workspace) -> None:
    path = project.root / "m.prom"
    path.write_text("# HELP embedmigrate_generation x\nembedmigrate_generation{{{\n", "utf-8")
    run(project.root, "--metrics-file", "m.prom", "upgrade")
    assert of(path, "last_exit_code", command="upgrade") == 0


def test_without_the_library_the_extra_is_named(
    project: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.startswith(("prometheus_client", "embedmigrate.metrics.file")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    answer = run(project.root, "--metrics-file", "m.prom", "upgrade")
    assert answer.code == 78 and "pip install 'embedmigrate[metrics]'" in answer.err
    assert project.live() == "fake-a"


def test_the_file_is_not_touched_by_what_else_the_process_measures(
    project: Workspace, tmp_path: Path
) -> None:
    """Neither the default registry nor the multi-process mode of the library plays a part."""
    shared = tmp_path / "shared"
    shared.mkdir()
    ended = project.run("--metrics-file", "m.prom", "upgrade", PROMETHEUS_MULTIPROC_DIR=str(shared))
    assert ended.returncode == 0 and list(shared.iterdir()) == []
    assert "python_info" not in (project.root / "m.prom").read_text("utf-8")
    values(project.root / "m.prom")


def test_labels_that_need_it_are_escaped(project: Workspace) -> None:
    path = project.root / "m.prom"
    name = 'odd "name"\\ with\nlines'
    with metrics_file(project.settings, path, name) as metrics:
        metrics.reporter.phase("articles", 'a "phase"', 3)
    assert of(path, "last_exit_code", command=name) == 0
    metrics_file(project.settings, path, "other")._write(0)
    assert of(path, "last_exit_code", command=name) == 0, "and read again as they were"


def test_a_scheduler_writes_them_around_a_command(project: Workspace) -> None:
    path = project.root / "m.prom"
    with metrics_file(project.settings, path, "nightly") as metrics:
        command.upgrade(project.settings, reporter=metrics.reporter)
    assert of(path, "last_exit_code", command="nightly") == 0
    with pytest.raises(Refused), metrics_file(project.settings, path, "nightly"):
        raise Refused("for a test")
    assert of(path, "last_exit_code", command="nightly") == 3


def test_metrics_hold_no_document_text(project: Workspace) -> None:
    run(project.root, "--metrics-file", "m.prom", "upgrade")
    assert "Telescopes" not in (project.root / "m.prom").read_text("utf-8")
