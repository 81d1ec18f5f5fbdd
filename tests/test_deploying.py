"""Versions of an application through a change of models, as docs/deploying.md describes it.

Every version is a configuration beside the same catalog, store and pin files. They live in
processes of their own, search all the time, and have every answer checked: index, generation and
model belong together, and the hits are those of brute force.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from embedmigrate import command, errors, resolve, serving
from embedmigrate.errors import EmbedMigrateError
from tests.faults.project import ROOT, Faulty, kill_at
from tests.faults.reading import Seen, Truth
from tests.versions import Running, Version
from tests.workspace import documents, wait_for

OLD, NEW = "wordllama", "wordllama-64"
QUERIES = [
    "a night with a telescope and the planets",
    "bread and yeast in a warm oven",
    "the verdict of the court on appeal",
    "a sloop in the wind",
]
GRACE_SECONDS = 4.0
FINISH_BATCH = "embedmigrate.catalog.runs:finish_batch"
PROMPTED = """
# of the same files and width as the old model, in another space
[models.third]
provider = "static"
package = "wordllama"
weights = "weights/l2_supercat_256.safetensors"
tokenizer = "tokenizers/l2_supercat_tokenizer_config.json"
normalize = true
document_prompt = "passage about: "
"""


class Versions(NamedTuple):
    """The images that a deployer may have."""

    before: Version
    """Made before the new model was known."""
    a: Version
    """Knows both, is configured for the old model."""
    b: Version
    """Knows both, is configured for the new model and accepts the old one."""
    strict: Version
    """Knows both, and accepts the new model alone."""
    after: Version
    """Knows the new model alone."""
    third: Version
    """Knows all, and is configured for another model."""

    @classmethod
    def of(cls, project: Faulty) -> Versions:
        return cls(
            Version.write(project, "before", OLD, lacks=[NEW]),
            Version.write(project, "a", OLD),
            Version.write(project, "b", NEW, accepts=[OLD]),
            Version.write(project, "strict", NEW),
            Version.write(project, "after", NEW, lacks=[OLD]),
            Version.write(project, "third", "third"),
        )


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Faulty]:
    """The same project at every stage of a change. To be copied, not to be touched."""
    root = tmp_path_factory.mktemp("stages")
    project = Faulty.prepared(
        root / "pending", documents(40), OLD, NEW, batch_size=8, more_models=PROMPTED
    )
    project.edit_config("batch_size", f"switch_grace = {GRACE_SECONDS}\nbatch_size")
    command.pin(project.to_pin, "third")
    made = {"pending": project}

    def then(stage: str, change: Callable[[Faulty], object]) -> None:
        nonlocal project
        project = made[stage] = project.copy(root / stage)
        change(project)

    then("building", lambda it: it.kill("upgrade", at=kill_at(FINISH_BATCH, call=3)))
    then("ready", lambda it: it.upgrade(until_ready=True))
    then("cut over", lambda it: command.cutover(it.settings))
    then("rolled back", lambda it: command.rollback(it.settings, "articles", reason="worse"))
    then("cut over again", lambda it: it.upgrade(again="better after all"))
    then("contracted", contract)
    return made


def contract(project: Faulty) -> None:
    project.let_grace_pass()
    command.contract(project.settings)


@pytest.fixture
def at(stages: dict[str, Faulty], tmp_path: Path) -> Callable[[str], Faulty]:
    """The project at a stage, to do with as one likes."""
    return lambda stage: stages[stage].copy(tmp_path / stage)


@pytest.fixture(scope="module")
def truth(stages: dict[str, Faulty], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The right answers, as a file."""
    file = tmp_path_factory.mktemp("truth") / "truth.json"
    file.write_text(Truth.of(stages["cut over"].settings, [OLD, NEW], QUERIES).to_json(), "utf-8")
    return file


class Fleet:
    """Versions that run, each in a process; and what those saw that were stopped."""

    def __init__(self) -> None:
        self.running: dict[str, tuple[Version, Path, Running]] = {}
        self.seen: list[Seen] = []

    def start(self, name: str, version: Version, truth: Path) -> Running:
        running = version.start(truth)
        self.running[name] = version, truth, running
        return running

    def restart(self) -> None:
        """Every one is stopped, and started again."""
        for name, (version, truth, running) in list(self.running.items()):
            self.seen.append(running.stop())
            self.start(name, version, truth)

    def retire(self, name: str) -> None:
        _, _, running = self.running.pop(name)
        self.seen.append(running.stop())

    def all(self) -> list[Running]:
        return [running for _, _, running in self.running.values()]

    def wait_for_generation(self, generation: int) -> None:
        """Until every one has answered from it; then the pair says that it is sound."""
        for running in self.all():
            running.until(lambda seen: seen.generation == generation)
            assert running.health["ok"]

    def wait_for_candidate(self) -> None:
        """Until every one is able to follow the cut-over at once."""
        for running in self.all():
            running.until_healthy(lambda health: bool((health["candidate"] or {}).get("open")))

    def stop(self) -> list[Seen]:
        """What all of them saw, those that were stopped before included."""
        self.seen += [running.stop() for running in self.all()]
        return self.seen


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    fleet = Fleet()
    try:
        yield fleet
    finally:
        for running in fleet.all():
            running.end()


def no_faults(seen: list[Seen]) -> bool:
    for one in seen:
        assert one.faults == 0, one
        assert one.searches > 0
    return True


# -- who starts, and when -----------------------------------------------------------------------

DECLARED, OTHER_END = "the declared model", "the other end of the change"
LENGTH, PROMPT = errors.DimensionMismatch, errors.DocumentPromptMismatch
LACKS = errors.ModelUnavailable

STARTS: dict[str, tuple[str | type[EmbedMigrateError], ...]] = {
    # stage: before, a, b, strict, after, third
    "pending": (DECLARED, DECLARED, OTHER_END, LENGTH, LENGTH, PROMPT),
    "building": (DECLARED, DECLARED, OTHER_END, LENGTH, LENGTH, PROMPT),
    "ready": (DECLARED, DECLARED, OTHER_END, OTHER_END, LACKS, PROMPT),
    "cut over": (LACKS, OTHER_END, DECLARED, DECLARED, DECLARED, LENGTH),
    "rolled back": (DECLARED, DECLARED, OTHER_END, OTHER_END, LACKS, PROMPT),
    "cut over again": (LACKS, OTHER_END, DECLARED, DECLARED, DECLARED, LENGTH),
    "contracted": (LENGTH, LENGTH, DECLARED, DECLARED, DECLARED, LENGTH),
}
"""What each version serves when it starts at a stage, or the error that it ends with."""


@pytest.mark.parametrize("stage", STARTS)
def test_a_version_starts_where_it_can_answer_and_is_refused_where_it_cannot(
    at: Callable[[str], Faulty], stage: str
) -> None:
    versions = Versions.of(at(stage))
    assert tuple(started(version) for version in versions) == STARTS[stage]


def started(version: Version) -> str | type[EmbedMigrateError]:
    try:
        articles = version.open()
    except EmbedMigrateError as error:
        assert error.found and error.expected and error.next_step
        return type(error)
    with articles:
        assert articles.search(QUERIES[0]).hits
        health = articles.health()
        assert health["ok"]
        return OTHER_END if health["in_transition"] else DECLARED


@pytest.mark.parametrize("stage", STARTS)
def test_readiness_asks_what_a_start_asks_while_ci_waits_for_the_revision(
    at: Callable[[str], Faulty], stage: str
) -> None:
    versions = Versions.of(at(stage))
    for version, start in zip(versions, STARTS[stage], strict=True):
        assert command.check_serving(version.settings)["sound"] == isinstance(start, str)
    (entry,) = command.check(versions.b.settings)["collections"]
    waits = any("revision" in difference for difference in entry["differences"])
    assert waits == (stage in {"pending", "building", "ready", "rolled back"})


def test_the_two_questions_have_two_exit_statuses(at: Callable[[str], Faulty]) -> None:
    project = at("ready")
    Versions.of(project)

    ci = project.run("-c", "b.toml", "check")
    ready = project.run("-c", "b.toml", "check", "--serving")
    never = project.run("-c", "after.toml", "check", "--serving")

    assert (ci.returncode, ready.returncode, never.returncode) == (3, 0, 3)
    assert "is pending" in ci.stdout
    assert "sound; wordllama@" in ready.stdout and "in transition" in ready.stdout
    assert "NOT SOUND" in never.stdout and "does not have wordllama@" in never.stdout


def test_what_may_be_merged_is_what_is_deployed_next(at: Callable[[str], Faulty]) -> None:
    project = at("pending")
    versions = Versions.of(project)
    assert command.check_policy(versions.b.settings)["agrees"]
    assert not command.check_policy(versions.a.settings)["agrees"]
    project = at("contracted")
    assert command.check_policy(Versions.of(project).after.settings)["agrees"]
    assert command.check(Versions.of(project).after.settings)["agrees"]


def test_an_image_without_the_live_model_says_which_one_it_lacks(
    at: Callable[[str], Faulty],
) -> None:
    refusal = Versions.of(at("ready")).after.refusal()
    assert isinstance(refusal, errors.ModelUnavailable) and refusal.exit_code == 78
    assert "does not have wordllama@" in refusal.message
    assert refusal.next_step and "deploy an image that has them" in refusal.next_step


# -- all the time -------------------------------------------------------------------------------


def test_two_versions_answer_all_the_time_through_cut_over_and_rollback(
    at: Callable[[str], Faulty], truth: Path, fleet: Fleet
) -> None:
    project = at("pending")
    versions = Versions.of(project)
    fleet.start("a", versions.a, truth)
    fleet.start("b", versions.b, truth)
    fleet.wait_for_generation(1)

    project.kill("upgrade", at=kill_at(FINISH_BATCH, call=3))
    fleet.restart()
    project.upgrade(until_ready=True)
    fleet.wait_for_candidate()
    command.cutover(project.settings)
    fleet.wait_for_generation(2)
    fleet.restart()
    fleet.wait_for_generation(2)
    command.rollback(project.settings, "articles", reason="to see")
    fleet.wait_for_generation(3)
    fleet.restart()
    fleet.wait_for_generation(3)
    project.upgrade(again="seen")
    fleet.wait_for_generation(4)

    assert no_faults(fleet.stop())


@pytest.mark.parametrize("first", ["application", "migration"])
def test_either_order_of_deploying_works(
    at: Callable[[str], Faulty], truth: Path, fleet: Fleet, first: str
) -> None:
    project = at("pending")
    versions = Versions.of(project)
    fleet.start("old", versions.a, truth)
    fleet.wait_for_generation(1)

    def deploy() -> None:
        fleet.start("new", versions.b, truth).until(lambda seen: seen.searches > 0)
        fleet.retire("old")

    if first == "application":
        deploy()
        project.upgrade()
    else:
        project.upgrade()
        deploy()
    fleet.wait_for_generation(2)

    assert no_faults(fleet.stop())


def test_versions_start_while_the_cut_over_commits(
    at: Callable[[str], Faulty], truth: Path, fleet: Fleet
) -> None:
    project = at("ready")
    versions = Versions.of(project)
    switch = "embedmigrate.catalog.routes:_switch"
    cut_over = project.begin(
        "cutover", faults=[{"at": switch, "do": "send", "when": "after", "with_": "SIGSTOP"}]
    )
    cut_over.wait_until_stopped()
    fleet.start("a", versions.a, truth)
    fleet.start("b", versions.b, truth)
    fleet.wait_for_generation(1)
    fleet.wait_for_candidate()
    cut_over.send(signal.SIGCONT)
    assert cut_over.finish() == 0, cut_over.errors
    fleet.wait_for_generation(2)

    assert no_faults(fleet.stop())


# -- an image that lacks a model ------------------------------------------------------------------


def test_an_image_without_the_new_model_answers_until_the_grace_is_over(
    at: Callable[[str], Faulty], truth: Path, fleet: Fleet
) -> None:
    project = at("ready")
    before = fleet.start("before", Versions.of(project).before, truth)
    before.until(lambda seen: seen.generation == 1)
    health = before.health
    assert health["ok"] and not health["candidate"]["open"]
    (warning,) = health["warnings"]
    assert "wordllama-64@" in warning and "goes live next and cannot answer here" in warning

    command.cutover(project.settings)
    assert before.health["ok"], "within the grace"
    seen = before.until(lambda seen: seen.errors != [])
    assert seen.longest_stall < GRACE_SECONDS and seen.generation == 1
    assert all(error.startswith("ModelUnavailable") for error in seen.errors)
    health = before.health
    assert not health["ok"] and "does not have wordllama-64@" in health["problems"][0]

    command.rollback(project.settings, "articles", reason="nobody can answer")
    before.until(lambda seen: seen.generation == 3)
    assert before.health["ok"]


def test_an_image_without_the_old_model_answers_until_a_rollback_and_again_after_it(
    at: Callable[[str], Faulty], truth: Path, fleet: Fleet
) -> None:
    project = at("cut over")
    after = fleet.start("after", Versions.of(project).after, truth)
    after.until(lambda seen: seen.generation == 2)

    command.rollback(project.settings, "articles", reason="to see")
    assert after.health["ok"], "within the grace"
    seen = after.until(lambda seen: seen.errors != [])
    assert all(error.startswith("ModelUnavailable") for error in seen.errors)
    assert not after.health["ok"]

    project.upgrade(again="seen")
    after.until(lambda seen: seen.generation == 4)
    assert after.health["ok"]


def test_what_is_in_the_way_of_the_next_index_is_said_once(
    at: Callable[[str], Faulty], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "RETRY_SECONDS", 0.02)
    tried = count_calls(monkeypatch, resolve, "embedder_to_serve")
    project = at("ready")
    with (
        caplog.at_level(logging.WARNING),
        Versions.of(project).before.open() as articles,
    ):
        wait_for(lambda: len(tried), lambda times: times > 5)
        assert articles.health()["ok"]
        command.cutover(project.settings)
        wait_for(lambda: said(caplog, "is live and not open here"), lambda lines: lines != [])
    assert len(said(caplog, "is next and not open here")) == 1
    assert len(said(caplog, "is live and not open here")) == 1


def count_calls(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[None]:
    calls: list[None] = []
    original = getattr(module, name)

    def counted(*args: Any) -> Any:
        calls.append(None)
        return original(*args)

    monkeypatch.setattr(module, name, counted)
    return calls


def said(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    return [message for message in caplog.messages if text in message]


def test_the_grace_runs_when_nobody_searches(
    at: Callable[[str], Faulty], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = at("ready")
    project.edit_config(f"switch_grace = {GRACE_SECONDS}", "switch_grace = 0.2")
    with Versions.of(project).before.open() as articles:
        server = articles._server
        command.cutover(project.settings)
        wait_for(server._overdue, bool)
        with pytest.raises(errors.ModelUnavailable):
            articles.search(QUERIES[0])


def test_a_version_that_runs_is_ready_although_it_would_not_start_again(
    at: Callable[[str], Faulty],
) -> None:
    project = at("cut over")
    versions = Versions.of(project)
    with versions.a.open() as articles:
        contract(project)
        health = articles.health()
        assert health["ok"] and health["in_transition"]
        (warning,) = health["warnings"]
        assert "would not start again" in warning and "dimension 256" in warning
        assert articles.search(QUERIES[0]).generation == 2
    assert isinstance(versions.a.refusal(), errors.DimensionMismatch)


# -- models in packages of their own --------------------------------------------------------------


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Faulty:
    """wordllama live, a revision to MiniLM pending. To be copied, not to be touched."""
    root = tmp_path_factory.mktemp("packages") / "template"
    return Faulty.prepared(root, documents(16), "wordllama", "minilm", batch_size=8)


@pytest.mark.slow
def test_images_with_two_packages_hand_over_and_back(
    packages: Faulty, tmp_path: Path, fleet: Fleet
) -> None:
    project, migrated = (packages.copy(tmp_path / name) for name in ("project", "migrated"))
    migrated.upgrade()
    answers = Truth.of(migrated.settings, ["wordllama", "minilm"], QUERIES)
    truth = tmp_path / "truth.json"
    truth.write_text(answers.to_json(), "utf-8")

    fleet.start("a", Version.write(project, "a", "wordllama"), truth)
    fleet.start("b", Version.write(project, "b", "minilm", accepts=["wordllama"]), truth)
    fleet.wait_for_generation(1)
    project.upgrade(until_ready=True)
    fleet.wait_for_candidate()
    command.cutover(project.settings)
    fleet.wait_for_generation(2)
    fleet.start("after", without_wordllama(project, lacks=["wordllama"]), truth)
    fleet.wait_for_generation(2)
    fleet.retire("after")
    command.rollback(project.settings, "articles", reason="to see")
    fleet.wait_for_generation(3)

    assert no_faults(fleet.stop())


def without_wordllama(project: Faulty, **options: Any) -> Version:
    return Version.write(project, "after", "minilm", uninstalled=["wordllama"], **options)


def test_the_package_of_the_old_model_may_go_before_its_table_but_not_before_also_accept(
    packages: Faulty, tmp_path: Path
) -> None:
    project = packages.copy(tmp_path / "project")
    early = without_wordllama(project).refusal()
    assert isinstance(early, errors.DimensionMismatch), "wordllama is live"

    project.upgrade()

    assert without_wordllama(project).refusal() is None
    refusal = without_wordllama(project, accepts=["wordllama"]).refusal()
    assert isinstance(refusal, errors.ConfigError) and "not installed" in str(refusal)
    command.rollback(project.settings, "articles", reason="to see")
    refusal = without_wordllama(project).refusal()
    assert isinstance(refusal, errors.ModelUnavailable) and "not installed" in str(refusal)


# -- what is documented ---------------------------------------------------------------------------


def test_the_documentation_says_which_image_starts_when() -> None:
    page = (ROOT / "docs" / "deploying.md").read_text("utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if line.startswith("|")
    ]
    assert {row[0]: row[1:] for row in rows if row[0] in STARTS} == {
        stage: [shown(*it) for it in zip(Versions._fields[:-1], row[:-1], strict=True)]
        for stage, row in STARTS.items()
    }


def shown(version: str, start: str | type[EmbedMigrateError]) -> str:
    if isinstance(start, str):
        serves_old = (start == DECLARED) == (version in {"before", "a"})
        return "old" if serves_old else "new"
    return "`ModelUnavailable`" if start is LACKS else "`ModelMismatch`"
