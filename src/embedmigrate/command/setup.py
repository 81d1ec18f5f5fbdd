"""Commands that set a project up: init, list-templates."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from embedmigrate.config import FILE_NAME
from embedmigrate.errors import ConfigError, UsageError
from embedmigrate.migration.environment import template_directory

_DEFAULT = "default"
_BEGIN = "To begin:"
"""Starts the part of a template's README that ``init`` shows."""


def list_templates() -> list[dict[str, str]]:
    """The templates that ``init`` can copy: name and first line of README."""
    return [
        {
            "name": folder.name,
            "description": (folder / "README").read_text("utf-8").splitlines()[0],
        }
        for folder in sorted(template_directory().iterdir())
        if (folder / "README").is_file()
    ]


def first_steps(template: str = _DEFAULT) -> str:
    """What its README says is to be done after ``init``."""
    text = (template_directory() / template / "README").read_text("utf-8")
    return "".join(text.partition(_BEGIN)[1:]).rstrip()


def init(directory: Path, template: str = _DEFAULT, *, root: Path | None = None) -> list[str]:
    """Make a scripts folder from a template; returns the paths that were made.

    A file that the template does not have is that of the default one. An ``embedmigrate.toml``
    that exists in ``root`` (default: the current folder) is kept. A folder that is not empty is
    refused.
    """
    root = root or Path.cwd()
    directory = root / directory
    source = template_directory() / template
    if not re.fullmatch(r"[a-z0-9_-]+", template) or not source.is_dir():
        raise UsageError(
            f"there is no template {template!r}",
            found=template,
            expected=", ".join(entry["name"] for entry in list_templates()),
            next_step="embedmigrate list-templates",
        )
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(
            f"{directory} already exists and is not empty",
            expected="a new or empty folder",
            next_step="embedmigrate revision, if the project is set up already",
        )
    made: list[Path] = []
    try:
        for folder in (directory / "versions", directory / "models"):
            folder.mkdir(parents=True, exist_ok=True)
            made.append(folder)
        for name, file in sorted(_files_of(source).items()):
            if name != FILE_NAME:
                shutil.copyfile(file, directory / name)
                made.append(directory / name)
        settings_file = root / FILE_NAME
        if not settings_file.exists() and not _configured_in_pyproject(root):
            text = (source / FILE_NAME).read_text("utf-8")
            location = directory.relative_to(root) if directory.is_relative_to(root) else directory
            settings_file.write_text(
                text.replace('script_location = "migrations"', f'script_location = "{location}"'),
                "utf-8",
            )
            made.append(settings_file)
    except OSError as error:
        raise ConfigError(
            f"{directory} cannot be written: {error.strerror}", next_step="choose another folder"
        ) from error
    return [str(path) for path in made]


def _files_of(source: Path) -> dict[str, Path]:
    """The files of a template by name: its own, and the others of the default template."""
    folders = (template_directory() / _DEFAULT, source)
    return {file.name: file for folder in folders for file in folder.iterdir() if file.is_file()}


def _configured_in_pyproject(root: Path) -> bool:
    project = root / "pyproject.toml"
    return project.is_file() and b"[tool.embedmigrate" in project.read_bytes()
