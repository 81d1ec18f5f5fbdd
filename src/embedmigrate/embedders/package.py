"""The whole package of a model: every file that takes part or says a setting, and its origin.

The identity of a model covers what decides a vector. The package is what a person has to keep to
have the model again: those files, and the settings that its folder states for other programs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

from embedmigrate.embedders.base import Embedder, ModelConfig
from embedmigrate.embedders.files import (
    Artifacts,
    FileReference,
    FilesConfig,
    Places,
    file_digest,
)
from embedmigrate.embedders.st_folder import settings_files
from embedmigrate.models.pin_file import Package, PackageFile

_ELSEWHERE = "elsewhere"
"""Folder of the package for files that do not lie in the model's own one."""


@dataclass(frozen=True)
class Survey:
    """A package as it was found here. ``files`` maps each path in the package to its file."""

    package: Package
    files: Mapping[str, Path]
    commit: str


def survey(cls: type[Embedder], config: ModelConfig, root: Path) -> Survey | None:
    """Everything that belongs to the model of a declaration, hashed; None if it has no files.

    An embedder whose model is files says which by a class method ``artifacts(config, root)``.
    """
    find: Callable[[ModelConfig, Path], Artifacts] | None = getattr(cls, "artifacts", None)
    if find is None or not isinstance(config, FilesConfig):
        return None
    artifacts = find(config, root)
    places = Places(config, root)
    inside = _paths_in_package(places.folder, artifacts.files)
    by_role = {role: inside[path] for role, path in artifacts.files.items()}
    files = dict(sorted((name, path) for path, name in inside.items()))
    return Survey(
        Package(
            source=", ".join(dict.fromkeys(_sources(places))),
            files=tuple(
                PackageFile(name, file_digest(path), path.stat().st_size)
                for name, path in files.items()
            ),
            layout={role: it for role, it in by_role.items() if role in type(config).model_fields},
        ),
        files,
        artifacts.commit,
    )


def _paths_in_package(own: Path | None, artifacts: Mapping[str, Path]) -> dict[Path, str]:
    """Each file's path in the package: in the model's own folder as it is there.

    A file from elsewhere gets a folder for its role. What belongs to it keeps its place beside it,
    as the external data of an ONNX file must.
    """
    bases = {} if own is None else {_plain(own): PurePosixPath()}
    for role, path in artifacts.items():
        if not any(_plain(path).is_relative_to(base) for base in bases):
            bases[_plain(path.parent)] = PurePosixPath(_ELSEWHERE, role)
    paths = [*artifacts.values(), *(settings_files(own) if own is not None else ())]
    return {
        path: next(
            str(name / _plain(path).relative_to(base).as_posix())
            for base, name in bases.items()
            if _plain(path).is_relative_to(base)
        )
        for path in paths
    }


def _plain(path: Path) -> Path:
    """Without ``..``, so that being inside of a folder can be read from the name."""
    return Path(os.path.normpath(path))


def _sources(places: Places) -> Iterator[str]:
    """Distribution and version, repository and commit, or folder, of each place."""
    config = places.config
    if config.package is not None:
        yield _below(_distribution(config.package), config.folder)
    elif places.snapshot is not None:
        yield _below(f"{places.snapshot.repo}@{places.snapshot.commit}", config.folder)
    elif config.path is not None:
        yield _below(config.path, config.folder)
    for key in type(config).model_fields:
        reference = getattr(config, key)
        if isinstance(reference, FileReference) and reference.path is not None:
            yield _distribution(reference.package) if reference.package else reference.path


def _distribution(name: str) -> str:
    return f"{name}=={metadata.version(name)}"


def _below(place: str, folder: str | None) -> str:
    return place if folder is None else f"{place}/{folder}"
