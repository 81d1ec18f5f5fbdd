"""Vendored models: copied whole, loaded from the copy alone, refused by name when not whole."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedmigrate import Collection, command, resolve
from embedmigrate.embedders.base import Embedder
from embedmigrate.embedders.files import FilesConfig, file_digest, package_folder
from embedmigrate.embedders.package import survey
from embedmigrate.embedders.vendoring import place_in, vendor
from embedmigrate.errors import (
    ConfigError,
    DigestMismatch,
    StorageUnavailable,
    UnsupportedModel,
    UsageError,
)
from embedmigrate.models.pin_file import Pin, read_pins
from embedmigrate.registry import adapter
from tests.command_line import run
from tests.embedders.handmade_models import (
    MINILM,
    WORDLLAMA,
    WORDS,
    write_json,
    write_onnx,
    write_snapshot,
    write_st_folder,
    write_static,
    write_tokenizer,
)
from tests.workspace import ARTICLES, GENERAL, Workspace

COMMIT, OTHER_COMMIT = "c" * 40, "d" * 40

TINY = """
[models.tiny]
provider = "onnx"
path = "models/tiny"
"""

IN_WORDLLAMA = """package = "wordllama"
weights = "weights/l2_supercat_256.safetensors"
tokenizer = "tokenizers/l2_supercat_tokenizer_config.json"
normalize = true

# the same"""
"""Where [models.wordllama] of a workspace says that its files lie."""


def corpus() -> list[dict[str, str]]:
    """Documents of the few words that a handmade model knows, no two of one direction."""
    mixtures = itertools.combinations_with_replacement(WORDS[4:9], 3)
    return [
        {"_id": f"doc-{number}", "title": "deep", "text": " ".join(words), "topic": words[0]}
        for number, words in enumerate(mixtures)
    ]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny`, a whole sentence-transformers folder, vendored, live, and gone from where it was."""
    root = tmp_path_factory.mktemp("built") / "project"
    write_tiny(root / "models" / "tiny")
    workspace = Workspace.make(
        root,
        corpus=corpus(),
        collections=ARTICLES.replace('"wordllama"', '"tiny"'),
        general=GENERAL + TINY,
        pin=("tiny",),
    )
    command.pin(workspace.to_pin, "tiny", vendor="vendor")
    shutil.move(root / "models" / "tiny", root / "elsewhere")
    workspace.revision("tiny", "first index")
    workspace.upgrade()
    return root


def write_tiny(folder: Path) -> None:
    """Weights in two files, a tokenizer, settings of every kind; and what nobody needs."""
    write_st_folder(folder, prompts={"prompts": {"query": "query ", "document": "passage "}})
    write_onnx(folder / "model.onnx", external="model.onnx_data")
    write_json(folder / "tokenizer_config.json", {"model_max_length": 8})
    write_json(folder / "special_tokens_map.json", {"unk_token": "[UNK]"})
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    (folder / "modeling_tiny.py").write_text("raise SystemExit('code was run')\n")
    (folder / "README.md").write_text("# Tiny\n")


TINY_FILES = [
    "1_Pooling/config.json",
    "config.json",
    "config_sentence_transformers.json",
    "model.onnx",
    "model.onnx_data",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
]


@pytest.fixture
def project(built: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(built, tmp_path / "project", symlinks=True)
    return Workspace(tmp_path / "project")


def pin_of(workspace: Workspace, name: str = "tiny") -> Pin:
    (pin,) = read_pins(workspace.settings.pins, name)
    return pin


def vendored(workspace: Workspace, name: str = "tiny") -> Path:
    return workspace.root / pin_of(workspace, name).vendored


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def change_one_byte(path: Path) -> None:
    """In place, of the same length, with the time of before: only the digest can tell."""
    before = path.stat()
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


# -- what a copy is ----------------------------------------------------------------------------


def test_a_copy_is_the_whole_package_and_nothing_else(project: Workspace) -> None:
    folder = vendored(project)
    assert sorted(contents(folder)) == TINY_FILES
    for name in TINY_FILES:
        path = folder / name
        assert stat.S_ISREG(path.lstat().st_mode)
        assert stat.S_IMODE(path.stat().st_mode) == 0o444, "nobody writes to it by mistake"
        assert path.read_bytes() == (project.root / "elsewhere" / name).read_bytes()
    assert [path.name for path in (project.root / "vendor").iterdir()] == [folder.name]


def test_the_pin_file_lists_every_file_with_digest_and_size(project: Workspace) -> None:
    pin = pin_of(project)
    assert pin.package is not None
    assert pin.package.source == "models/tiny"
    assert pin.package.layout == {"weights": "model.onnx", "tokenizer": "tokenizer.json"}
    assert [file.path for file in pin.package.files] == TINY_FILES
    for file in pin.package.files:
        path = vendored(project) / file.path
        assert (file.sha256, file.size) == (file_digest(path), path.stat().st_size)


def test_a_copy_is_named_for_what_is_in_it(project: Workspace) -> None:
    """Relative to the project, and the same name for the same files, whoever makes it."""
    pin = pin_of(project)
    assert pin.vendored == f"vendor/{vendored(project).name}"
    shutil.move(project.root / "elsewhere", project.root / "models" / "tiny")
    result = command.pin(project.to_pin, "tiny", vendor=project.root / "third_party" / "models")
    assert result["package"]["vendored"] == f"third_party/models/{vendored(project).name}"

    (project.root / "models" / "tiny" / "special_tokens_map.json").write_text("{}")
    result = command.pin(project.to_pin, "tiny", vendor="vendor")
    assert not result["package"]["vendored"].endswith(pin.vendored), "a setting is another"
    assert result["reference"] == pin.model.reference, "which decides no vector"


def test_vendoring_again_changes_nothing(project: Workspace) -> None:
    shutil.copytree(project.root / "elsewhere", project.root / "models" / "tiny")
    before = project.snapshot()
    assert not command.pin(project.to_pin, "tiny", vendor="vendor")["changed"]
    assert project.snapshot() == before


def test_pinning_a_vendored_model_keeps_it_vendored(project: Workspace) -> None:
    """Where the model was before is not looked at: there may be anything."""
    write_static(project.root / "models" / "tiny")
    before = project.snapshot()
    result = command.pin(project.to_pin, "tiny")
    assert (result["changed"], result["package"]["vendored"]) == (False, pin_of(project).vendored)
    assert project.snapshot() == before


def test_another_prompt_makes_another_pin_of_the_same_copy(project: Workspace) -> None:
    project.edit_config('path = "models/tiny"', 'document_prompt = "deep "')
    with pytest.raises(DigestMismatch, match="not the one that was pinned") as refused:
        resolve.pin_of(project.settings, "tiny")
    assert "document_prompt 'deep '" in str(refused.value.found)

    result = command.pin(project.to_pin, "tiny")

    old, new = read_pins(project.settings.pins, "tiny")
    assert new.model.reference == result["reference"] != old.model.reference
    assert old.vendored == new.vendored
    assert resolve.pinned(project.settings, "tiny") == new.model


def test_a_copy_moves_although_its_origin_is_gone(project: Workspace) -> None:
    project.edit_config('path = "models/tiny"', "")
    shutil.rmtree(project.root / "elsewhere")
    old = vendored(project)

    result = command.pin(project.to_pin, "tiny", vendor="third_party")

    shutil.rmtree(old)
    assert result["package"]["source"] == "models/tiny", "where it came from first"
    assert result["package"]["vendored"] == f"third_party/{old.name}"
    assert command.drift(project.settings, "tiny")["holds"]


# -- the same model from the copy --------------------------------------------------------------

Write = Callable[[Path], dict[str, Any]]


def in_two_packages(root: Path) -> dict[str, Any]:
    return MINILM


def in_one_package(root: Path) -> dict[str, Any]:
    return WORDLLAMA


def with_tokenizer_elsewhere(root: Path) -> dict[str, Any]:
    write_tiny(root / "model")
    (root / "model" / "tokenizer.json").rename(root / "tokens.json")
    return {"provider": "onnx", "path": "model", "tokenizer": {"path": "tokens.json"}}


def with_weights_elsewhere(root: Path) -> dict[str, Any]:
    """No folder of the model's own: nothing but two files, one of them with data beside it."""
    (root / "a" / "data").mkdir(parents=True)
    write_onnx(root / "a" / "model.onnx", external="data/part")
    write_tokenizer(root / "b" / "tokenizer.json")
    return {
        "provider": "onnx",
        "weights": {"path": "a/model.onnx"},
        "tokenizer": {"path": "b/tokenizer.json"},
        "pooling": "mean",
        "max_tokens": 8,
    }


def with_a_path_of_dots(root: Path) -> dict[str, Any]:
    """A name that begins inside of the model's folder and leads out of it."""
    write_static(root / "model")
    write_tokenizer(root / "other" / "tokenizer.json")
    return {
        "provider": "static",
        "path": "model",
        "tokenizer": {"path": "model/../other/tokenizer.json"},
    }


def with_an_output_chosen(root: Path) -> dict[str, Any]:
    write_st_folder(root / "model")
    write_onnx(root / "model" / "model.onnx", pooled_output=True)
    return {"provider": "onnx", "path": "model", "output": "sentence_embedding"}


def with_onnx_in_a_folder(root: Path) -> dict[str, Any]:
    write_st_folder(root / "model")
    (root / "model" / "onnx").mkdir()
    (root / "model" / "model.onnx").rename(root / "model" / "onnx" / "model.onnx")
    return {"provider": "onnx", "path": "model"}


def as_sentence_transformers(root: Path) -> dict[str, Any]:
    write_st_folder(root / "outer" / "model")
    return {"provider": "sentence-transformers", "path": "outer", "folder": "model"}


def of_model2vec(root: Path) -> dict[str, Any]:
    table = np.random.default_rng(1).standard_normal((10, 6)).astype(np.float32)
    write_static(root / "model", {"embeddings": table})
    write_json(root / "model" / "config.json", {"normalize": True, "max_length": 7})
    return {"provider": "static", "path": "model"}


def of_a_repository(root: Path) -> dict[str, Any]:
    write_tiny(root / "source")
    write_snapshot(root / "hub", "acme/tiny", COMMIT, root / "source")
    return {"provider": "onnx", "repo": "acme/tiny", "revision": COMMIT}


@pytest.mark.parametrize(
    "write",
    [
        in_one_package,
        in_two_packages,
        with_tokenizer_elsewhere,
        with_weights_elsewhere,
        with_a_path_of_dots,
        with_an_output_chosen,
        with_onnx_in_a_folder,
        as_sentence_transformers,
        of_model2vec,
        of_a_repository,
    ],
)
def test_the_copy_is_the_same_identity_to_the_last_byte(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the origin gone, and whatever the declaration says of places removed."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    declaration = write(tmp_path)
    cls: type[Embedder] = adapter("embedders", declaration["provider"])
    config = cls.Config.model_validate(declaration)
    assert isinstance(config, FilesConfig) and config.names_a_place
    original = cls.identify("m", config, tmp_path)
    seen = survey(cls, config, tmp_path)
    assert seen is not None

    project = tmp_path / "project"
    folder = vendor(seen, project / "vendor", "m")

    for place in tmp_path.iterdir():
        if place != project:
            shutil.rmtree(place) if place.is_dir() else place.unlink()
    kept = {
        key: value
        for key, value in declaration.items()
        if key not in ("package", "path", "repo", "revision", "folder", "weights", "tokenizer")
    }
    bare = cls.Config.model_validate(kept)
    assert isinstance(bare, FilesConfig) and not bare.names_a_place
    package = replace(seen.package, vendored=folder.relative_to(project).as_posix())
    for declared in (config, bare):
        copied = place_in(declared, package, seen.commit)
        again = cls.identify("m", copied, project)
        assert again.model_dump_json() == original.model_dump_json()
    if declaration["provider"] != "sentence-transformers":
        embedder = cls.load(place_in(bare, package, seen.commit), original, project)
        assert embedder.embed_documents(["red green blue"]).shape == (1, original.dimensions)
        embedder.close()


# -- refused by name ---------------------------------------------------------------------------


def every_way_to_use_it(workspace: Workspace) -> list[Callable[[], object]]:
    settings, model = workspace.settings, pin_of(workspace).model
    return [
        lambda: resolve.load_embedder(settings, model),
        lambda: resolve.pinned(settings, "tiny"),
        lambda: command.check(settings),
        lambda: Collection.open("articles", settings),
        lambda: command.drift(settings, "tiny"),
        lambda: command.pin(settings, "tiny"),
        lambda: command.revision(settings, "again", collection="articles", to="tiny"),
    ]


def refusals(workspace: Workspace) -> set[tuple[str, str]]:
    """What is found and what comes next, by every way; each of them refuses."""
    said = set()
    for use in every_way_to_use_it(workspace):
        with pytest.raises(DigestMismatch, match="vendored files of model 'tiny'") as refused:
            use()
        said.add((str(refused.value.found), str(refused.value.next_step)))
    return said


def test_a_whole_copy_is_used_by_every_way(project: Workspace) -> None:
    for use in every_way_to_use_it(project)[:-1]:
        result = use()
        if isinstance(result, Collection):
            assert result.search("red red green").hits[0].metadata["topic"] == "red"
            result.close()
    assert command.check(project.settings)["agrees"]


@pytest.mark.parametrize("name", TINY_FILES)
def test_one_changed_byte_of_any_file_is_refused_by_name(project: Workspace, name: str) -> None:
    """Weights, tokenizer, pooling, and settings that decide no vector."""
    change_one_byte(vendored(project) / name)
    assert refusals(project) == {(f"changed: {name}", "embedmigrate pin tiny --restore")}


@pytest.mark.parametrize("name", ["model.onnx_data", "tokenizer.json", "1_Pooling/config.json"])
def test_a_change_is_refused_in_a_process_that_used_the_copy_before(
    project: Workspace, name: str
) -> None:
    resolve.load_embedder(project.settings, pin_of(project).model).close()
    change_one_byte(vendored(project) / name)
    assert refusals(project) == {(f"changed: {name}", "embedmigrate pin tiny --restore")}


@pytest.mark.parametrize("name", ["model.onnx_data", "1_Pooling/config.json"])
def test_a_missing_file_is_refused_by_name(project: Workspace, name: str) -> None:
    (vendored(project) / name).unlink()
    assert refusals(project) == {(f"missing: {name}", "embedmigrate pin tiny --restore")}


@pytest.mark.parametrize("name", ["notes.txt", "1_Pooling/modeling.py", ".hidden"])
def test_an_extra_file_is_refused_by_name(project: Workspace, name: str) -> None:
    (vendored(project) / name).write_text("")
    ((found, next_step),) = refusals(project)
    assert found == f"extra: {name}"
    assert "move what is extra" in next_step and "--restore" not in next_step


def test_a_link_is_no_file_of_a_copy(project: Workspace) -> None:
    """Not even to the same content: what it points to may change without it."""
    path = vendored(project) / "tokenizer.json"
    path.unlink()
    path.symlink_to(project.root / "elsewhere" / "tokenizer.json")
    assert {found for found, _ in refusals(project)} == {"changed: tokenizer.json"}


def test_a_linked_folder_is_no_folder_of_a_copy(project: Workspace) -> None:
    path = vendored(project) / "1_Pooling"
    shutil.rmtree(path)
    path.symlink_to(project.root / "elsewhere" / "1_Pooling")
    found = "missing: 1_Pooling/config.json; extra: 1_Pooling"
    assert {found for found, _ in refusals(project)} == {found}


def test_a_missing_copy_is_refused_although_the_origin_is_there(project: Workspace) -> None:
    shutil.copytree(project.root / "elsewhere", project.root / "models" / "tiny")
    shutil.rmtree(vendored(project))
    assert refusals(project) == {("no such folder", "embedmigrate pin tiny --restore")}


def test_the_command_line_ends_with_status_3_and_names_the_file(project: Workspace) -> None:
    change_one_byte(vendored(project) / "model.onnx_data")
    for words in (["check"], ["search", "articles", "red"], ["drift"], ["pin", "tiny"]):
        answer = run(project.root, *words)
        assert answer.code == 3, (words, answer)
        assert "changed: model.onnx_data" in answer.err
        assert "next:     embedmigrate pin tiny --restore" in answer.err


def test_another_commit_in_the_configuration_is_refused(
    project: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit states an identity, as a folder does not: the copy is not what it states."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    source = project.root / "elsewhere"
    write_snapshot(tmp_path / "hub", "acme/tiny", COMMIT, source)
    (source / "1_Pooling" / "config.json").write_text(
        json.dumps({"embedding_dimension": 6, "pooling_mode": "cls"})
    )
    write_snapshot(tmp_path / "hub", "acme/tiny", OTHER_COMMIT, source)
    project.edit_config('path = "models/tiny"', f'repo = "acme/tiny"\nrevision = "{COMMIT}"')
    first = command.pin(project.to_pin, "tiny", vendor="vendor")
    assert first["package"]["source"] == f"acme/tiny@{COMMIT}"
    assert first["model"]["revision"] == COMMIT

    project.edit_config(COMMIT, OTHER_COMMIT)

    with pytest.raises(DigestMismatch) as refused:
        resolve.pinned(project.settings, "tiny")
    assert f"revision '{OTHER_COMMIT}', pinned '{COMMIT}'" in str(refused.value.found)
    assert "embedmigrate pin tiny --vendor vendor" in str(refused.value.next_step)
    with pytest.raises(DigestMismatch, match="states another commit"):
        command.pin(project.to_pin, "tiny")

    second = command.pin(project.to_pin, "tiny", vendor="vendor")
    assert second["reference"] != first["reference"]
    assert resolve.pinned(project.settings, "tiny").reference == second["reference"]
    project.edit_config(OTHER_COMMIT, COMMIT)
    assert resolve.pinned(project.settings, "tiny").reference == first["reference"]


def test_the_last_one_vendored_counts_where_no_commit_tells_two_apart(project: Workspace) -> None:
    first = pin_of(project).model
    shutil.move(project.root / "elsewhere", project.root / "models" / "tiny")
    tokenizer = project.root / "models" / "tiny" / "tokenizer.json"
    kept = tokenizer.read_bytes()
    tokenizer.write_bytes(kept + b"\n")

    second = command.pin(project.to_pin, "tiny", vendor="vendor")
    assert resolve.pinned(project.settings, "tiny").reference == second["reference"]

    tokenizer.write_bytes(kept)
    again = command.pin(project.to_pin, "tiny", vendor="vendor")
    assert again["reference"] == first.reference
    assert resolve.pinned(project.settings, "tiny") == first


# -- made whole again --------------------------------------------------------------------------


@pytest.fixture
def with_origin(project: Workspace) -> Workspace:
    """The project with the model's files back where the configuration says that they lie."""
    shutil.move(project.root / "elsewhere", project.root / "models" / "tiny")
    return project


@pytest.mark.parametrize(
    ("harm", "restored"),
    [
        (lambda folder: change_one_byte(folder / "model.onnx_data"), ["model.onnx_data"]),
        (lambda folder: (folder / "tokenizer.json").unlink(), ["tokenizer.json"]),
        (lambda folder: shutil.rmtree(folder / "1_Pooling"), ["1_Pooling/config.json"]),
        (shutil.rmtree, TINY_FILES),
        (lambda folder: shutil.rmtree(folder.parent), TINY_FILES),
        (lambda folder: None, []),
    ],
    ids=["changed", "missing", "missing folder", "missing copy", "missing everything", "whole"],
)
def test_a_damaged_copy_is_made_whole(
    with_origin: Workspace, harm: Callable[[Path], object], restored: list[str]
) -> None:
    folder = vendored(with_origin)
    before, pins = contents(folder), contents(with_origin.settings.pins)
    harm(folder)

    assert command.restore(with_origin.settings, "tiny")["restored"] == restored

    assert contents(folder) == before
    assert all(stat.S_IMODE((folder / name).stat().st_mode) == 0o444 for name in TINY_FILES)
    assert contents(with_origin.settings.pins) == pins
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    resolve.load_embedder(with_origin.settings, pin_of(with_origin).model).close()


def test_an_extra_file_is_named_and_never_deleted(with_origin: Workspace) -> None:
    folder = vendored(with_origin)
    (folder / "tokenizer.json").unlink()
    (folder / "notes.txt").write_text("mine")
    before = contents(folder)

    answer = run(with_origin.root, "pin", "tiny", "--restore")

    assert answer.code == 3
    assert "missing: tokenizer.json; extra: notes.txt" in answer.err
    assert "move what is extra out of the folder, or delete it, then embedmigrate" in answer.err
    assert contents(folder) == before

    (folder / "notes.txt").unlink()
    answer = run(with_origin.root, "pin", "tiny", "--restore")
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[1:] == [
        f"put back {pin_of(with_origin).vendored}/tokenizer.json"
    ]


def test_nothing_is_restored_from_files_that_are_not_the_pinned_ones(
    with_origin: Workspace,
) -> None:
    """Not even what could be: the origin as a whole is another one."""
    folder = vendored(with_origin)
    (folder / "tokenizer.json").unlink()
    change_one_byte(with_origin.root / "models" / "tiny" / "model.onnx_data")
    before = contents(folder)

    with pytest.raises(DigestMismatch, match="cannot be restored") as refused:
        command.restore(with_origin.settings, "tiny")

    assert str(refused.value.found) == "no file with the digest of model.onnx_data"
    assert "vendored from models/tiny" in str(refused.value.expected)
    assert contents(folder) == before


def test_a_copy_is_restored_from_equal_files_of_any_name(project: Workspace) -> None:
    """The digest counts, not where a file lies: another repository serves as well."""
    source = project.root / "elsewhere"
    (source / "onnx").mkdir()
    for name in ("model.onnx", "model.onnx_data"):
        (source / name).rename(source / "onnx" / name)
    project.edit_config('path = "models/tiny"', 'path = "elsewhere"')
    shutil.rmtree(vendored(project))

    assert command.restore(project.settings, "tiny")["restored"] == TINY_FILES


def test_nothing_can_be_restored_from_nowhere(project: Workspace) -> None:
    project.edit_config('path = "models/tiny"', "")
    with pytest.raises(ConfigError, match="does not say where the files") as refused:
        command.restore(project.settings, "tiny")
    assert "models/tiny" in str(refused.value.expected)


def test_only_what_was_vendored_can_be_restored(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="'wordllama' is not vendored"):
        command.restore(workspace.settings, "wordllama")


# -- what is not copied ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["weights.bin", "weights.pt", "weights.PKL", "weights.py"])
def test_a_model_that_needs_what_may_be_code_is_not_vendored(
    with_origin: Workspace, name: str
) -> None:
    folder = with_origin.root / "models" / "tiny"
    write_onnx(folder / "model.onnx", external=name)
    before = with_origin.snapshot()

    with pytest.raises(UnsupportedModel, match=f"{name} may hold code"):
        command.pin(with_origin.to_pin, "tiny", vendor="vendor")

    assert with_origin.snapshot() == before


@pytest.mark.parametrize("place", ["..", "../vendor", "/vendor", "vendor/../../x"])
def test_a_copy_lies_in_the_project(project: Workspace, place: str) -> None:
    with pytest.raises(UsageError, match="lies in the project"):
        command.pin(project.to_pin, "tiny", vendor=place)


def test_a_model_without_files_is_not_vendored(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="'fake-a' has no files"):
        command.pin(workspace.to_pin, "fake-a", vendor="vendor")
    assert command.pin(workspace.to_pin, "fake-a")["package"] is None


@pytest.mark.parametrize("other", [["--vendor", "vendor"], ["--new-witness"]])
def test_restore_stands_alone(project: Workspace, other: list[str]) -> None:
    assert run(project.root, "pin", "tiny", "--restore", *other).code == 2


def test_a_full_disk_leaves_nothing_that_looks_like_a_copy(
    with_origin: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    copyfile = shutil.copyfile

    def full(source: Path, target: Path) -> object:
        if source.name == "tokenizer.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return copyfile(source, target)

    monkeypatch.setattr(shutil, "copyfile", full)
    before = with_origin.snapshot()

    with pytest.raises(StorageUnavailable, match="No space left"):
        command.pin(with_origin.to_pin, "tiny", vendor="third_party")

    assert with_origin.snapshot() == before
    assert list((with_origin.root / "third_party").iterdir()) == []


def test_a_file_that_changes_while_it_is_copied_is_not_taken(
    with_origin: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    copyfile = shutil.copyfile

    def disturbed(source: Path, target: Path) -> object:
        change_one_byte(source)
        return copyfile(source, target)

    monkeypatch.setattr(shutil, "copyfile", disturbed)

    with pytest.raises(DigestMismatch, match="changed while it was copied"):
        command.pin(with_origin.to_pin, "tiny", vendor="third_party")

    assert list((with_origin.root / "third_party").iterdir()) == []


# -- real models -------------------------------------------------------------------------------


def test_a_migration_runs_from_the_copy_when_the_package_is_gone(workspace: Workspace) -> None:
    """Pinned from an installed package, vendored, then the package cannot be found any more."""
    before = resolve.pinned(workspace.settings, "wordllama")
    answer = run(workspace.root, "pin", "wordllama", "--vendor", "vendor")
    assert answer.code == 0, answer.err
    pin = pin_of(workspace, "wordllama")
    assert pin.package is not None and pin.package.source.startswith("wordllama==")
    assert f"loaded from {pin.vendored}, and from nowhere else" in answer.out
    assert pin.model == before, "where a model lies is no part of it"

    workspace.edit_config(IN_WORDLLAMA, "normalize = true\n\n# the same")
    workspace.edit_config('also_accept = ["wordllama", "wordllama-64"]', "also_accept = []")
    workspace.edit_config('package = "wordllama"', 'package = "not-installed-any-more"')
    workspace.revision("wordllama", "first index")
    workspace.upgrade()

    assert command.check(workspace.settings)["agrees"]
    with Collection.open("articles", workspace.settings) as articles:
        hit = articles.search("bread and yeast", k=1).hits[0]
    assert hit.metadata["topic"] == "baking"


def test_a_package_that_is_configured_and_not_installed_does_not_matter(
    workspace: Workspace,
) -> None:
    command.pin(workspace.to_pin, "wordllama", vendor="vendor")
    workspace.edit_config(
        '[models.wordllama]\nprovider = "static"\npackage = "wordllama"',
        '[models.wordllama]\nprovider = "static"\npackage = "not-installed-any-more"',
    )
    assert command.drift(workspace.settings, "wordllama")["holds"]
    assert not command.pin(workspace.to_pin, "wordllama")["changed"]


def test_a_model_loaded_by_another_name_comes_from_the_copy_too(workspace: Workspace) -> None:
    """Two names of one space: the copy decides, and a damaged one is not got round."""
    path = workspace.root / "embedmigrate.toml"
    declaration = f"[models.another]\nprovider = 'static'\n{IN_WORDLLAMA}".removesuffix(
        "# the same"
    )
    path.write_text(path.read_text("utf-8") + declaration, "utf-8")
    command.pin(workspace.to_pin, "another", vendor="vendor")
    change_one_byte(vendored(workspace, "another") / IN_WORDLLAMA.splitlines()[1].split('"')[1])

    with pytest.raises(DigestMismatch, match="vendored files of model 'another'"):
        resolve.load_embedder(workspace.settings, pin_of(workspace, "wordllama").model)


def test_equal_weights_in_another_package_are_the_same_space(workspace: Workspace) -> None:
    """One model in an installed package, and laid out otherwise in a folder."""
    package, folder = package_folder("wordllama"), workspace.root / "copied"
    folder.mkdir()
    shutil.copyfile(
        package / "weights" / "l2_supercat_256.safetensors", folder / "table.safetensors"
    )
    shutil.copyfile(
        package / "tokenizers" / "l2_supercat_tokenizer_config.json", folder / "tokenizer.json"
    )
    path = workspace.root / "embedmigrate.toml"
    path.write_text(
        path.read_text("utf-8")
        + '[models.copied]\nprovider = "static"\npath = "copied"\nweights = "table.safetensors"\n'
        "normalize = true\n",
        "utf-8",
    )

    answer = run(workspace.root, "pin", "copied")

    assert answer.code == 0, answer.err
    assert "the same space as wordllama\n" in answer.out
    one, other = pin_of(workspace, "copied"), pin_of(workspace, "wordllama")
    assert one.model.fingerprint == other.model.fingerprint
    assert one.package is not None and other.package is not None
    assert one.package.source == "copied"
    digests = [{file.sha256 for file in it.package.files} for it in (one, other) if it.package]
    assert digests[0] == digests[1]
