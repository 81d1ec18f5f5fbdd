"""Pin files: ``migrations/models/<name>.<fingerprint>.json``, reviewed in git.

A pin file says which exact model a configured name stood for on the day it was pinned: the
identity in full, how the model behaved then (its witness), which settings were read back from it,
and which files it came in. One name may have several: the configuration of today matches one of
them, earlier ones document the past. Another query side of the same space has a file beside the
first, named ``<name>.<fingerprint>-<eight digits of its query side>.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from embedmigrate.errors import ConfigError
from embedmigrate.models.embedding_model import EmbeddingModel
from embedmigrate.models.witness import Witness
from embedmigrate.validation import first_fault

SCHEMA = 2
_READABLE = (1, 2)
"""Files of schema 1 have no witness and no package."""


@dataclass(frozen=True)
class PackageFile:
    """One file of a model's package, by its path in the package."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Package:
    """Everything that a model was loaded from. It is not a part of the identity.

    ``source`` says where it came from: distribution and version, repository and commit, or a
    folder. ``vendored`` is the folder, relative to the project, that holds a copy; the model is
    then loaded from there alone. ``layout`` maps a key of the declaration to its file in it.
    """

    source: str
    files: tuple[PackageFile, ...] = ()
    layout: Mapping[str, str] = field(default_factory=dict)
    vendored: str = ""


@dataclass(frozen=True)
class Pin:
    """The content of one pin file."""

    name: str
    model: EmbeddingModel
    pinned_at: str = ""
    """ISO 8601, UTC; empty in files of schema 1."""
    effective: Mapping[str, Any] = field(default_factory=dict)
    """Settings as they were read back from the loaded model."""
    package: Package | None = None
    witness: Witness = field(default_factory=Witness)

    @property
    def vendored(self) -> str:
        """The folder of the vendored copy, relative to the project; empty where there is none."""
        return self.package.vendored if self.package else ""

    def path(self, folder: Path) -> Path:
        return pin_path(folder, self.name, self.model)


def pin_path(folder: Path, configured_name: str, model: EmbeddingModel) -> Path:
    """Where the pin file of ``model`` under ``configured_name`` lies."""
    return folder / f"{configured_name}.{model.fingerprint}.json"


def write_pin(folder: Path, pin: Pin) -> tuple[Path, bool]:
    """Write the pin file; returns its path and whether anything changed."""
    path = pin.path(folder)
    if path.exists() and read_pin(path).model.query_side != pin.model.query_side:
        path = path.with_stem(f"{path.stem}-{pin.model.query_side[:8]}")
    text = json.dumps(_dump(pin), indent=2, ensure_ascii=False, sort_keys=False) + "\n"
    if path.exists() and path.read_text("utf-8") == text:
        return path, False
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)
    return path, True


def _dump(pin: Pin) -> dict[str, Any]:
    package = pin.package
    return {
        "schema": SCHEMA,
        "pinned_at": pin.pinned_at,
        "model": pin.model.model_dump(mode="json"),
        "effective": dict(pin.effective),
        "package": package
        and {
            "source": package.source,
            "vendored": package.vendored,
            "layout": dict(package.layout),
            "files": [vars(file) for file in package.files],
        },
        "witness": pin.witness.dump(),
    }


def read_pins(folder: Path, configured_name: str) -> list[Pin]:
    """Everything that was pinned under ``configured_name``, oldest first."""
    pins = [
        read_pin(path)
        for path in folder.glob(f"{configured_name}.*.json")
        if path.name.removeprefix(f"{configured_name}.").count(".") == 1
    ]
    return sorted(pins, key=lambda pin: (pin.pinned_at, pin.model.fingerprint))


def read_pin(path: Path) -> Pin:
    """One pin file; ``ConfigError`` names the file when it does not hold one."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(content, dict):
        raise _unreadable(path, f"a JSON value of type {type(content).__name__}")
    if content.get("schema") not in _READABLE:
        raise ConfigError(
            f"pin file {path} has another schema",
            found=content.get("schema"),
            expected=SCHEMA,
            next_step="upgrade embedmigrate, or pin the model again",
        )
    if not isinstance(content.get("model"), dict):
        raise _unreadable(path, "no model")
    name, fingerprint = path.name.split(".")[0], path.name.split(".")[-2].partition("-")[0]
    try:
        model = EmbeddingModel.model_validate(content["model"])
        pin = Pin(name, model) if content["schema"] == 1 else _load(name, model, content)
    except ValidationError as error:
        raise _unreadable(path, str(first_fault(error))) from error
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(path, f"{type(error).__name__}: {error}") from error
    if fingerprint != model.fingerprint:
        raise ConfigError(
            f"pin file {path} is named for another model",
            found=fingerprint,
            expected=model.fingerprint,
            next_step="restore it from version control; or delete it, and embedmigrate pin it",
        )
    return pin


def _load(name: str, model: EmbeddingModel, content: Mapping[str, Any]) -> Pin:
    stored = content["package"]
    package = stored and Package(
        stored["source"],
        tuple(PackageFile(**file) for file in stored["files"]),
        stored["layout"],
        stored["vendored"],
    )
    witness = Witness.load(content["witness"])
    if not model.artifacts and model.witness not in {it.digest for it in witness.records}:
        raise ValueError("no record of the witness is the one that the identity names")
    return Pin(name, model, content["pinned_at"], content["effective"], package, witness)


def _unreadable(path: Path, found: str) -> ConfigError:
    return ConfigError(
        f"pin file {path} cannot be read",
        found=found,
        expected="the model as `embedmigrate pin` wrote it",
        next_step="restore it from version control; or delete it, and embedmigrate pin it",
    )
