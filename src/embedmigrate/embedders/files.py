"""Where the files of a model lie, and what they are: packages, repositories, folders and digests.

A model is a few files of an installed distribution, of a folder, or of a repository in Hugging
Face's local cache. They are found without importing anything of theirs and without a network, and
are hashed before they are used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator

from embedmigrate.embedders import hub
from embedmigrate.embedders.base import ModelConfig
from embedmigrate.errors import ConfigError, DigestMismatch
from embedmigrate.models import EmbeddingModel
from embedmigrate.models.canonical import sha256_file
from embedmigrate.models.references import allows_unpinned, require_commit, unpinned

_DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


def _checked_distribution(name: str | None) -> str | None:
    if name is not None and not _DISTRIBUTION.fullmatch(name):
        raise ValueError(f"{name[:80]!r} is not the name of a distribution")
    return name


class FileReference(BaseModel):
    """One file: ``file`` in the model's own folder, ``path`` from the root of the project, or
    ``path`` in an installed ``package``. A plain string is short for ``file``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str | None = None
    path: str | None = None
    package: str | None = None

    _package = field_validator("package")(_checked_distribution)

    @model_validator(mode="before")
    @classmethod
    def _a_string_is_a_file(cls, value: object) -> object:
        return {"file": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _names_one_file(self) -> Self:
        if (self.file is None) == (self.path is None) or (self.file and self.package):
            raise ValueError('expected "file", { path = … } or { package = …, path = … }')
        return self


class FilesConfig(ModelConfig):
    """The part of a ``[models.x]`` table that says where the files lie."""

    package: str | None = None
    """An installed distribution; files are relative to its import package."""
    path: str | None = None
    """A folder, relative to the root of the project."""
    repo: str | None = None
    """A repository ``org/name`` in the local Hugging Face cache."""
    revision: str | None = None
    """The whole commit of ``repo``; less only where pins are made."""
    folder: str | None = None
    """A folder inside the package, path or repository."""
    tokenizer: FileReference | None = None

    _package = field_validator("package")(_checked_distribution)
    _repo = field_validator("repo")(hub.checked_repo)
    _revision = field_validator("revision")(require_commit)

    @model_validator(mode="after")
    def _one_place(self, info: ValidationInfo) -> Self:
        if sum(place is not None for place in (self.package, self.path, self.repo)) > 1:
            raise ValueError("expected one of package, path and repo, found several")
        if self.revision is not None and self.repo is None:
            raise ValueError("revision is a commit of repo, and there is no repo")
        if self.repo is not None and self.revision is None and not allows_unpinned(info.context):
            raise unpinned(f"{self.repo!r} has no revision; expected the commit that is meant")
        return self

    @property
    def names_a_place(self) -> bool:
        """Whether it says where any file lies."""
        values = (getattr(self, key) for key in type(self).model_fields)
        elsewhere = any(isinstance(it, FileReference) and it.path is not None for it in values)
        return elsewhere or not (self.package is self.path is self.repo is None)


@dataclass(frozen=True)
class Places:
    """Turns the names in a declaration into paths. ``root`` is the root of the project."""

    config: FilesConfig
    root: Path

    @cached_property
    def folder(self) -> Path | None:
        """The model's own folder, or None when every file is named by itself."""
        config = self.config
        if config.package is not None:
            place = package_folder(config.package)
        elif config.path is not None:
            place = self.root / config.path
        elif config.repo is not None:
            place = hub.find_snapshot(config.repo, config.revision).folder
        else:
            return None
        if config.folder is not None:
            place = inside(place, config.folder)
        if not place.is_dir():
            raise ConfigError(
                f"the model folder {place} does not exist",
                expected="a folder",
                next_step="correct package, path or folder of the model",
            )
        return place

    @cached_property
    def snapshot(self) -> hub.Snapshot | None:
        """The commit that the model's folder belongs to, if it lies in a cache of them."""
        return None if self.folder is None else hub.snapshot_of(self.folder)

    @property
    def commit(self) -> str:
        """The commit that the files came in; empty where nothing tells it."""
        return self.snapshot.commit if self.snapshot else self.config.revision or ""

    def find(self, key: str, reference: FileReference | None, defaults: Sequence[Path]) -> Path:
        """The file of ``key``: the one that is named, else the first default that exists."""
        if reference is not None:
            candidates: Sequence[Path] = [self._resolve(key, reference)]
        else:
            candidates = defaults
        for candidate in candidates:
            if candidate.is_file():
                return candidate
        raise ConfigError(
            f"the model has no {key} file",
            found=f"no such file: {', '.join(map(str, candidates))}" if candidates else None,
            expected=f'{key} = "a file in the model\'s folder", or {{ package = …, path = … }}',
            next_step=self._fetch(reference) or f"correct {key} of the model",
        )

    def _resolve(self, key: str, reference: FileReference) -> Path:
        if reference.path is not None:
            if reference.package is not None:
                return inside(package_folder(reference.package), reference.path)
            return self.root / reference.path
        assert reference.file is not None
        if self.folder is None:
            raise ConfigError(
                f"the model does not say where its {key} lies",
                found=f'{key} = "{reference.file}", and no place to start from',
                expected="package, path or repo, or { package = …, path = … }",
                next_step="add package, path or repo to the model",
            )
        return inside(self.folder, reference.file)

    def _fetch(self, reference: FileReference | None) -> str | None:
        if package := (reference and reference.package) or self.config.package:
            return f"correct the name, or pip install --force-reinstall {package}"
        if self.snapshot is not None:
            fetch = hub.fetch_command(self.snapshot.repo, self.snapshot.commit)
            return f"correct the name, or {fetch}"
        return None


def inside(folder: Path, relative: str) -> Path:
    """``folder / relative``; ``ConfigError`` when that would leave the folder.

    Links are followed: caches of model hubs are made of them.
    """
    pure = PurePosixPath(relative)
    if pure.is_absolute() or ".." in pure.parts or "\0" in relative:
        raise ConfigError(
            f"a file name leads out of the model's folder {folder}",
            found=relative,
            expected="a relative path without ..",
            next_step="correct the name, or give { path = … }",
        )
    return folder / pure


def package_folder(distribution: str) -> Path:
    """The folder of the import package of an installed distribution; imports nothing."""
    try:
        installed = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        raise ConfigError(
            f"the distribution {distribution!r}, which holds a model, is not installed",
            next_step=f"pip install {distribution}",
        ) from None
    folders = {
        file.parts[0]: Path(str(installed.locate_file(file.parts[0])))
        for file in installed.files or ()
        if len(file.parts) == 2 and file.parts[1] == "__init__.py"
    }
    likely = re.sub(r"[-.]+", "_", distribution)
    for name, folder in folders.items():
        if len(folders) == 1 or name.lower() == likely.lower():
            return folder
    # An editable installation lists no files of the package: ask where it would be imported from.
    spec = find_spec(likely)
    for location in (spec and spec.submodule_search_locations) or ():
        return Path(location)
    raise ConfigError(
        f"it is not clear which import package of {distribution!r} holds the model",
        found=", ".join(sorted(folders)) or "no import package",
        expected="one import package",
        next_step="give path = … instead of package = …",
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; ``ConfigError`` names a file that does not hold one."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}", next_step="restore the file"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} does not hold a JSON object",
            found=type(content).__name__,
            next_step="restore the file",
        )
    return content


_digests: dict[tuple[Path, int, int, int, int], str] = {}


def file_digest(path: Path) -> str:
    """``sha256:…`` of a file, computed once a process while the file stays as it is."""
    status = path.stat()
    # Whoever writes a file can set the time of its content back, but not that of the change.
    key = (path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    if key not in _digests:
        _digests[key] = sha256_file(path)
    return _digests[key]


@dataclass(frozen=True)
class Artifacts:
    """Everything that takes part in an embedding: files, and settings that are no field of
    ``EmbeddingModel``, by role."""

    files: Mapping[str, Path]
    settings: Mapping[str, str] = field(default_factory=dict)
    """Role -> digest of something that is not a file."""
    commit: str = ""
    """What the files came in, where that is known."""

    def digests(self) -> dict[str, str]:
        return {role: file_digest(path) for role, path in self.files.items()} | dict(self.settings)

    def verify(self, model: EmbeddingModel) -> None:
        """``DigestMismatch`` names the first file that is not the pinned one."""
        next_step = (
            f"restore what was pinned, or `embedmigrate pin {model.name}` if the change is meant"
        )
        found = self.digests()
        for role in sorted({*found, *model.artifacts}):
            if found.get(role) == model.artifacts.get(role):
                continue
            what = str(self.files[role]) if role in self.files else f"the artifact {role!r}"
            raise DigestMismatch(
                f"{what} is not the {role} that {model.reference} was pinned with",
                found=found.get(role, "nothing"),
                expected=model.artifacts.get(role, "nothing"),
                next_step=next_step,
            )
