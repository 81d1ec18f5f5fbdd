"""Commands that set a project up: init, list-templates."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from embedmigrate.config import FILE_NAME
from embedmigrate.errors import ConfigError, UsageError
from embedmigrate.migration.environment import template_directory


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


def init(directory: Path, template: str = "default", *, root: Path | None = None) -> list[str]:
    """Make a scripts folder from a template; returns the paths that were made.

    An ``embedmigrate.toml`` that exists in ``root`` (default: the current folder) is kept. A folder
    that is not empty is refused.
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
        for file in sorted(source.iterdir()):
            if file.is_file() and file.name != FILE_NAME:
                shutil.copyfile(file, directory / file.name)
                made.append(directory / file.name)
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


def _configured_in_pyproject(root: Path) -> bool:
    project = root / "pyproject.toml"
    return project.is_file() and b"[tool.embedmigrate" in project.read_bytes()
