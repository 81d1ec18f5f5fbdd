"""Every example runs, and shows what its README says that it shows."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from embedmigrate import command, errors
from embedmigrate.command.project import Project
from embedmigrate.config import load_settings
from embedmigrate.embedders.local import LocalEmbedder
from embedmigrate.engine.occasion import Occasion
from embedmigrate.hooks.runner import document_of
from embedmigrate.migration import lockfile
from tests.workspace import Workspace, documents, wait_for

EXAMPLES = Path(__file__).parents[1] / "examples"
JOB = EXAMPLES / "03_scheduled_job"
POLICY = EXAMPLES / "04_policy_in_ci"
NOTIFICATIONS = EXAMPLES / "05_notifications"
HOOKS = EXAMPLES.parent / ".pre-commit-hooks.yaml"
NOBODY_HAS_TO_GET_UP = {0, 7, 75}


def run_example(script: str, folder: Path) -> str:
    """What an example prints when it makes its project in ``folder``."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / script, folder],
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_numbered_example_has_a_readme() -> None:
    numbered = sorted(EXAMPLES.glob("[0-9]*"))
    assert [folder.name[:2] for folder in numbered] == ["01", "02", "03", "04", "05", "06"]
    assert all((folder / "README.md").is_file() for folder in numbered)


# -- 01 quickstart ----------------------------------------------------------------------------


@pytest.mark.timeout(900)
def test_the_quickstart_moves_a_collection_between_two_real_models_and_back(tmp_path: Path) -> None:
    project = tmp_path / "project"

    said = run_example("01_quickstart/run.py", project)

    row = re.search(r"^nDCG@10 +(\S+) +(\S+)$", said, re.MULTILINE)
    assert row is not None, said
    # What brute force over the same weights gives: see `reference` in benchmarks/README.md.
    assert [float(value) for value in row.groups()] == pytest.approx([0.7141, 0.8632], abs=1e-3)
    seen = re.findall(r"the application: 100 queries, generation (\d), (\w+)", said)
    assert seen == [("1", "wordllama"), ("2", "minilm"), ("3", "wordllama"), ("4", "minilm")]
    assert "(exit status 3)" in said, "a scheduled upgrade does not undo the rollback"
    assert "(600 documents, 0 skipped, 0 embedded)" in said, "going forward again costs nothing"
    (status,) = command.status(load_settings(project / "embedmigrate.toml"))["collections"]
    assert (status["live"]["model"], status["live"]["documents"]) == ("minilm", 600)
    assert [index["model"] for index in status["retained"]] == ["wordllama"]


def test_the_quickstart_does_not_touch_a_folder_that_exists(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", "utf-8")
    with pytest.raises(AssertionError, match="FileExistsError"):
        run_example("01_quickstart/run.py", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


# -- 02 SQL source ----------------------------------------------------------------------------


def test_an_application_searches_a_sql_table_while_it_is_migrated(tmp_path: Path) -> None:
    said = run_example("02_sql_source/application.py", tmp_path / "project")

    assert re.search(r"^[\d,]+ searches meanwhile, 0 failed$", said, re.MULTILINE), said
    served = re.findall(r"generation (\d): +[\d,]+ answers of (\w+), from (\S+)", said)
    assert served == [
        ("1", "short", "articles-0001"),
        ("2", "long", "articles-0002"),
        ("3", "short", "articles-0001"),
    ]
    for generation in (2, 3):
        assert (
            f"the application, generation {generation}: "
            "new row found, edited row found, deleted row gone" in said
        )


# -- 03 scheduled job -------------------------------------------------------------------------


@dataclass
class Nights:
    """``nightly.sh`` as a scheduler runs it, and the pages that it sends."""

    project: Path
    programs: Path

    @classmethod
    def of(cls, project: Path, programs: Path, program: str) -> Nights:
        programs.mkdir()
        write_program(programs / "embedmigrate", program)
        pages = shlex.quote(str(programs / "pages"))
        write_program(programs / "page", f"printf '%s\\n' \"$1\" >>{pages}")
        return cls(project, programs)

    def environment(self, **more: str) -> dict[str, str]:
        return {
            **os.environ,
            "PROJECT": str(self.project),
            "EMBEDMIGRATE": str(self.programs / "embedmigrate"),
            "PAGE": str(self.programs / "page"),
            **more,
        }

    def run(self, *args: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [JOB / "nightly.sh", *args],
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    @property
    def pages(self) -> list[str]:
        log = self.programs / "pages"
        return log.read_text("utf-8").splitlines() if log.exists() else []


def write_program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n", "utf-8")
    path.chmod(0o755)


@pytest.fixture
def nights(migrated: Workspace, tmp_path: Path) -> Nights:
    """The real program, and a project with a revision that is pending."""
    program = f'exec {shlex.quote(sys.executable)} -m embedmigrate "$@"'
    return Nights.of(migrated.root, tmp_path / "bin", program)


def test_the_job_applies_what_is_pending_and_then_does_nothing(
    nights: Nights, migrated: Workspace
) -> None:
    assert nights.run().returncode == 0
    assert migrated.live() == "wordllama-64"
    before = migrated.snapshot()

    second = nights.run()

    assert (second.returncode, second.stdout) == (0, "nothing to do\n")
    assert migrated.snapshot() == before
    assert nights.pages == []


def test_the_job_can_leave_the_switch_to_a_person(nights: Nights, migrated: Workspace) -> None:
    assert nights.run("--until", "ready").returncode == 0

    status = migrated.status()
    assert (status["live"]["model"], status["shadow"]["state"]) == ("wordllama", "ready")


def test_the_job_gives_way_to_another_runner(nights: Nights, migrated: Workspace) -> None:
    with Project(migrated.settings) as project, project.locked(["articles"]):
        night = nights.run()

    assert (night.returncode, nights.pages) == (0, [])
    assert "another runner works on 'articles'" in night.stderr
    assert migrated.live() == "wordllama"


def test_the_job_pages_somebody_and_undoes_nothing_after_a_rollback(
    nights: Nights, migrated: Workspace
) -> None:
    nights.run()
    command.rollback(migrated.settings, "articles", reason="worse on Russian")

    for night in (1, 2):
        assert nights.run().returncode == 3
        assert len(nights.pages) == night
        assert "status 3: a safety check refused" in nights.pages[-1]
    assert migrated.live() == "wordllama"


def test_the_job_pages_somebody_when_the_configuration_is_broken(
    nights: Nights, migrated: Workspace
) -> None:
    migrated.edit_config("[embedmigrate]", "[embedmigrat]")

    assert nights.run().returncode == 78
    (page,) = nights.pages
    assert str(migrated.root) in page and "status 78" in page


def test_a_job_that_is_terminated_checkpoints_and_the_next_one_resumes(
    nights: Nights, migrated: Workspace
) -> None:
    nights.run()
    migrated.edit_config("[embedmigrate]", "[embedmigrate]\nbatch_size = 2")
    slow_model = '[models.fake-a]\nprovider = "hashing-not-a-model"\ndelay_ms = 300'
    migrated.edit_config('[models.fake-a]\nprovider = "hashing-not-a-model"', slow_model)
    command.pin(migrated.to_pin, "fake-a")
    migrated.revision("fake-a")

    with subprocess.Popen(
        [JOB / "nightly.sh"], env=nights.environment(), stderr=subprocess.PIPE, text=True
    ) as job:
        wait_for(
            lambda: (migrated.status()["shadow"] or {}).get("done", 0), lambda done: done > 3, 60
        )
        job.send_signal(signal.SIGTERM)
        _, said = job.communicate(timeout=60)

    assert (job.returncode, nights.pages) == (0, [])
    assert "the next run carries on" in said
    stopped = migrated.status()
    assert stopped["live"]["model"] == "wordllama-64"
    assert 3 < stopped["shadow"]["done"] < 40
    assert nights.run().returncode == 0
    assert migrated.live() == "fake-a"


@pytest.mark.skipif(shutil.which("timeout") is None, reason="needs the program timeout")
def test_a_window_ends_the_job_and_its_status_still_counts(tmp_path: Path) -> None:
    program = "trap 'exit 7' TERM\nwhile :; do sleep 0.1; done"
    nights = Nights.of(tmp_path, tmp_path / "bin", program)

    night = nights.run(WINDOW="1")

    assert (night.returncode, nights.pages) == (0, [])
    assert "the next run carries on" in night.stderr


@pytest.mark.parametrize("status", [0, 1, 2, 3, 4, 5, 6, 7, 75, 78, 137])
def test_each_status_either_lets_people_sleep_or_says_why_not(tmp_path: Path, status: int) -> None:
    program = f'test "$*" = "upgrade heads" && exit {status}'
    nights = Nights.of(tmp_path, tmp_path / "bin", program)

    night = nights.run("heads")

    if status in NOBODY_HAS_TO_GET_UP:
        assert (night.returncode, nights.pages) == (0, [])
    else:
        assert night.returncode == status
        (page,) = nights.pages
        assert f"status {status}: " in page


def test_the_job_readme_explains_every_status_that_an_error_can_have() -> None:
    table = (JOB / "README.md").read_text("utf-8")
    explained = {
        int(status)
        for cells in re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE)
        for status in cells.split(",")
    }
    assert explained == {0, 4, 5} | exit_codes()


def exit_codes(error: type[errors.EmbedMigrateError] = errors.EmbedMigrateError) -> set[int]:
    return {error.exit_code}.union(*map(exit_codes, error.__subclasses__()))


def test_the_cron_line_runs_the_script_every_night() -> None:
    *_, line = (JOB / "crontab").read_text("utf-8").splitlines()
    minute, hour, day, month, weekday, job = line.split(maxsplit=5)
    assert (minute, hour) == ("17", "1") and (day, month, weekday) == ("*", "*", "*")
    assert job.startswith("/srv/articles/nightly.sh ")


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read(JOB / name)
    return parser


def test_the_systemd_unit_gives_the_program_time_to_stop() -> None:
    service, timer = unit("embedmigrate.service"), unit("embedmigrate.timer")
    assert service["Service"]["Type"] == "oneshot"
    assert service["Service"]["KillMode"] == "mixed"
    assert int(service["Service"]["TimeoutStopSec"]) >= 30
    assert service["Service"]["ExecStart"] == "/srv/articles/nightly.sh"
    assert timer["Timer"]["OnCalendar"] and timer["Install"]["WantedBy"] == "timers.target"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_has_nothing_to_say_against_the_units(tmp_path: Path) -> None:
    shutil.copy(JOB / "nightly.sh", tmp_path)
    units = []
    for name in ("embedmigrate.service", "embedmigrate.timer"):
        text = (JOB / name).read_text("utf-8").replace("/srv/articles", str(tmp_path))
        (tmp_path / name).write_text(text, "utf-8")
        units.append(tmp_path / name)
    done = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_cron_job_of_kubernetes_follows_the_exit_statuses() -> None:
    yaml = pytest.importorskip("yaml")
    manifest: dict[str, Any] = yaml.safe_load((JOB / "cronjob.yaml").read_text("utf-8"))
    assert (manifest["apiVersion"], manifest["kind"]) == ("batch/v1", "CronJob")
    assert manifest["spec"]["concurrencyPolicy"] == "Forbid"
    job = manifest["spec"]["jobTemplate"]["spec"]
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] >= 30
    (container,) = pod["containers"]
    assert container["command"] == ["embedmigrate", "upgrade"]
    fail, ignore = job["podFailurePolicy"]["rules"]
    assert fail["action"] == "FailJob"
    assert fail["onExitCodes"]["containerName"] == container["name"]
    for_people = (exit_codes() | {4, 5}) - NOBODY_HAS_TO_GET_UP - {1}
    assert fail["onExitCodes"]["values"] == sorted(for_people)
    assert ignore["action"] == "Ignore"
    (mounted,) = container["volumeMounts"]
    assert mounted["name"] in {volume["name"] for volume in pod["volumes"]}


# -- 04 policy in CI --------------------------------------------------------------------------


def commands_of(path: Path, key: str) -> list[str]:
    """The values of ``key:`` in a YAML file, without its comments."""
    found = re.findall(rf"^[ -]*{key}: (.+?)(?: #.*)?$", path.read_text("utf-8"), re.MULTILINE)
    assert found, path
    return found


@dataclass
class Repository:
    """What a checkout of a project holds, and the program in ``PATH``."""

    root: Path
    programs: Path

    def run(self, line: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command line with a shell, as CI and pre-commit do."""
        path = f"{self.programs}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-e", "-c", line],
            cwd=self.root,
            env={**os.environ, "PATH": path, **more},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture
def repository(migrated: Workspace, tmp_path: Path) -> Repository:
    """A project whose pending revision is declared too, cloned to where there is no catalog."""
    migrated.edit_config('model = "wordllama"', 'model = "wordllama-64"')
    clone, programs = tmp_path / "clone", tmp_path / "bin"
    clone.mkdir()
    programs.mkdir()
    shutil.copy(migrated.root / "embedmigrate.toml", clone)
    shutil.copytree(migrated.root / "migrations", clone / "migrations")
    shutil.copy(POLICY / ".pre-commit-config.yaml", clone)
    write_program(
        programs / "embedmigrate", f'exec {shlex.quote(sys.executable)} -m embedmigrate "$@"'
    )
    return Repository(clone, programs)


def spoil_the_applied_script(repository: Repository) -> None:
    (script,) = (repository.root / "migrations" / "versions").glob("*_first_index.py")
    script.write_text(script.read_text("utf-8") + "# nothing to see here\n", "utf-8")


def test_the_workflow_passes_a_repository_and_stops_one_that_breaks_a_rule(
    repository: Repository,
) -> None:
    install, check = commands_of(POLICY / "policy.yml", "run")
    assert install == "python -m pip install embedmigrate", "no extra"

    assert repository.run(check).returncode == 0

    spoil_the_applied_script(repository)
    judged = repository.run(check)
    assert judged.returncode == 3
    assert (
        "unchanged: FAILS" in judged.stdout and "was changed after it was applied" in judged.stdout
    )


def test_the_workflow_gives_variables_a_value_that_will_do(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source in a database that CI does not reach, named by a variable."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    toml = repository.root / "embedmigrate.toml"
    text = toml.read_text("utf-8").replace('kind = "jsonl"\npath = "corpus.jsonl"\nid = "_id"',
        'kind = "sql"\nurl = "${DATABASE_URL}"\ntable = "articles"\nkey = "id"')  # fmt: skip
    toml.write_text(text, "utf-8")
    (check,) = commands_of(POLICY / "policy.yml", "run")[1:]
    (value,) = commands_of(POLICY / "policy.yml", "DATABASE_URL")

    assert repository.run(check).returncode == 78
    assert repository.run(check, DATABASE_URL=value).returncode == 0


def test_the_hook_passes_a_repository_and_stops_one_that_breaks_a_rule(
    repository: Repository,
) -> None:
    (entry,) = commands_of(HOOKS, "entry")

    assert repository.run(entry).returncode == 0

    spoil_the_applied_script(repository)
    assert repository.run(entry).returncode == 3


def test_the_hook_can_name_a_configuration_elsewhere(repository: Repository) -> None:
    """The line of the example, without its comment sign."""
    (entry,) = re.findall(
        r"^ *# entry: (.+)$", (POLICY / ".pre-commit-config.yaml").read_text("utf-8"), re.MULTILINE
    )
    place = repository.root / "services" / "search"
    place.mkdir(parents=True)
    for name in ("embedmigrate.toml", "migrations"):
        (repository.root / name).rename(place / name)

    assert repository.run(entry).returncode == 0


def test_the_command_that_the_policy_readme_shows_records_what_it_says(
    repository: Repository,
) -> None:
    (line,) = re.findall(
        r"^```sh\n(.+)\n```$", (POLICY / "README.md").read_text("utf-8"), re.MULTILINE
    )
    before = lockfile.read(repository.root / "migrations")

    assert repository.run(line).returncode == 0

    after = lockfile.read(repository.root / "migrations")
    assert len(after) == 2 and before.items() < after.items()


def test_the_hook_is_what_pre_commit_reads() -> None:
    yaml = pytest.importorskip("yaml")
    (hook,) = yaml.safe_load(HOOKS.read_text("utf-8"))
    assert hook["language"] == "python"
    assert hook["pass_filenames"] is False and hook["always_run"] is True
    assert {"id", "name", "description", "entry"} <= hook.keys()

    (repo,) = yaml.safe_load((POLICY / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert repo["repo"] and repo["rev"]
    assert [used["id"] for used in repo["hooks"]] == [hook["id"]]


def test_the_workflow_is_what_github_reads() -> None:
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load((POLICY / "policy.yml").read_text("utf-8"))
    assert workflow.keys() == {"name", True, "permissions", "jobs"}  # YAML takes `on` for true
    assert workflow[True].keys() == {"pull_request", "push"}
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    assert job["runs-on"] and job["timeout-minutes"] <= 10
    assert [step.get("uses", "run").partition("@")[0] for step in job["steps"]] == [
        "actions/checkout",
        "actions/setup-python",
        "run",
        "run",
    ]


def test_the_policy_readme_explains_every_status_that_the_check_has() -> None:
    table = (POLICY / "README.md").read_text("utf-8")
    assert re.findall(r"^\| (\d+) \|", table, re.MULTILINE) == ["0", "3", "78"]


# -- 05 notifications -------------------------------------------------------------------------


class Webhook(BaseHTTPRequestHandler):
    """Keeps what is posted; answers with the status that the path names."""

    posted: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = int(self.path.rpartition("/")[2])
        if status == 200:
            self.posted.append(json.loads(body))
        self.send_response(status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def webhook() -> Iterator[str]:
    """Address of a server on this machine that takes messages; a status has to be added."""
    Webhook.posted.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Webhook) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/token-s3cret"
        server.shutdown()
        thread.join()


@pytest.fixture
def notified(tmp_path: Path) -> Workspace:
    """The project of the example, with `python3` being this Python; nothing is live yet."""
    configuration = (NOTIFICATIONS / "embedmigrate.toml").read_text("utf-8")
    workspace = Workspace(tmp_path / "project")
    workspace.root.mkdir()
    (workspace.root / "embedmigrate.toml").write_text(
        configuration.replace('"python3"', json.dumps(sys.executable)), "utf-8"
    )
    shutil.copy(NOTIFICATIONS / "notify.py", workspace.root)
    workspace.write_corpus(documents(12))
    command.init(Path("migrations"), root=workspace.root)
    command.pin(workspace.to_pin, "wordllama")
    workspace.revision("wordllama")
    return workspace


def test_a_cut_over_a_rollback_and_a_failure_are_posted(notified: Workspace, webhook: str) -> None:
    def run(*args: str) -> int:
        return notified.run(*args, EMBEDMIGRATE_WEBHOOK=f"{webhook}/200").returncode

    assert run("upgrade") == 0
    assert run("downgrade", "articles@-1", "--reason", "a drill") == 0
    assert run("upgrade") == 3

    switched, back, failed = Webhook.posted
    assert switched["text"].startswith(
        "articles: wordllama is live now, before it nothing (12 documents, 0 skipped); by "
    )
    assert "articles: went back from wordllama to nothing: a drill; by " in back["text"]
    assert failed["text"].startswith("articles: failed (status 3): revision ")
    assert "next: embedmigrate upgrade" in failed["text"]
    assert [it["embedmigrate"]["event"] for it in Webhook.posted] == [
        *("after_cutover", "on_rollback", "on_failure")
    ]
    assert (notified.root / "embedmigrate.prom").exists()


def test_a_drift_is_posted(
    notified: Workspace, webhook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDMIGRATE_WEBHOOK", f"{webhook}/200")
    answer = LocalEmbedder._answer
    monkeypatch.setattr(
        LocalEmbedder, "_answer", lambda self, *args: answer(self, *args)[:, ::-1].copy()
    )

    command.drift(notified.settings)

    (posted,) = Webhook.posted
    assert posted["text"].startswith("articles: its model has drifted (status 3): ")
    assert "canaries moved" in posted["text"] and "next: embedmigrate drift" in posted["text"]


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ("500", "the webhook answered 500"),
        ("closed", "the webhook does not answer: ConnectionRefusedError"),
        ("", "EMBEDMIGRATE_WEBHOOK is no address of a webhook"),
    ],
)
def test_a_webhook_that_does_not_take_it_stops_nothing_and_is_not_shown(
    notified: Workspace, webhook: str, status: str, says: str
) -> None:
    address = f"{webhook}/{status}" if status else ""
    if status == "closed":
        with closing(socket.socket()) as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        address = f"http://127.0.0.1:{port}/token-s3cret"

    ended = notified.run("upgrade", EMBEDMIGRATE_WEBHOOK=address)

    assert ended.returncode == 0 and notified.live() == "wordllama"
    assert f"(after_cutover) failed: {says}" in ended.stderr
    assert "s3cret" not in ended.stderr and Webhook.posted == []


def test_every_event_has_a_message() -> None:
    source = (NOTIFICATIONS / "notify.py").read_text("utf-8")
    module = ModuleType("notify")
    exec(compile(source, "notify.py", "exec"), module.__dict__)
    document = document_of(Occasion("on_start", "articles", to_model="minilm@1f"))
    for event in ("on_start", "on_ready", "after_cutover", "on_rollback"):
        assert "minilm" in module.message(document | {"event": event})
    error = {"kind": "X", "exit_code": 1, "message": "unexpected failure"}
    said = module.message(document | {"event": "on_failure", "collection": None, "error": error})
    assert said == "embedmigrate: failed (status 1): unexpected failure"
