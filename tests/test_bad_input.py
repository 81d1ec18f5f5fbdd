"""Bad input: a clear error, the contracted exit code, and nothing changed.

Every case starts from the same healthy project: a collection with forty documents, one model live
and a revision to another one pending. It is spoilt in one way, and a command is run.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext

from embedmigrate import command, op
from embedmigrate.embedders.files import package_folder
from embedmigrate.errors import ScriptError
from tests.command_line import run
from tests.workspace import ARTICLES, Workspace, documents

USAGE, REFUSED, TEMPORARY, CONFIGURATION = 2, 3, 75, 78
FIRST, SECOND = "f1f1f1f1f1f1", "f2f2f2f2f2f2"


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`fake-a` live, a revision to `fake-b` pending, and a folder model that is pinned."""
    workspace = Workspace.make(
        tmp_path_factory.mktemp("healthy") / "project",
        collections=ARTICLES.replace('"wordllama"', '"fake-a"'),
        pin=("fake-a", "fake-b"),
    )
    add_folder_model(workspace)
    write_revision(workspace, "fake-a", FIRST, "first")
    workspace.upgrade()
    write_revision(workspace, "fake-b", SECOND, "second")
    return workspace.root


def write_revision(workspace: Workspace, to: str, rev_id: str, message: str) -> None:
    command.revision(workspace.settings, message, collection="articles", to=to, rev_id=rev_id)


def add_folder_model(workspace: Workspace) -> None:
    """A model whose files lie in the project, pinned as `copied`."""
    folder = workspace.root / "models" / "copied"
    folder.mkdir(parents=True)
    package = package_folder("wordllama")
    shutil.copyfile(
        package / "weights" / "l2_supercat_256.safetensors", folder / "model.safetensors"
    )
    shutil.copyfile(
        package / "tokenizers" / "l2_supercat_tokenizer_config.json", folder / "tokenizer.json"
    )
    with (workspace.root / "embedmigrate.toml").open("a", encoding="utf-8") as configuration:
        configuration.write(
            '\n[models.copied]\nprovider = "static"\npath = "models/copied"\n'
            'weights = "model.safetensors"\ntokenizer = "tokenizer.json"\nnormalize = true\n'
        )
    command.pin(workspace.to_pin, "copied")


@pytest.fixture
def project(healthy: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(healthy, tmp_path / "project")
    return Workspace(tmp_path / "project")


@dataclass(frozen=True)
class Case:
    """One way to spoil the project, and what must come of it."""

    what: str
    spoil: Callable[[Workspace], object]
    code: int
    says: tuple[str, ...]
    """What must stand in the error, besides the next command to type."""
    run: tuple[str, ...] = ("upgrade",)
    recorded: bool = False
    """Whether the catalog remembers the attempt (the lock's epoch, a failed run)."""


def check(workspace: Workspace, case: Case) -> None:
    case.spoil(workspace)
    files_before, served_before = workspace.snapshot(), served(workspace)

    answer = run(workspace.root, *case.run)

    assert answer.code == case.code, answer.err
    for part in case.says:
        assert part in answer.err
    if case.code != USAGE or "Usage:" not in answer.err:
        assert "\n  next:     " in answer.err
    assert "Traceback" not in answer.err and answer.out == ""
    assert served(workspace) == served_before
    assert kept(workspace.snapshot(), case) == kept(files_before, case)


def kept(snapshot: dict[str, bytes], case: Case) -> dict[str, bytes]:
    """The files that must be as they were. The spool is a cache of the source."""
    passing = (".embedmigrate/", *(["catalog.db"] if case.recorded else []))
    return {name: content for name, content in snapshot.items() if not name.startswith(passing)}


def served(workspace: Workspace) -> list[Any]:
    """Live indexes, generations and version rows, read past all code of the project."""
    if not (workspace.root / "catalog.db").is_file():
        return []
    with closing(sqlite3.connect(workspace.root / "catalog.db")) as catalog:
        try:
            return [
                *catalog.execute(
                    "SELECT collection, live_index, generation FROM embedmigrate_route"
                    " WHERE live_index IS NOT NULL"
                ),
                *catalog.execute("SELECT version_num FROM embedmigrate_version"),
            ]
        except sqlite3.DatabaseError:
            return []


# -- ways to spoil a project --------------------------------------------------------------------


def nothing(_: Workspace) -> None:
    pass


def script(workspace: Workspace, name: str = f"{SECOND}_second") -> Path:
    return workspace.root / "migrations" / "versions" / f"{name}.py"


def script_with(old: str, new: str) -> Callable[[Workspace], None]:
    """Replace the text ``old`` of the pending script."""

    def spoil(workspace: Workspace) -> None:
        path = script(workspace)
        text = path.read_text("utf-8")
        assert old in text
        path.write_text(text.replace(old, new), "utf-8")

    return spoil


def script_matching(pattern: str, new: str) -> Callable[[Workspace], None]:
    """Replace what matches in the pending script."""

    def spoil(workspace: Workspace) -> None:
        path = script(workspace)
        text, count = re.subn(pattern, new, path.read_text("utf-8"))
        assert count
        path.write_text(text, "utf-8")

    return spoil


def config_with(old: str, new: str) -> Callable[[Workspace], None]:
    return lambda workspace: workspace.edit_config(old, new)


def fork(workspace: Workspace) -> None:
    """A second script that leaves what the pending one leaves."""
    text = script(workspace).read_text("utf-8")
    text = text.replace(SECOND, "f0f0f0f0f0f0")
    (script(workspace).parent / "f0f0f0f0f0f0_fork.py").write_text(text, "utf-8")


def long_revision_id(workspace: Workspace) -> None:
    path = script(workspace)
    long = "a" * 33
    text = path.read_text("utf-8").replace(SECOND, long)
    path.unlink()
    (path.parent / f"{long}_second.py").write_text(text, "utf-8")


def same_revision_twice(workspace: Workspace) -> None:
    path = script(workspace)
    shutil.copyfile(path, path.with_name("copy_of_it.py"))


def move_to_the_copied_model(workspace: Workspace) -> None:
    """Make the pending revision one to the model whose files lie in the project."""
    script(workspace).unlink()
    write_revision(workspace, "copied", SECOND, "second")


def change_one_byte_of_the_weights(workspace: Workspace) -> None:
    with (workspace.root / "models" / "copied" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        (last,) = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))


def remove_the_tokenizer(workspace: Workspace) -> None:
    (workspace.root / "models" / "copied" / "tokenizer.json").unlink()


def pins_removed(name: str) -> Callable[[Workspace], None]:
    def spoil(workspace: Workspace) -> None:
        for pin in (workspace.root / "migrations" / "models").glob(f"{name}.*.json"):
            pin.unlink()

    return spoil


def remove_the_catalog(workspace: Workspace) -> None:
    for file in workspace.root.glob("catalog.db*"):
        file.unlink()


def file_in_the_way_of_the_store(workspace: Workspace) -> None:
    workspace.edit_config('path = "indexes"', 'path = "elsewhere"')
    (workspace.root / "elsewhere").write_text("not a folder", "utf-8")


def file_in_the_way_of_the_catalog(workspace: Workspace) -> None:
    remove_the_catalog(workspace)
    shutil.rmtree(workspace.root / "indexes")
    workspace.edit_config("sqlite:///catalog.db", "sqlite:///corpus.jsonl/catalog.db")


def newer_catalog(workspace: Workspace) -> None:
    with closing(sqlite3.connect(workspace.root / "catalog.db")) as catalog, catalog:
        catalog.execute("UPDATE embedmigrate_catalog SET schema_version = 99")


def index_of_another_catalog(workspace: Workspace) -> None:
    other = Workspace.make(
        workspace.root.parent / "other",
        collections=ARTICLES.replace('"wordllama"', '"fake-a"').replace("articles", "papers"),
        pin=("fake-a",),
    )
    other.revision("fake-a", collection="papers")
    other.upgrade()
    shutil.copytree(
        other.root / "indexes" / "papers-0001", workspace.root / "indexes" / "papers-0001"
    )


def both(*ways: Callable[[Workspace], object]) -> Callable[[Workspace], None]:
    def spoil(workspace: Workspace) -> None:
        for way in ways:
            way(workspace)

    return spoil


UNPINNED_SOURCE = script_matching('source="[^"]*"', 'source="fake-a"')

CASES = [
    # -- the source
    Case(
        "missing source file",
        lambda it: (it.root / "corpus.jsonl").unlink(),
        CONFIGURATION,
        ("corpus.jsonl cannot be read", "No such file", "expected:"),
        recorded=True,
    ),
    Case(
        "duplicate id",
        lambda it: it.write_corpus([*documents(40), documents(1)[0]]),
        REFUSED,
        ("more than once", "doc-000000", "expected:"),
        recorded=True,
    ),
    Case(
        "record without an id",
        lambda it: it.write_corpus([*documents(40), {"title": "x", "text": "y"}]),
        REFUSED,
        ("corpus.jsonl", "_id"),
        recorded=True,
    ),
    Case(
        "text field that no record has",
        lambda it: it.write_corpus([{"_id": "a", "text": "b", "topic": "c"}]),
        CONFIGURATION,
        ("no record of", "'title'", "found:    '_id', 'text', 'topic'"),
        recorded=True,
    ),
    Case(
        "file that is not JSON",
        lambda it: (it.root / "corpus.jsonl").write_text("{]\n", "utf-8"),
        REFUSED,
        ("line 1 of", "corpus.jsonl", "not a JSON object", "expected:"),
        recorded=True,
    ),
    # -- names that are not there
    *(
        Case(
            f"unknown collection in {verb[0]}",
            nothing,
            USAGE,
            ("there is no collection 'nope'", "found:    nope", "expected: articles"),
            run=verb,
        )
        for verb in (
            ("search", "nope", "text"),
            ("verify", "nope"),
            ("contract", "nope"),
            ("rollback", "nope"),
            ("revision", "--collection", "nope"),
        )
    ),
    Case(
        "script of a collection that is not configured",
        script_with('"articles"', '"nope"'),
        USAGE,
        ("there is no collection 'nope'", "expected: articles"),
    ),
    *(
        Case(
            f"unknown revision in {verb[0]}",
            nothing,
            USAGE,
            ("'nope'",),
            run=verb,
        )
        for verb in (
            ("upgrade", "nope"),
            ("downgrade", "nope"),
            ("plan", "nope"),
            ("show", "nope"),
            ("edit", "nope"),
            ("stamp", "nope"),
            ("history", "-r", "nope:"),
            ("merge", "nope", "heads"),
            ("revision", "--head", "nope"),
        )
    ),
    # -- models
    Case(
        "model folder without tokenizer, pinned",
        remove_the_tokenizer,
        CONFIGURATION,
        ("no tokenizer file", "models/copied/tokenizer.json", "expected: tokenizer ="),
        run=("pin", "copied"),
    ),
    Case(
        "model folder without tokenizer, migrated to",
        both(move_to_the_copied_model, remove_the_tokenizer),
        CONFIGURATION,
        ("no tokenizer file", "models/copied/tokenizer.json"),
        recorded=True,
    ),
    Case(
        "wrong digest, migrated to",
        both(move_to_the_copied_model, change_one_byte_of_the_weights),
        REFUSED,
        ("model.safetensors is not the weights", "found:    sha256:", "expected: sha256:"),
        recorded=True,
    ),
    Case(
        "wrong digest, written into a revision",
        both(lambda it: script(it).unlink(), change_one_byte_of_the_weights),
        REFUSED,
        ("'copied' is not the one that was pinned", "weights sha256:", "expected: copied@"),
        run=("revision", "--collection", "articles", "--to", "copied"),
    ),
    Case(
        "model that is not configured, written into a revision",
        nothing,
        CONFIGURATION,
        ("there is no model 'nope'", "expected: copied, fake-a,"),
        run=("revision", "--collection", "articles", "--to", "nope"),
    ),
    # -- references that can change their meaning
    Case(
        "unpinned reference in the configuration",
        config_with('provider = "onnx"', 'provider = "onnx"\nrevision = "main"'),
        CONFIGURATION,
        ("models.minilm.revision", "embedmigrate.toml, line"),
    ),
    Case(
        "configured model without a pin file, written into a revision",
        both(lambda it: script(it).unlink(), pins_removed("fake-b")),
        CONFIGURATION,
        (
            "'fake-b' of collection 'articles' is not pinned",
            "expected: fake-b.<fingerprint>.json",
            "pin fake-b",
        ),
        run=("revision", "--collection", "articles", "--to", "fake-b"),
    ),
    Case(
        "configured model without a pin file, migrated to",
        pins_removed("fake-b"),
        CONFIGURATION,
        ("'fake-b' of collection 'articles' is not pinned",),
    ),
    Case(
        "configured model without a pin file, checked",
        pins_removed("fake-a"),
        CONFIGURATION,
        ("'fake-a' of collection 'articles' is not pinned",),
        run=("check",),
    ),
    Case(
        "configured model without a pin file, searched",
        pins_removed("fake-a"),
        CONFIGURATION,
        ("'fake-a' of collection 'articles' is not pinned",),
        run=("search", "articles", "text"),
    ),
    Case(
        "unpinned source in a script",
        UNPINNED_SOURCE,
        CONFIGURATION,
        ("names a model that is not pinned", "'fake-a' does not pin", "embedmigrate pin"),
    ),
    Case(
        "moving source in a script",
        script_matching('source="[^"]*"', 'source="fake-a@latest"'),
        CONFIGURATION,
        ("'fake-a@latest' does not pin",),
    ),
    Case(
        "unpinned artifact in a script",
        script_matching('"weights": "[^"]*"', '"weights": "latest"'),
        CONFIGURATION,
        ("artifact 'weights' is not pinned", "sha256:<64 hex digits>", "'latest'"),
    ),
    Case(
        "target that does not state its fingerprint",
        script_matching(r"fingerprint=.*\n", "\n"),
        CONFIGURATION,
        ("does not state its fingerprint", "expected: fingerprint="),
    ),
    Case(
        "target that states another fingerprint",
        script_matching(r"fingerprint=.*\n", 'fingerprint="0123456789abcdef0123456789abcdef",\n'),
        CONFIGURATION,
        ("make fingerprint", "'0123456789abcdef0123456789abcdef' is stated"),
    ),
    # -- the graph of the scripts
    *(
        Case(
            f"fork, in {verb[0]}",
            fork,
            REFUSED,
            ("two open re-embeddings", "f0f0f0f0f0f0", "one re-embedding after the other"),
            run=verb,
        )
        for verb in (
            ("check",),
            ("plan",),
            ("upgrade",),
            ("merge", "heads"),
            ("revision", "--collection", "articles"),
        )
    ),
    Case(
        "missing parent",
        lambda it: script(it, f"{FIRST}_first").unlink(),
        CONFIGURATION,
        ("names a parent that does not exist", "down_revision", "expected:"),
    ),
    Case(
        "missing dependency",
        script_with("depends_on = None", 'depends_on = "0123456789ab"'),
        CONFIGURATION,
        ("does not exist", "0123456789ab"),
    ),
    Case(
        "script that is its own parent",
        script_matching('down_revision = ".*"', "down_revision = revision"),
        CONFIGURATION,
        ("loop", SECOND),
    ),
    Case(
        "one revision id in two scripts",
        same_revision_twice,
        CONFIGURATION,
        (SECOND, "is present more than once"),
    ),
    Case(
        "revision id over 32 characters in a script",
        long_revision_id,
        CONFIGURATION,
        ("is too long", "33 characters", "at most 32"),
    ),
    *(
        Case(
            f"revision id over 32 characters for {verb[0]}",
            nothing,
            USAGE,
            ("revision id", "33 characters", "at most 32"),
            run=(*verb, "--rev-id", "a" * 33),
        )
        for verb in (("revision",), ("merge", "heads"))
    ),
    Case(
        "revision id that is no name",
        nothing,
        USAGE,
        ("revision id", "../../x", "letters, digits"),
        run=("revision", "--rev-id", "../../x"),
    ),
    Case(
        "revision id that is taken",
        nothing,
        USAGE,
        (f"revision id {FIRST!r} is taken", f"{FIRST}_first.py"),
        run=("revision", "--rev-id", FIRST),
    ),
    Case(
        "source that is not what is live",
        script_matching('source="[^"]*"', 'source="old@0123456789abcdef0123456789abcdef"'),
        REFUSED,
        ("does not start from what 'articles' serves", "found:    live model", "expected: live"),
        recorded=True,
    ),
    # -- scripts that do not load
    Case(
        "syntax error in a script",
        script_with("def upgrade() -> None:", "def upgrade( -> None:"),
        CONFIGURATION,
        ("_second.py, line ", "SyntaxError"),
    ),
    Case(
        "script that is no text",
        lambda it: script(it).write_bytes(b"\xff\xfe\n"),
        CONFIGURATION,
        ("_second.py",),
    ),
    *(
        Case(
            f"script that raises {error.partition('(')[0]} when it is imported",
            script_with("def upgrade()", f"raise {error}\n\n\ndef upgrade()"),
            CONFIGURATION,
            ("_second.py, line ", error.partition("(")[0], "boom"),
        )
        for error in ("ValueError('boom')", "RuntimeError('boom')", "KeyError('boom')")
    ),
    *(
        Case(
            f"script that raises {error.partition('(')[0]} in upgrade()",
            script_with("op.reembed(", f"raise {error}\n    op.reembed("),
            CONFIGURATION,
            ("_second.py, line ", error.partition("(")[0], "boom"),
        )
        for error in ("ValueError('boom')", "RuntimeError('boom')", "KeyError('boom')")
    ),
    Case(
        "script that imports what is not installed",
        script_with("from embedmigrate import", "import no_such_module\nfrom embedmigrate import"),
        CONFIGURATION,
        ("_second.py, line ", "no_such_module"),
    ),
    Case(
        "script without a revision id",
        script_matching("revision = .*\n", "\n"),
        CONFIGURATION,
        ("_second.py",),
    ),
    Case(
        "script without upgrade()",
        script_with("def upgrade()", "def forward()"),
        CONFIGURATION,
        ("_second.py", "upgrade()"),
    ),
    Case(
        "two embedding operations in one revision",
        script_with("def downgrade()", '    op.rollback("articles", to=None)\n\n\ndef downgrade()'),
        CONFIGURATION,
        ("holds 2 embedding operations", "expected: at most one"),
    ),
    Case(
        "rollback in upgrade()",
        script_matching(r"(?s)op\.reembed\(.*?\n    \)", 'op.rollback("articles", to=None)'),
        CONFIGURATION,
        ("rolls back in upgrade()", "op.reembed or op.rebind in upgrade()"),
    ),
    Case(
        "unknown argument of an operation",
        script_with("recipe=", "reciept="),
        CONFIGURATION,
        ("_second.py, line ", "reciept"),
    ),
    Case(
        "unknown factory in a script",
        script_with('factory="Flat"', 'factory="PQ8"'),
        CONFIGURATION,
        ("PQ8",),
        recorded=True,
    ),
    Case(
        "unknown metric in a script",
        script_with('metric="cosine"', 'metric="manhattan"'),
        CONFIGURATION,
        ("manhattan",),
    ),
    # -- the catalog and the store
    Case(
        "unwritable store",
        file_in_the_way_of_the_store,
        TEMPORARY,
        ("elsewhere",),
        recorded=True,
    ),
    Case(
        "unwritable catalog",
        file_in_the_way_of_the_catalog,
        CONFIGURATION,
        ("corpus.jsonl", "a folder that exists"),
    ),
    *(
        Case(
            f"newer catalog, in {verb[0]}",
            newer_catalog,
            REFUSED,
            ("newer embedmigrate", "catalog schema 99", "at most"),
            run=verb,
        )
        for verb in (
            ("upgrade",),
            ("downgrade", "articles@-1"),
            ("rollback", "articles"),
            ("status",),
            ("plan",),
            ("check",),
            ("verify",),
            ("contract",),
            ("current",),
            ("stamp", "heads"),
            ("ensure-version",),
            ("search", "articles", "text"),
        )
    ),
    Case(
        "file that is no catalog",
        both(
            remove_the_catalog,
            lambda it: (it.root / "catalog.db").write_text("no database " * 1000, "utf-8"),
        ),
        REFUSED,
        ("is not a catalog",),
    ),
    Case(
        "indexes in the store that the catalog does not know",
        remove_the_catalog,
        REFUSED,
        ("articles-0001", "no catalog", "doctor --rebuild-catalog"),
        recorded=True,
    ),
    Case(
        "index of another catalog in the store",
        index_of_another_catalog,
        REFUSED,
        ("papers-0001", "belongs to another catalog", "expected: catalog"),
        recorded=True,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_bad_input_is_refused_and_changes_nothing(project: Workspace, case: Case) -> None:
    check(project, case)


def test_the_healthy_project_is_healthy(project: Workspace) -> None:
    """Without it every case above could pass for a reason of its own."""
    assert run(project.root, "upgrade").code == 0
    assert project.live() == "fake-b"


@pytest.mark.parametrize(
    ("case", "code"),
    [
        ("unknown collection in search", USAGE),
        ("duplicate id", REFUSED),
        ("unwritable store", TEMPORARY),
        ("syntax error in a script", CONFIGURATION),
    ],
)
def test_the_process_itself_ends_with_that_code_and_without_a_traceback(
    project: Workspace, case: str, code: int
) -> None:
    (chosen,) = [candidate for candidate in CASES if candidate.what == case]
    chosen.spoil(project)

    ended = project.run(*chosen.run)

    assert ended.returncode == code == chosen.code
    assert ended.stdout == "" and "Traceback" not in ended.stderr
    assert all(part in ended.stderr for part in chosen.says)


def test_the_same_command_works_once_the_input_is_good_again(project: Workspace) -> None:
    corpus = (project.root / "corpus.jsonl").read_bytes()
    (project.root / "corpus.jsonl").unlink()
    assert run(project.root, "upgrade").code == CONFIGURATION

    (project.root / "corpus.jsonl").write_bytes(corpus)

    assert run(project.root, "upgrade").code == 0
    assert project.live() == "fake-b"


def test_a_store_that_cannot_be_written_works_once_it_can(project: Workspace) -> None:
    indexes = project.root / "indexes"
    indexes.rename(project.root / "aside")
    indexes.write_text("not a folder", "utf-8")
    assert run(project.root, "upgrade").code == TEMPORARY

    indexes.unlink()
    (project.root / "aside").rename(indexes)

    assert run(project.root, "upgrade").code == 0


def test_alembic_itself_is_sent_away_without_a_traceback(project: Workspace) -> None:
    (project.root / "alembic.ini").write_text("[alembic]\nscript_location = migrations\n", "utf-8")
    before = project.snapshot()

    ended = subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        cwd=project.root,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode != 0
    assert "belong to embedmigrate" in ended.stdout + ended.stderr
    assert "embedmigrate upgrade" in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    assert project.snapshot() == before


def test_an_operation_in_a_migration_of_alembic_is_refused() -> None:
    context = MigrationContext.configure(dialect_name="sqlite", opts={"as_sql": True})

    with Operations.context(context), pytest.raises(ScriptError, match="outside of embedmigrate"):
        op.rollback("articles", to=None)


def test_no_configuration_at_all_says_how_to_begin(tmp_path: Path) -> None:
    answer = run(tmp_path, "status")

    assert answer.code == CONFIGURATION
    assert "no embedmigrate.toml" in answer.err and "next:     embedmigrate init" in answer.err
    assert list(tmp_path.iterdir()) == []


def test_scripts_that_were_never_made_say_how_to_begin(tmp_path: Path) -> None:
    (tmp_path / "embedmigrate.toml").write_text("", "utf-8")

    answer = run(tmp_path, "upgrade")

    assert answer.code == CONFIGURATION
    assert "no migration scripts" in answer.err
    assert "next:     embedmigrate init migrations" in answer.err
    assert [file.name for file in tmp_path.iterdir()] == ["embedmigrate.toml"]
