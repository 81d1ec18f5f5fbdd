"""Models in Hugging Face's cache: one commit each, found without a network and without its library.

The cache is laid out by hand; the library, which is installed here, is asked what it finds in it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from embedmigrate import Collection, command
from embedmigrate.embedders.files import FilesConfig, package_folder
from embedmigrate.embedders.hub import find_snapshot, snapshot_of
from embedmigrate.errors import ConfigError, UnpinnedReference
from embedmigrate.models.references import ALLOW_UNPINNED
from tests.command_line import run
from tests.embedders.handmade_models import identify, load, write_snapshot, write_st_folder
from tests.workspace import ARTICLES, GENERAL, Workspace

OLD, NEW, ALIKE = "0a1b" + "1" * 36, "2f3e" + "9" * 36, "0a1b" + "2" * 36
REPO = "acme/tiny"
ONNX = {"provider": "onnx", "repo": REPO, "revision": OLD}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with three commits of a tiny model; ``main`` and the tag ``v1`` are the old one."""
    cache = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    write_st_folder(tmp_path / "source")
    write_snapshot(cache, REPO, OLD, tmp_path / "source", "main", "v1", "refs/pr/3")
    write_snapshot(cache, REPO, NEW, tmp_path / "source", "next")
    write_snapshot(cache, REPO, ALIKE, tmp_path / "source")
    return cache


# -- a commit ----------------------------------------------------------------------------------


def test_a_model_in_the_cache_is_the_same_space_as_its_files_elsewhere(
    cache: Path, tmp_path: Path
) -> None:
    cached = identify(tmp_path, **ONNX)
    plain = identify(tmp_path, provider="onnx", path="source")

    assert cached.revision == OLD and plain.revision == ""
    assert cached.fingerprint == plain.fingerprint, "where files lie is no part of the identity"

    vectors = load(tmp_path, cached, **ONNX).embed_documents(["red green", "blue"])
    there = load(tmp_path, plain, provider="onnx", path="source")
    assert np.array_equal(vectors, there.embed_documents(["red green", "blue"]))


def test_a_folder_inside_of_the_repository_may_be_meant(cache: Path, tmp_path: Path) -> None:
    write_st_folder(tmp_path / "nested" / "deep" / "model")
    write_snapshot(cache, "acme/nested", OLD, tmp_path / "nested")

    model = identify(tmp_path, **ONNX | {"repo": "acme/nested", "folder": "deep/model"})

    assert model.fingerprint == identify(tmp_path, **ONNX).fingerprint
    assert model.revision == OLD


@pytest.mark.parametrize("below", ["", "1_Pooling"])
def test_a_path_that_is_a_snapshot_is_recognised(cache: Path, tmp_path: Path, below: str) -> None:
    folder = cache / "models--acme--tiny" / "snapshots" / OLD
    (tmp_path / "link").symlink_to(folder)

    for place in (folder / below, tmp_path / "link" / below):
        snapshot = snapshot_of(place)
        assert snapshot is not None and (snapshot.repo, snapshot.commit) == (REPO, OLD)
    assert identify(tmp_path, provider="onnx", path="link").revision == OLD


def test_a_folder_that_only_looks_like_a_commit_is_not_taken_for_one(tmp_path: Path) -> None:
    assert snapshot_of(tmp_path / "snapshots" / OLD) is None
    assert snapshot_of(tmp_path / "models--a--b" / "snapshots" / "main") is None


def test_what_is_not_in_the_cache_is_named_with_the_command_that_fetches_it(
    cache: Path, tmp_path: Path
) -> None:
    absent = "f" * 40
    with pytest.raises(ConfigError, match="is not in the local Hugging Face cache") as caught:
        identify(tmp_path, **ONNX | {"revision": absent})
    fetch = f"huggingface-cli download acme/tiny --revision {absent}"
    assert str(caught.value.next_step).startswith(fetch)
    assert str(cache) in str(caught.value.expected)


def test_a_file_that_was_not_fetched_is_named_with_the_command_that_fetches_it(
    cache: Path, tmp_path: Path
) -> None:
    (cache / "models--acme--tiny" / "snapshots" / OLD / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match="has no tokenizer file") as caught:
        identify(tmp_path, **ONNX)
    assert f"huggingface-cli download acme/tiny --revision {OLD}" in str(caught.value.next_step)


# -- as the library finds it -------------------------------------------------------------------


@pytest.mark.parametrize("revision", [OLD, NEW, "main", "v1", "next", "refs/pr/3"])
def test_the_library_finds_the_same_folder(cache: Path, revision: str) -> None:
    library = pytest.importorskip("huggingface_hub")
    folder = library.snapshot_download(
        REPO, revision=revision, cache_dir=cache, local_files_only=True
    )
    assert find_snapshot(REPO, revision).folder == Path(folder)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"XDG_CACHE_HOME": "/xdg"},
        {"XDG_CACHE_HOME": "/xdg", "HF_HOME": "~/hf"},
        {"HF_HOME": "/hf", "HF_HUB_CACHE": "$HOME/cache"},
    ],
)
def test_the_library_looks_into_the_same_cache(environment: dict[str, str]) -> None:
    pytest.importorskip("huggingface_hub")
    script = (
        "from embedmigrate.embedders.hub import cache_folder; mine = str(cache_folder())\n"
        "from huggingface_hub.constants import HF_HUB_CACHE; print([mine, HF_HUB_CACHE])"
    )
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "HUGGINGFACE_", "XDG_"))
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    mine, theirs = json.loads(done.stdout.replace("'", '"'))
    assert mine == theirs


def test_nothing_is_imported_and_nobody_is_called(cache: Path, tmp_path: Path) -> None:
    script = f"""
import socket, sys
from pathlib import Path
def refuse(*args, **options):
    raise AssertionError("a connection")
socket.socket.connect = socket.create_connection = refuse
from embedmigrate.registry import adapter
cls = adapter("embedders", "onnx")
model = cls.identify("m", cls.Config.model_validate({ONNX!r}), Path({str(tmp_path)!r}))
assert model.revision == {OLD!r}
print(sorted(name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# -- what is not a commit ----------------------------------------------------------------------

MOVING = {
    "empty": "",
    "branch main": "main",
    "branch master": "master",
    "HEAD": "HEAD",
    "a reference": "refs/heads/main",
    "another branch": "next",
    "a tag": "v1",
    "an abbreviated hash": NEW[:12],
    "nearly a hash": NEW[:39],
    "a wildcard": "0a1b*",
    "a range": ">=1,<2",
    "no revision": None,
}
RESOLVABLE = {
    "empty": OLD,
    "branch main": OLD,
    "another branch": NEW,
    "a tag": OLD,
    "an abbreviated hash": NEW,
    "nearly a hash": NEW,
    "no revision": OLD,
}


@pytest.mark.parametrize("revision", MOVING.values(), ids=MOVING)
def test_a_revision_that_can_move_is_refused_unless_a_pin_is_made(revision: str | None) -> None:
    declaration = {"provider": "onnx", "repo": REPO, "revision": revision}

    with pytest.raises(ValidationError) as caught:
        FilesConfig.model_validate(declaration)
    (fault,) = caught.value.errors()
    assert fault["type"] == "unpinned_reference"

    allowed = FilesConfig.model_validate(declaration, context={ALLOW_UNPINNED: True})
    assert allowed.revision == revision


@pytest.mark.parametrize(
    ("revision", "commit"),
    [(MOVING[form], commit) for form, commit in RESOLVABLE.items()],
    ids=RESOLVABLE,
)
def test_the_cache_knows_which_commit_is_meant(
    cache: Path, revision: str | None, commit: str
) -> None:
    assert find_snapshot(REPO, revision).commit == commit


@pytest.mark.parametrize(
    "revision",
    [
        *("master", "HEAD", "refs/heads/main", "0a1b*", ">=1,<2", "../refs/main", "/etc/passwd"),
        "0a1b",  # two commits begin so
        "2f3",  # too short to mean anything
    ],
)
def test_a_revision_that_the_cache_does_not_know_is_not_guessed(cache: Path, revision: str) -> None:
    with pytest.raises(ConfigError, match="is not in the local Hugging Face cache"):
        find_snapshot(REPO, revision)


@pytest.mark.parametrize(
    ("revision", "what"),
    [("0a1b*", "a wildcard"), (">=1,<2", "a range of versions"), ("", "an empty revision")],
)
def test_nothing_is_fetched_by_a_name_that_nothing_can_have(
    cache: Path, revision: str, what: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        find_snapshot(REPO, revision or " ")
    assert (
        caught.value.next_step == f"write a commit, a tag or a branch of {REPO} there, not {what}"
    )


def test_a_hash_in_capital_letters_is_called_what_it_is() -> None:
    declaration = {"provider": "onnx", "repo": REPO, "revision": OLD.upper()}
    with pytest.raises(ValidationError, match="in capital letters"):
        FilesConfig.model_validate(declaration)


def test_a_branch_whose_reference_holds_no_commit_is_not_followed(cache: Path) -> None:
    (cache / "models--acme--tiny" / "refs" / "main").write_text("../../elsewhere")
    (cache / "elsewhere").mkdir()
    with pytest.raises(ConfigError, match="is not in the local Hugging Face cache"):
        find_snapshot(REPO, "main")


@pytest.mark.parametrize("repo", ["", "a/b/c", "../tiny", "acme/..", "a--b", "a b", "/tiny", "x/"])
def test_what_is_no_name_of_a_repository_is_refused(repo: str) -> None:
    with pytest.raises(ValidationError, match="not the name of a Hugging Face repository"):
        FilesConfig(provider="onnx", repo=repo, revision=OLD)


@pytest.mark.parametrize("place", [{"path": "model"}, {"package": "wordllama"}, {}])
def test_a_revision_belongs_to_a_repository(place: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="there is no repo"):
        FilesConfig(provider="onnx", revision=OLD, **place)


def test_a_declaration_names_one_of_the_three_places() -> None:
    with pytest.raises(ValidationError, match="found several"):
        FilesConfig(provider="onnx", repo=REPO, revision=OLD, path="model")


# -- in a project ------------------------------------------------------------------------------

WORDS = """
[models.words]
provider = "static"
repo = "acme/words"
revision = "REVISION"
weights = "model.safetensors"
tokenizer = "tokenizer.json"
normalize = true
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project whose model is wordllama as a commit of a repository, and the cache beside it."""
    root = tmp_path_factory.mktemp("built")
    package, source = package_folder("wordllama"), root / "source"
    source.mkdir()
    (source / "model.safetensors").symlink_to(package / "weights" / "l2_supercat_256.safetensors")
    (source / "tokenizer.json").symlink_to(
        package / "tokenizers" / "l2_supercat_tokenizer_config.json"
    )
    for commit, refs in ((NEW, ("main", "next", "v1")), (ALIKE, ())):
        write_snapshot(root / "hub", "acme/words", commit, source, *refs)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_HUB_CACHE", str(root / "hub"))
        workspace = Workspace.make(
            root / "project",
            collections=ARTICLES.replace('"wordllama"', '"words"'),
            general=GENERAL + WORDS.replace("REVISION", NEW),
            pin=("words",),
        )
        workspace.revision("words", "first index")
        workspace.upgrade()
        yield root


@pytest.fixture
def project(built: Path, tmp_path: Path) -> Workspace:
    """A copy of it."""
    shutil.copytree(built / "project", tmp_path / "project")
    return Workspace(tmp_path / "project")


def test_a_repository_serves_a_collection(project: Workspace) -> None:
    with Collection.open("articles", project.settings) as articles:
        hits = articles.search("stars in the sky at night", k=2).hits
    assert {hit.metadata["topic"] for hit in hits} == {"astronomy"}
    assert command.check(project.settings)["agrees"]


@pytest.mark.parametrize("form", MOVING)
def test_no_command_and_no_application_starts_with_a_revision_that_can_move(
    project: Workspace, form: str
) -> None:
    """Every form, by the command line and by an application; `pin` takes what it can resolve."""
    revision = MOVING[form]
    line = "" if revision is None else f'revision = "{revision}"'
    project.edit_config(f'revision = "{NEW}"', line)
    before = project.snapshot()

    for words in (["status"], ["upgrade"], ["check"], ["drift"], ["search", "articles", "stars"]):
        answer = run(project.root, *words)
        assert answer.code == 78, (words, answer)
        assert "models.words" in answer.err and "next:     embedmigrate pin words" in answer.err
    with pytest.raises(UnpinnedReference) as refused:
        Collection.open("articles", project.root / "embedmigrate.toml")
    assert refused.value.exit_code == 78
    assert project.snapshot() == before


@pytest.mark.parametrize("form", ["branch main", "an abbreviated hash", "no revision"])
def test_pin_resolves_it_and_says_which_line_to_write(project: Workspace, form: str) -> None:
    revision = MOVING[form]
    unpinned = "" if revision is None else f'revision = "{revision}"'
    project.edit_config(f'revision = "{NEW}"', unpinned)

    answer = run(project.root, "pin", "words")

    assert answer.code == 0, answer.err
    line = f'revision = "{NEW}"'
    assert answer.out.splitlines()[-1] == f"now put into [models.words]: {line}"

    project.edit_config('repo = "acme/words"\n' + unpinned, f'repo = "acme/words"\n{line}')
    assert command.pin(project.to_pin, "words")["configure"] is None
    assert run(project.root, "status").code == 0


def test_pin_says_what_to_fetch_where_the_cache_does_not_know_a_branch(
    project: Workspace,
) -> None:
    project.edit_config(f'revision = "{NEW}"', 'revision = "master"')
    answer = run(project.root, "pin", "words")
    assert answer.code == 78
    assert "huggingface-cli download acme/words --revision master" in answer.err
    assert "main, next, v1" in answer.err, "what there is instead"


def test_the_pin_file_states_repository_commit_and_files(project: Workspace) -> None:
    (path,) = (project.root / "migrations" / "models").glob("words.*.json")
    stated = json.loads(path.read_text("utf-8"))

    assert stated["model"]["revision"] == NEW
    assert stated["package"]["source"] == f"acme/words@{NEW}"
    assert [file["path"] for file in stated["package"]["files"]] == [
        "model.safetensors",
        "tokenizer.json",
    ]


def test_the_same_files_in_another_commit_are_the_same_model(project: Workspace) -> None:
    project.edit_config(f'revision = "{NEW}"', f'revision = "{ALIKE}"')

    assert command.check(project.settings)["agrees"]

    result = command.pin(project.to_pin, "words")
    assert result["model"]["revision"] == ALIKE
    assert result["package"]["source"] == f"acme/words@{ALIKE}"
    assert len(list(project.settings.pins.glob("words.*.json"))) == 1
