"""Commands about the files of a model: which ones there are, copying them, making copies whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from embedmigrate import resolve
from embedmigrate.config import Settings
from embedmigrate.embedders.base import ModelConfig
from embedmigrate.embedders.files import FilesConfig
from embedmigrate.embedders.package import survey
from embedmigrate.embedders.vendoring import place_in, vendor
from embedmigrate.embedders.vendoring import restore as restore_files
from embedmigrate.errors import ConfigError, DigestMismatch, UsageError
from embedmigrate.models import EmbeddingModel
from embedmigrate.models.pin_file import Package, Pin, read_pins


def restore(settings: Settings, name: str) -> dict[str, Any]:
    """Make the vendored copy of the model ``name`` whole again, from where it is configured to lie.

    Every digest is verified first. ``DigestMismatch`` when a file is not to be had, or when the
    folder holds one that does not belong there: it is named, and never deleted.
    """
    pin = _vendored_pin(settings, read_pins(settings.pins, name))
    if pin is None or pin.package is None:
        raise UsageError(
            f"model {name!r} is not vendored",
            expected="a pin file that names a vendored folder",
            next_step=f"embedmigrate pin {name} --vendor DIR",
        )
    config = settings.model(name)
    if not isinstance(config, FilesConfig) or not config.names_a_place:
        raise ConfigError(
            f"the configuration does not say where the files of model {name!r} lie",
            found=f"no package, path or repo in [models.{name}]",
            expected=f"a place that has the files of {pin.package.source}",
            next_step=f"add it to [models.{name}], or restore {pin.vendored} from a backup",
        )
    seen = survey(settings.embedder_class(name), config, settings.root)
    files = {} if seen is None else seen.files
    restored = restore_files(settings.root / pin.vendored, pin.package, files, name)
    return {
        "schema": 1,
        "name": name,
        "reference": pin.model.reference,
        "package": summary(pin.package),
        "restored": restored,
    }


def packaged(
    settings: Settings, name: str, pins: Sequence[Pin], into: Path | str | None
) -> tuple[ModelConfig, Package | None]:
    """The declaration to pin ``name`` from, and its package; None for a model without files.

    What is vendored stays where it is, unless it shall be copied ``into`` a folder: then the
    place that is configured is asked, if there is one.
    """
    below = None if into is None else _relative(settings, into)
    config, origin = settings.model(name), ""
    stated = isinstance(config, FilesConfig) and config.names_a_place
    vendored = _vendored_pin(settings, pins)
    if vendored is not None and vendored.package and (below is None or not stated):
        config, origin = resolve.place_of(settings, vendored), vendored.package.source
        if below is None:
            return config, vendored.package
    elif below is None:
        _refuse_to_leave_what_is_vendored(settings, name, pins)
    seen = survey(settings.embedder_class(name), config, settings.root)
    if below is None:
        return config, None if seen is None else seen.package
    if seen is None:
        raise UsageError(
            f"model {name!r} has no files that could be vendored",
            found=f"provider {config.provider!r}",
            expected="a model that is loaded from files",
            next_step=f"embedmigrate pin {name}",
        )
    folder = below / vendor(seen, settings.root / below, name).name
    package = replace(
        seen.package, source=origin or seen.package.source, vendored=folder.as_posix()
    )
    return place_in(config, package, seen.commit), package


def summary(package: Package) -> dict[str, Any]:
    """A package for reports."""
    return {
        "source": package.source,
        "vendored": package.vendored,
        "files": len(package.files),
        "bytes": sum(file.size for file in package.files),
    }


def line_to_configure(config: ModelConfig, model: EmbeddingModel) -> str | None:
    """What has to stand in the configuration for ``model`` to be meant; None if it does."""
    repo, stated = getattr(config, "repo", None), getattr(config, "revision", None)
    return None if repo is None or stated == model.revision else f'revision = "{model.revision}"'


def _vendored_pin(settings: Settings, pins: Sequence[Pin]) -> Pin | None:
    meant = (it for it in reversed(pins) if it.vendored and not resolve.other_commit(settings, it))
    return next(meant, None)


def _refuse_to_leave_what_is_vendored(settings: Settings, name: str, pins: Sequence[Pin]) -> None:
    for pin in reversed(pins):
        if pin.vendored:
            raise DigestMismatch(
                f"model {name!r} is vendored, and the configuration states another commit",
                found=f"revision {resolve.other_commit(settings, pin)!r}",
                expected=f"revision {pin.model.revision!r}, of {pin.vendored}",
                next_step=f"embedmigrate pin {name} --vendor {Path(pin.vendored).parent}, or "
                "correct revision",
            )


def _relative(settings: Settings, into: Path | str) -> Path:
    place = Path(os.path.normpath(settings.root / into))
    if not place.is_relative_to(settings.root):
        raise UsageError(
            "a vendored model lies in the project, so that it goes where the project goes",
            found=str(place),
            expected=f"a folder below {settings.root}",
            next_step="name a folder relative to the project",
        )
    return place.relative_to(settings.root)
