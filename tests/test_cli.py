"""The command line as a program: help, streams, documents, exit codes, and what it imports."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import embedmigrate
from docs import generate_cli
from embedmigrate import command
from embedmigrate.cli import cli
from tests.command_line import run
from tests.workspace import ARTICLES, Workspace, documents

A1, A2 = "a1a1a1a1a1a1", "a2a2a2a2a2a2"


@pytest.fixture
def project(tmp_path: Path) -> Workspace:
    """`fake-a` live, a revision to `fake-b` pending."""
    workspace = Workspace.make(
        tmp_path / "project",
        collections=ARTICLES.replace('"wordllama"', '"fake-a"'),
        pin=("fake-a", "fake-b"),
    )
    settings = workspace.settings
    command.revision(settings, "first", collection="articles", rev_id=A1)
    workspace.upgrade()
    command.revision(settings, "second", collection="articles", to="fake-b", rev_id=A2)
    return workspace


def document(workspace: Workspace, *args: str, code: int = 0) -> Any:
    """The one JSON document on standard output."""
    answer = run(workspace.root, *args, "--json")
    assert answer.code == code, answer.err
    return json.loads(answer.out)


# -- help -------------------------------------------------------------------------------------

COMMANDS = [
    *("adopt", "audit", "branches", "cancel", "capture", "check", "contract", "current", "cutover"),
    *("doctor", "downgrade", "drift", "edit", "ensure-version", "heads", "history", "init"),
    *("list-templates", "merge", "pause", "pin", "plan", "resume", "revision", "rollback"),
    *("search", "show", "stamp", "status", "sync", "upgrade", "verify"),
]


def test_the_program_has_every_command() -> None:
    assert sorted(cli.commands) == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_explains_itself(name: str) -> None:
    answer = run(Path.cwd(), name, "--help")

    assert answer.code == 0 and answer.err == ""
    assert cli.commands[name].help
    for parameter in cli.commands[name].params:
        if parameter.param_type_name == "option" and parameter.name != "k":
            assert getattr(parameter, "help", None), f"{name} {parameter.opts} has no help"


def test_the_list_of_commands_is_not_cut_off() -> None:
    assert "..." not in generate_cli.help_of().replace("[ARGS]...", "")


def test_the_reference_is_what_help_prints() -> None:
    assert generate_cli.PATH.read_text("utf-8") == generate_cli.render(), (
        "run python docs/generate_cli.py"
    )


def test_help_answers_at_once_and_imports_nothing_heavy() -> None:
    heavy = {"alembic", "sqlalchemy", "numpy", "faiss", "pydantic", "onnxruntime", "tokenizers"}
    code = (
        "import sys; from embedmigrate.cli import cli\n"
        "for args in (['--help'], ['upgrade', '--help']):\n"
        "    cli.main(args, standalone_mode=False)\n"
        f"print(sorted({heavy!r} & sys.modules.keys()), file=sys.stderr)"
    )

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ended.stderr.strip() == "[]"


def test_help_answers_in_less_than_a_third_of_a_second() -> None:
    def once() -> float:
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "embedmigrate", "--help"], check=True, capture_output=True
        )
        return time.perf_counter() - start

    assert any(once() < 0.3 for _ in range(20)), "not even on the best of twenty occasions"


def test_the_module_is_the_same_program(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "embedmigrate", "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == f"embedmigrate, version {embedmigrate.__version__}\n"


def test_an_application_imports_no_alembic_and_no_command_line(project: Workspace) -> None:
    code = (
        "import sys; from embedmigrate import Collection\n"
        "with Collection.open('articles') as articles: articles.search('x')\n"
        "print(sorted({'alembic', 'click', 'mako', 'tqdm'} & sys.modules.keys()))"
    )

    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=project.root, capture_output=True, text=True, check=True
    )

    assert ended.stdout == "[]\n"


# -- streams and configuration ----------------------------------------------------------------


def test_results_go_to_standard_output_and_progress_to_standard_error(project: Workspace) -> None:
    answer = run(project.root, "upgrade")

    assert answer.out == (
        "articles: fake-b is live in index articles-0002, generation 2 "
        "(40 documents, 0 skipped, 40 embedded)\n"
    )
    assert "articles: embedding: 40 of 40 documents" in answer.err


def test_quiet_keeps_standard_error_empty_and_errors_are_still_told(project: Workspace) -> None:
    assert run(project.root, "-q", "upgrade").err == ""
    assert run(project.root, "-q", "search", "nope", "text").err.startswith("error: ")


def test_progress_on_a_terminal_less_stream_is_plain_lines(project: Workspace) -> None:
    ended = project.run("upgrade")

    assert ended.returncode == 0
    assert "\r" not in ended.stderr and "\x1b" not in ended.stderr
    assert ended.stdout.count("\n") == 1


def test_the_configuration_can_be_named(project: Workspace, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    file = str(project.root / "embedmigrate.toml")

    assert run(elsewhere, "-c", file, "current").out == f"{A1}\n"
    assert run(elsewhere, "current").code == 78
    assert run(elsewhere, "-c", "gone.toml", "current").code == 78


def test_the_configuration_is_found_from_a_folder_below(project: Workspace) -> None:
    assert run(project.root / "migrations" / "versions", "current").out == f"{A1}\n"


@pytest.mark.parametrize(
    "args",
    [
        ("nonsense",),
        ("upgrade", "--nonsense"),
        ("search", "articles"),
        ("search", "articles", "text", "-k", "0"),
        ("search", "articles", "text", "-k", "many"),
        ("search", "articles", "text", "--filter", "topic"),
        ("search", "articles", "text", "--filter", "=law"),
        ("upgrade", "--until", "tomorrow"),
        ("upgrade", "--sql", A1, A2),
        ("merge",),
        ("stamp",),
        ("init", "--template", "nonsense"),
        ("init", "--template", "../default"),
        ("verify", "--index", "articles-0001"),
        ("verify", "articles", "--index", "articles-0009"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_meant_is_a_usage_error(project: Workspace, args: tuple[str, ...]) -> None:
    answer = run(project.root, *args)

    assert answer.code == 2 and answer.out == ""
    assert "Usage:" in answer.err or "next:" in answer.err


# -- documents --------------------------------------------------------------------------------


def shape(value: Any) -> Any:
    """The keys of a document, at every depth; of a list, those of its first entry."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "a value"


def assert_as_documented(name: str, found: Any) -> None:
    expected, actual = generate_cli.JSON[name], found
    for key in ("measured", "metadata", "by_fingerprint", *(["model"] if name == "pin" else [])):
        expected, actual = replaced(expected, key), replaced(actual, key)
    assert covers(shape(expected), shape(actual)), f"{name}: {shape(actual)}"


def replaced(value: Any, key: str) -> Any:
    """Leave out what differs from case to case: what was measured, an identity."""
    if isinstance(value, dict):
        return {name: "…" if name == key else replaced(item, key) for name, item in value.items()}
    return [replaced(item, key) for item in value] if isinstance(value, list) else value


def covers(documented: Any, found: Any) -> bool:
    """Whether both have the same keys; a null or an empty list may stand for what is not there."""
    if isinstance(documented, dict) and isinstance(found, dict):
        return documented.keys() == found.keys() and all(
            covers(documented[key], found[key]) for key in documented
        )
    if isinstance(documented, list) and isinstance(found, list):
        return not documented or not found or covers(documented[0], found[0])
    return True


def test_every_document_has_the_shape_that_the_reference_shows(project: Workspace) -> None:
    def told(name: str, *args: str, code: int = 0) -> Any:
        answered.add(name)
        found = document(project, name, *args, code=code)
        assert found["schema"] == 1
        assert_as_documented(name, found)
        return found

    answered: set[str] = set()
    told("list-templates")
    told("pin", "fake-a")
    told("drift", "fake-a")
    told("doctor")
    assert told("plan")["collections"][0]["documents"] == 40
    told("check", code=3)
    assert told("upgrade", "--until", "ready")["collections"][0]["state"] == "ready"
    assert told("status")["collections"][0]["shadow"]["state"] == "ready"
    assert told("pause", "articles")["collections"][0]["state"] == "paused"
    assert told("status")["collections"][0]["request"]["wanted"] == "pause"
    assert told("upgrade")["collections"][0]["held"]
    assert told("resume", "articles")["collections"][0]["request"] is None
    assert told("cancel", "articles")["collections"][0]["state"] == "cancelled"
    document(project, "upgrade", "--until", "ready", "--again", "after all")
    assert told("cutover")["applied"] == [A2]
    assert told("status")["collections"][0]["retained"][0]["model"] == "fake-a"
    assert told("verify")["holds"] is True
    assert told("audit", "articles")["clean"] is True
    assert told("search", "articles", "a telescope", "-k", "1")["generation"] == 2
    assert told("sync")["collections"][0]["changes"] == "comparison"
    assert told("rollback", "articles", "--reason", "why not")["undone"] == [A2]
    assert told("downgrade", "base")["collections"][0]["live"] is None
    project.let_grace_pass()
    assert sorted(told("contract")["collections"][0]["dropped"]) == [
        "articles-0001",
        "articles-0002",
    ]
    assert answered | {"capture install", "capture remove"} == generate_cli.JSON.keys()


def test_the_status_document_has_the_contracted_keys(project: Workspace) -> None:
    run(project.root, "upgrade", "--until", "ready")

    (entry,) = document(project, "status")["collections"]

    assert {"collection", "live", "shadow", "retained", "revision"} <= entry.keys()
    assert {"index", "fingerprint", "model", "generation", "documents"} <= entry["live"].keys()
    assert {"state", "done", "total"} <= entry["shadow"].keys()
    assert entry["live"] | {"fingerprint": ""} == {
        "index": "articles-0001",
        "container": "articles-0001",
        "fingerprint": "",
        "model": "fake-a",
        "assurance": "pinned",
        "provenance": "built",
        "generation": 1,
        "documents": 40,
        "lag": {"entries": 0, "seconds": 0.0},
        "changes": "comparison",
        "compared_at": entry["live"]["compared_at"],
    }
    assert entry["live"]["compared_at"] > 0
    assert (entry["retained"], entry["revision"]) == ([], A1)
    assert (entry["shadow"]["done"], entry["shadow"]["total"]) == (40, 40)


def test_a_status_of_nothing_is_null_and_empty_lists(tmp_path: Path) -> None:
    workspace = Workspace.make(tmp_path / "project", pin=())

    command.pin(workspace.to_pin, "wordllama")
    (entry,) = document(workspace, "status")["collections"]

    assert entry == {
        "collection": "articles",
        "live": None,
        "shadow": None,
        "retained": [],
        "dead_letters": [],
        "revision": None,
        "runner": None,
        "follower": None,
        "request": None,
        "waiting": None,
    }


def test_a_status_says_when_the_live_index_cannot_be_opened(project: Workspace) -> None:
    shutil.rmtree(project.root / "indexes")

    assert "articles-0001, generation 1, cannot be opened" in run(project.root, "status").out
    assert document(project, "status")["collections"][0]["live"]["documents"] is None


def test_an_index_that_was_kept_is_not_said_to_be_empty(project: Workspace) -> None:
    run(project.root, "upgrade")
    run(project.root, "rollback", "articles")

    out = run(project.root, "upgrade", "--again", "the prompt is right now").out

    assert (
        out == "articles: fake-b is live in index articles-0002, generation 4 "
        "(40 documents, 0 skipped, 0 embedded)\n"
    )


def test_the_search_document_has_the_contracted_keys(project: Workspace) -> None:
    found = document(project, "search", "articles", "a telescope", "-k", "3")

    assert {"generation", "model", "hits"} <= found.keys()
    assert (found["generation"], found["model"], len(found["hits"])) == (1, "fake-a", 3)
    assert {"id", "score"} <= found["hits"][0].keys()


def test_documents_keep_letters_of_every_alphabet(project: Workspace) -> None:
    project.write_corpus([{"_id": "ж-1", "title": "", "text": "x", "topic": "Право"}])
    run(project.root, "upgrade", "--yes")

    answer = run(project.root, "search", "articles", "x", "--json")

    assert '"ж-1"' in answer.out and '"Право"' in answer.out


def test_nothing_to_do_is_an_empty_document(project: Workspace) -> None:
    run(project.root, "upgrade")

    assert document(project, "upgrade") == {"schema": 1, "collections": [], "applied": []}
    assert document(project, "plan") == {"schema": 1, "collections": []}


def test_when_one_collection_fails_the_document_tells_of_all(tmp_path: Path) -> None:
    papers = ARTICLES.replace("articles", "papers").replace("corpus.jsonl", "papers.jsonl")
    workspace = Workspace.make(
        tmp_path / "project",
        collections=(ARTICLES + papers).replace('"wordllama"', '"fake-a"'),
        pin=("fake-a",),
    )
    for collection in ("articles", "papers"):
        workspace.revision("fake-a", collection=collection)

    found = document(workspace, "upgrade", code=78)

    told = {entry["collection"]: entry for entry in found["collections"]}
    articles, papers = told["articles"], told["papers"]
    assert (articles["state"], articles["live"], articles["error"]) == ("ready", True, None)
    assert (papers["state"], papers["live"]) == ("failed", False)
    assert "papers.jsonl cannot be read" in papers["error"]
    assert_as_documented("upgrade", found)


# -- searching, verifying, checking -----------------------------------------------------------


@pytest.fixture
def searchable(tmp_path: Path) -> Workspace:
    """A corpus with numbers and lists in its metadata, live with a real model."""
    corpus = [
        {**entry, "year": 2000 + number % 3, "open": number % 2 == 0}
        for number, entry in enumerate(documents(24))
    ]
    workspace = Workspace.make(
        tmp_path / "project",
        corpus=corpus,
        collections=ARTICLES.replace('["topic"]', '["topic", "year", "open"]'),
        pin=("wordllama",),
    )
    workspace.revision("wordllama")
    workspace.upgrade()
    return workspace


def topics(workspace: Workspace, *args: str) -> list[Any]:
    found = document(workspace, "search", "articles", "bread in the oven", *args)
    return [hit["metadata"] for hit in found["hits"]]


def test_search_prints_score_and_id_best_first(searchable: Workspace) -> None:
    lines = run(searchable.root, "search", "articles", "bread in the oven", "-k", "4").out
    scores = [float(line.split()[0]) for line in lines.splitlines()]

    assert len(scores) == 4 and scores == sorted(scores, reverse=True)
    assert {entry["topic"] for entry in topics(searchable, "-k", "4")} == {"baking"}


def test_search_filters_by_text_number_truth_and_lists(searchable: Workspace) -> None:
    assert {entry["topic"] for entry in topics(searchable, "--filter", "topic=law")} == {"law"}
    assert {entry["year"] for entry in topics(searchable, "--filter", "year=2001")} == {2001}
    assert {entry["open"] for entry in topics(searchable, "--filter", "open=true")} == {True}
    either = topics(searchable, "-k", "24", "--filter", 'topic=["law", "sailing"]')
    assert {entry["topic"] for entry in either} == {"law", "sailing"} and len(either) == 12
    both = topics(searchable, "--filter", "topic=law", "--filter", "year=2001")
    assert {(entry["topic"], entry["year"]) for entry in both} == {("law", 2001)}
    assert topics(searchable, "--filter", "topic=gardening") == []


def test_a_search_for_more_than_there_is_gives_all_there_is(searchable: Workspace) -> None:
    assert len(topics(searchable, "-k", "10000")) == 24


def test_verify_passes_a_whole_index_and_names_every_invariant(project: Workspace) -> None:
    answer = run(project.root, "verify")

    assert answer.code == 0
    assert [line.split()[2] for line in answer.out.splitlines()] == [
        f"I{number}" for number in range(1, 8)
    ]
    assert "DOES NOT HOLD" not in answer.out


def test_verify_ends_with_3_when_the_source_went_on_alone(project: Workspace) -> None:
    corpus = documents(40)
    corpus[3]["text"] = "rewritten"
    del corpus[5]
    project.write_corpus([*corpus, {"_id": "new", "title": "", "text": "new", "topic": "x"}])
    before = project.snapshot()

    answer = run(project.root, "verify", "articles")

    assert answer.code == 3
    broken = {line.split()[2] for line in answer.out.splitlines() if "DOES NOT HOLD" in line}
    assert broken == {"I1", "I2", "I5"}
    assert document(project, "verify", code=3)["holds"] is False
    assert live_part(project.snapshot()) == live_part(before)


def live_part(snapshot: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in snapshot.items() if not name.startswith(".embed")}


def test_verify_takes_a_retained_index_by_name(project: Workspace) -> None:
    run(project.root, "upgrade")

    answer = run(project.root, "verify", "articles", "--index", "articles-0001")

    assert answer.code == 0 and "articles-0001" in answer.out


def test_check_agrees_only_when_configuration_scripts_and_catalog_do(project: Workspace) -> None:
    def differences(code: int = 3) -> str:
        answer = run(project.root, "check")
        assert answer.code == code
        return answer.out

    pending = differences()
    assert f"revision {A2} is pending" in pending and "model: configured fake-a@" in pending

    run(project.root, "upgrade")
    assert "is pending" not in differences()

    project.edit_config('model = "fake-a"', 'model = "fake-b"')
    assert differences(code=0) == "articles: agrees\n"

    project.edit_config('text = ["title", "text"]', 'text = ["text"]')
    assert "recipe: configured text joined by" in differences()
    project.edit_config('text = ["text"]', 'text = ["title", "text"]')

    project.edit_config('path = "indexes"', 'path = "indexes", factory = "HNSW32"')
    assert "index: configured HNSW32" in differences()


def test_a_downgrade_makes_check_disagree(project: Workspace) -> None:
    run(project.root, "upgrade")
    run(project.root, "rollback", "articles")

    assert run(project.root, "check").code == 3


def test_a_project_without_collections_has_nothing_to_tell(tmp_path: Path) -> None:
    assert run(tmp_path, "init").code == 0

    for name in ("status", "plan", "check", "upgrade", "cutover"):
        assert run(tmp_path, name).code == 0
        assert json.loads(run(tmp_path, name, "--json").out)["collections"] == []


def test_a_reader_that_stops_listening_gets_no_traceback(project: Workspace) -> None:
    """`embedmigrate verify --json | head -1`."""
    ended = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m embedmigrate history -v | true"],
        cwd=project.root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in ended.stderr and "BrokenPipe" not in ended.stderr
