"""Pin files: what they say, and what is refused instead of being guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from embedmigrate.errors import ConfigError
from embedmigrate.models import EmbeddingModel
from embedmigrate.models.pin_file import SCHEMA, Pin, pin_path, read_pin, read_pins, write_pin

MODEL = EmbeddingModel(
    name="all-MiniLM-L6-v2",
    artifacts={"weights": "sha256:" + "a" * 64},
    dimensions=384,
    query_prompt="запрос: ",
)
PIN = Pin("minilm", MODEL)
OTHER = EmbeddingModel(name="other", artifacts=MODEL.artifacts, dimensions=128)


def test_a_pin_file_is_named_for_the_configured_name_and_the_fingerprint(tmp_path: Path) -> None:
    path, changed = write_pin(tmp_path / "models", PIN)

    assert changed
    assert path == tmp_path / "models" / f"minilm.{MODEL.fingerprint}.json"
    assert path == pin_path(tmp_path / "models", "minilm", MODEL)


def test_a_pin_file_gives_back_the_whole_identity(tmp_path: Path) -> None:
    path, _ = write_pin(tmp_path, PIN)

    assert read_pin(path) == PIN
    assert read_pins(tmp_path, "minilm") == [PIN]


def test_a_pin_file_is_made_to_be_read_in_a_review(tmp_path: Path) -> None:
    path, _ = write_pin(tmp_path, PIN)

    text = path.read_text("utf-8")
    assert text.endswith("}\n") and len(text.splitlines()) > 10
    assert "запрос" in text, "not escaped"
    assert json.loads(text)["model"]["fingerprint"] == MODEL.fingerprint


def test_pinning_the_same_model_again_changes_nothing(tmp_path: Path) -> None:
    path, _ = write_pin(tmp_path, PIN)
    before = path.stat().st_mtime_ns

    assert write_pin(tmp_path, PIN) == (path, False)

    assert path.stat().st_mtime_ns == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name], "nothing temporary is left"


def test_a_name_may_have_several_pins_and_does_not_see_those_of_longer_names(
    tmp_path: Path,
) -> None:
    for name, model in (("mini", MODEL), ("mini", OTHER), ("mini-2", OTHER)):
        write_pin(tmp_path, Pin(name, model))

    assert {pin.model.fingerprint for pin in read_pins(tmp_path, "mini")} == {
        MODEL.fingerprint,
        OTHER.fingerprint,
    }
    assert read_pins(tmp_path, "min") == []
    assert read_pins(tmp_path / "nowhere", "mini") == []


def test_a_pin_file_under_another_models_name_is_refused(tmp_path: Path) -> None:
    path, _ = write_pin(tmp_path, PIN)
    wrong = path.rename(pin_path(tmp_path, "minilm", OTHER))

    with pytest.raises(ConfigError) as refusal:
        read_pin(wrong)

    assert (refusal.value.found, refusal.value.expected) == (OTHER.fingerprint, MODEL.fingerprint)
    assert str(wrong) in str(refusal.value)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '"text"',
        "null",
        json.dumps({"schema": SCHEMA}),
        json.dumps({"schema": SCHEMA, "model": {"name": "x"}}),
        json.dumps({"schema": SCHEMA, "model": {**MODEL.model_dump(), "dimensions": 7}}),
        json.dumps({"schema": SCHEMA, "model": {**MODEL.model_dump(), "provider": "onnx"}}),
    ],
    ids=["empty", "cut", "list", "text", "null", "no model", "fields", "edited", "unknown field"],
)
def test_a_broken_or_edited_pin_file_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = pin_path(tmp_path, "minilm", MODEL)
    path.write_text(content, "utf-8")

    with pytest.raises(ConfigError) as refusal:
        read_pin(path)

    assert str(path) in refusal.value.message
    assert refusal.value.found and refusal.value.expected and refusal.value.next_step
    assert "pydantic" not in str(refusal.value) and "Value error" not in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 4
    assert refusal.value.exit_code == 78


def test_a_pin_file_that_is_not_text_is_refused_by_name(tmp_path: Path) -> None:
    path = pin_path(tmp_path, "minilm", MODEL)
    path.write_bytes(b"\xff\xfe{}")

    with pytest.raises(ConfigError, match="cannot be read"):
        read_pin(path)


def test_a_pin_file_of_a_newer_version_is_refused_and_says_so(tmp_path: Path) -> None:
    path, _ = write_pin(tmp_path, PIN)
    content = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**content, "schema": SCHEMA + 1}), "utf-8")

    with pytest.raises(ConfigError, match="schema") as refusal:
        read_pin(path)

    assert (refusal.value.found, refusal.value.expected) == (SCHEMA + 1, SCHEMA)
    assert "upgrade embedmigrate" in str(refusal.value.next_step)
