"""Copies of models under the user's control: made, checked before each use, made whole again.

A vendored model is a folder named by the digest of its list of files, with nothing else in it. It
is copied under a temporary name and renamed when it is durable, so that a folder of that name is
whole, until somebody changes it: then it is refused, and says which file.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from embedmigrate.durable import sync_folder
from embedmigrate.embedders.base import ModelConfig
from embedmigrate.embedders.files import FileReference, FilesConfig, file_digest, inside
from embedmigrate.embedders.package import Survey
from embedmigrate.errors import ConfigError, DigestMismatch, StorageUnavailable, UnsupportedModel
from embedmigrate.models.canonical import digest, sha256_file
from embedmigrate.models.pin_file import Package, PackageFile

_NEVER = frozenset(
    (
        *(".py", ".pyc", ".pyo", ".so", ".dll", ".dylib", ".sh"),
        *(".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5"),
    )
)
"""Code, and formats that bring code along when they are read."""
_READ_ONLY, _OPEN_FOLDER = 0o444, 0o755
_NAMED = 5
"""Files that an error names of each kind of damage."""


def folder_name(package: Package) -> str:
    """The digest of the list of files: what the vendored folder is called."""
    return digest("package/1", {file.path: file.sha256 for file in package.files})


def place_in(config: ModelConfig, package: Package, commit: str) -> ModelConfig:
    """The declaration of a vendored model, with all that it says of places rewritten to the copy.

    ``commit`` is what the files came in, which the copy does not tell any more.
    """
    if not isinstance(config, FilesConfig):
        return config
    fields = type(config).model_fields
    layout = {key: FileReference(file=it) for key, it in package.layout.items() if key in fields}
    nowhere = {"package": None, "repo": None, "folder": None}
    place = {"path": package.vendored, "revision": commit or None}
    return config.model_copy(update={**nowhere, **place, **layout})


# -- checking ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Damage:
    """What is wrong with a vendored folder: names of files, in order."""

    changed: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    def __str__(self) -> str:
        kinds = {"changed": self.changed, "missing": self.missing, "extra": self.extra}
        return "; ".join(f"{kind}: {_some(names)}" for kind, names in kinds.items() if names)


def damage_of(folder: Path, package: Package) -> Damage:
    """Compare a vendored folder with its list of files, digest by digest."""
    expected = {file.path: file for file in package.files}
    there = set(_files_below(folder))
    return Damage(
        tuple(sorted(name for name in there & set(expected) if _other(folder, expected[name]))),
        tuple(sorted(set(expected) - there)),
        tuple(sorted(there - set(expected))),
    )


def require_whole(folder: Path, package: Package, name: str) -> None:
    """``DigestMismatch`` names every file of the vendored model ``name`` that is not as pinned."""
    damage = damage_of(folder, package)
    if not str(damage):
        return
    steps = []
    if damage.extra:
        steps.append("move what is extra out of the folder, or delete it")
    if damage.changed or damage.missing:
        steps.append(f"embedmigrate pin {name} --restore")
    raise DigestMismatch(
        f"the vendored files of model {name!r} in {folder} are not those that were pinned",
        found=str(damage) if folder.is_dir() else "no such folder",
        expected=f"exactly the {len(package.files)} files of the pin file",
        next_step=", then ".join(steps),
    )


def _files_below(folder: Path) -> Iterator[str]:
    """Everything that is not a folder; a link to one counts as a file, since it is not followed."""
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if Path(place, name).is_symlink()]
        for name in (*files, *links):
            yield Path(place, name).relative_to(folder).as_posix()


def _other(folder: Path, file: PackageFile) -> bool:
    path = folder / file.path
    if path.is_symlink() or not path.is_file() or path.stat().st_size != file.size:
        return True
    return file_digest(path) != file.sha256


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


# -- making ------------------------------------------------------------------------------------


def vendor(survey: Survey, into: Path, name: str) -> Path:
    """Copy the package of model ``name`` into a folder of its own below ``into``; the folder.

    A folder that is there already is made whole. ``UnsupportedModel`` for a package that holds
    code or pickles; ``StorageUnavailable`` when the disk is full.
    """
    _refuse_code(survey.package, name)
    folder = into / folder_name(survey.package)
    if folder.exists():
        restore(folder, survey.package, survey.files, name)
        return folder
    with _making(into, folder.name) as making:
        for file in survey.package.files:
            _copy(survey.files[file.path], making / file.path, file)
        _sync(making)
        try:
            making.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise  # else another process was faster, with the same files
        sync_folder(into)
    return folder


def restore(folder: Path, package: Package, files: Mapping[str, Path], name: str) -> list[str]:
    """Put back every changed or missing file of a vendored folder; their names.

    ``files`` are where the model lies now, under whatever names: what counts is the digest. Nothing
    is written unless the whole package is there, and nothing extra is: it is never deleted here.
    """
    _refuse_code(package, name)
    sources = {file_digest(path): path for path in files.values()}
    lacking = [file for file in package.files if file.sha256 not in sources]
    if lacking:
        raise DigestMismatch(
            f"the vendored files of model {name!r} cannot be restored from what is configured",
            found=f"no file with the digest of {_some([file.path for file in lacking])}",
            expected=f"{lacking[0].sha256}; it was vendored from {package.source}",
            next_step=f"have {package.source} where the configuration says that the model lies, or "
            f"restore {folder} from a backup",
        )
    damage = damage_of(folder, package)
    if damage.extra:
        require_whole(folder, package, name)
    harmed = {*damage.changed, *damage.missing}
    with _making(folder.parent, folder.name) as making:
        for file in package.files:
            if file.path in harmed:
                _copy(sources[file.sha256], making / file.path, file)
        for path in harmed:
            inside(folder, path).parent.mkdir(parents=True, exist_ok=True)
            (making / path).replace(inside(folder, path))
        _sync(folder)
        sync_folder(folder.parent)
    require_whole(folder, package, name)
    return sorted(harmed)


def _refuse_code(package: Package, name: str) -> None:
    for file in package.files:
        if (suffix := Path(file.path).suffix.lower()) in _NEVER:
            raise UnsupportedModel(
                f"model {name!r} cannot be vendored: {file.path} may hold code",
                found=f"a file that ends in {suffix}",
                expected="weights in safetensors or ONNX format",
                next_step="save the model without it, for example as safetensors",
            )


@contextmanager
def _making(into: Path, name: str) -> Iterator[Path]:
    """A temporary folder in ``into``, gone afterwards unless it was renamed."""
    making: Path | None = None
    try:
        into.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=into))
        making.chmod(_OPEN_FOLDER)
        yield making
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise (StorageUnavailable if full else ConfigError)(
            f"the model cannot be copied to {into}: {error.strerror}",
            next_step="make room there" if full else "correct the folder, or make it writable",
        ) from error
    finally:
        if making is not None:
            shutil.rmtree(making, ignore_errors=True)


def _copy(source: Path, target: Path, file: PackageFile) -> None:
    """Copy a file, durably; ``DigestMismatch`` if it is not what it was a moment ago."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(_READ_ONLY)
    with target.open("rb") as written:
        os.fsync(written.fileno())
    if (found := sha256_file(target)) != file.sha256:
        raise DigestMismatch(
            f"{source} changed while it was copied",
            found=found,
            expected=file.sha256,
            next_step="repeat the command",
        )


def _sync(folder: Path) -> None:
    for place, _, _ in os.walk(folder):
        sync_folder(Path(place))
