"""The lock file ``migrations/applied.json``: which scripts were applied, and how they looked.

A script that was applied somewhere has become a fact; who edits it later describes something that
never happened. The catalog of one host does not know what another host applied, so the memory lies
beside the scripts, in version control: one line a revision.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from alembic.script import Script

from embedmigrate.errors import ConfigError

FILE = "applied.json"
SCHEMA = 1

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Deviation:
    """An applied script that is not what it was."""

    revision: str
    path: Path | None
    """The script; None when it is gone."""
    found: str | None
    """``sha256:…`` of the script as it stands now."""
    recorded: str

    @property
    def message(self) -> str:
        if self.path is None:
            return f"the script of revision {self.revision}, which was applied, is gone"
        return f"revision {self.revision} was changed after it was applied"


def checksum(path: Path) -> str:
    """``sha256:<hex>`` of a script, the same whatever line endings a checkout gave it."""
    content = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return "sha256:" + hashlib.sha256(content).hexdigest()


def read(folder: Path) -> dict[str, str]:
    """Revision -> checksum of its script; empty when nothing was recorded in ``folder`` yet.

    ``ConfigError`` when the file is not what ``note`` wrote.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise _unreadable(path, "another schema")
    applied = content.get("applied")
    if not isinstance(applied, dict) or not all(
        isinstance(value, str) and _DIGEST.fullmatch(value) for value in applied.values()
    ):
        raise _unreadable(path, "something other than checksums")
    return applied


def note(folder: Path, scripts: Iterable[Script], *, anew: Collection[str] = ()) -> list[str]:
    """Record how ``scripts`` look now; returns the revisions whose line was written.

    What is recorded already stays, however the script looks now, unless its revision is in
    ``anew``: those were applied this very moment. Nothing is written when nothing changes. Raises
    ``OSError`` when the folder cannot be written.
    """
    recorded = read(folder)
    new = {
        script.revision: checksum(Path(script.path))
        for script in scripts
        if script.revision in anew or script.revision not in recorded
    }
    new = {revision: value for revision, value in new.items() if recorded.get(revision) != value}
    if new:
        _write(folder / FILE, {**recorded, **new})
    return sorted(new)


def compare(folder: Path, scripts: Iterable[Script]) -> list[Deviation]:
    """What was recorded and is otherwise now, in order of revision."""
    paths = {script.revision: Path(script.path) for script in scripts}
    deviations = []
    for revision, recorded in sorted(read(folder).items()):
        path = paths.get(revision)
        found = None if path is None else checksum(path)
        if found != recorded:
            deviations.append(Deviation(revision, path, found, recorded))
    return deviations


def _write(path: Path, applied: Mapping[str, str]) -> None:
    content = {"schema": SCHEMA, "applied": dict(sorted(applied.items()))}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _unreadable(path: Path, found: str) -> ConfigError:
    return ConfigError(
        f"lock file {path} cannot be read",
        found=found,
        expected="the checksums of applied scripts, as embedmigrate wrote them",
        next_step=f"restore {path.name} from version control",
    )
