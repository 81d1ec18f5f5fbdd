"""Pin files: ``migrations/models/<name>.<fingerprint>.json``, reviewed in git.

A pin file says which exact model a configured name stood for on the day it was pinned. One name
may have several: the configuration of today matches one of them, earlier ones document the past.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from embedmigrate.errors import ConfigError
from embedmigrate.models.embedding_model import EmbeddingModel
from embedmigrate.validation import first_fault

SCHEMA = 1


def pin_path(folder: Path, configured_name: str, model: EmbeddingModel) -> Path:
    """Where the pin file of ``model`` under ``configured_name`` lies."""
    return folder / f"{configured_name}.{model.fingerprint}.json"


def write_pin(folder: Path, configured_name: str, model: EmbeddingModel) -> tuple[Path, bool]:
    """Write the pin file; returns its path and whether anything changed."""
    path = pin_path(folder, configured_name, model)
    content = {
        "schema": SCHEMA,
        "model": model.model_dump(mode="json"),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False, sort_keys=False) + "\n"
    if path.exists() and path.read_text("utf-8") == text:
        return path, False
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)
    return path, True


def read_pins(folder: Path, configured_name: str) -> list[EmbeddingModel]:
    """Every model that was pinned under ``configured_name``, in order of fingerprint."""
    return [
        read_pin(path)
        for path in sorted(folder.glob(f"{configured_name}.*.json"))
        if path.name.removeprefix(f"{configured_name}.").count(".") == 1
    ]


def read_pin(path: Path) -> EmbeddingModel:
    """The model of one pin file; ``ConfigError`` names the file when it does not hold one."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(content, dict):
        raise _unreadable(path, f"a JSON value of type {type(content).__name__}")
    if content.get("schema") != SCHEMA:
        raise ConfigError(
            f"pin file {path} has another schema",
            found=content.get("schema"),
            expected=SCHEMA,
            next_step="upgrade embedmigrate, or pin the model again",
        )
    if not isinstance(content.get("model"), dict):
        raise _unreadable(path, "no model")
    try:
        model = EmbeddingModel.model_validate(content["model"])
    except ValidationError as error:
        raise _unreadable(path, str(first_fault(error))) from error
    if path.name.split(".")[-2] != model.fingerprint:
        raise ConfigError(
            f"pin file {path} is named for another model",
            found=path.name.split(".")[-2],
            expected=model.fingerprint,
            next_step="restore it from version control, or pin the model again",
        )
    return model


def _unreadable(path: Path, found: str) -> ConfigError:
    return ConfigError(
        f"pin file {path} cannot be read",
        found=found,
        expected="the model as `embedmigrate pin` wrote it",
        next_step="restore it from version control, or pin the model again",
    )
