"""Provider ``sentence-transformers``: what it accepts and hashes, before torch is needed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from embedmigrate.errors import ConfigError, DigestMismatch, UnsupportedModel
from tests.embedders.handmade_models import (
    WIDTH,
    identify,
    load,
    write_json,
    write_st_folder,
)

TINY: dict[str, Any] = {"provider": "sentence-transformers", "path": "."}


def test_a_folder_is_identified_without_torch(tmp_path: Path) -> None:
    write_st_folder(tmp_path)
    model = identify(tmp_path, **TINY)
    assert sorted(model.artifacts) == ["tokenizer", "weights", "weights/config.json"]
    assert (model.dimensions, model.pooling, model.normalize) == (WIDTH, "mean", True)


def test_weights_in_parts_are_hashed_each(tmp_path: Path) -> None:
    write_st_folder(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-1-of-1.safetensors")
    index = {"weight_map": {"a": "model-1-of-1.safetensors", "b": "model-1-of-1.safetensors"}}
    write_json(tmp_path / "model.safetensors.index.json", index)
    model = identify(tmp_path, **TINY)
    assert "weights/model-1-of-1.safetensors" in model.artifacts
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": {"a": "../x"}})
    with pytest.raises(ConfigError, match="leads out of the model's folder"):
        identify(tmp_path, **TINY)


def test_pickled_weights_are_not_weights(tmp_path: Path) -> None:
    write_st_folder(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"no model\.safetensors file"):
        identify(tmp_path, **TINY)


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    write_st_folder(tmp_path)
    write_json(tmp_path / "adapter_config.json", {})
    with pytest.raises(UnsupportedModel, match="adapter of another model"):
        identify(tmp_path, **TINY)


def test_a_declaration_without_a_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="which sentence-transformers folder"):
        identify(tmp_path, provider="sentence-transformers")


def test_a_missing_library_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_st_folder(tmp_path)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, **TINY)
    assert caught.value.next_step == "pip install 'embedmigrate[sentence-transformers]'"


@pytest.mark.parametrize("changed", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_file_that_is_not_the_pinned_one_is_named_before_torch_is_loaded(
    tmp_path: Path, changed: str
) -> None:
    write_st_folder(tmp_path)
    model = identify(tmp_path, **TINY)
    path = tmp_path / changed
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DigestMismatch) as caught:
        load(tmp_path, model, **TINY)
    assert str(path) in caught.value.message
