"""Hugging Face's local cache: which folder holds a commit of a repository. Without a network.

The cache has a folder ``models--org--name`` for each repository: ``snapshots/<commit>`` holds links
to the files, and ``refs/<name>`` the commit that a branch or a tag stood for when it was fetched.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import NamedTuple

from embedmigrate.errors import ConfigError
from embedmigrate.models.references import is_commit, unfetchable

_PART = r"\w([\w.-]{0,94}\w)?"
_REPOSITORY = re.compile(rf"(?!.*(--|\.\.))({_PART}/)?{_PART}", re.ASCII)
_ABBREVIATED = re.compile(r"[0-9a-f]{4,}")
_DEFAULT_BRANCH = "main"
_PREFIX = "models--"


class Snapshot(NamedTuple):
    """A commit of a repository, and the folder that holds its files."""

    repo: str
    commit: str
    folder: Path


def checked_repo(repo: str | None) -> str | None:
    """A pydantic validator: ``org/name`` or ``name``."""
    if repo is not None and not _REPOSITORY.fullmatch(repo):
        raise ValueError(f"{repo[:120]!r} is not the name of a Hugging Face repository: org/name")
    return repo


def cache_folder() -> Path:
    """Where the cache lies, by the variables that huggingface_hub reads."""
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    home = Path(os.environ.get("HF_HOME", home / "huggingface"))
    cache = os.environ.get("HF_HUB_CACHE", home / "hub")
    return Path(os.path.expandvars(cache)).expanduser()


def find_snapshot(repo: str, revision: str | None) -> Snapshot:
    """The snapshot of a commit, branch, tag or abbreviated commit; by default of the main branch.

    ``ConfigError`` says how to fetch what is not in the cache.
    """
    home = cache_folder() / (_PREFIX + repo.replace("/", "--"))
    wanted = revision or _DEFAULT_BRANCH
    commit = wanted if is_commit(wanted) else _commit_of(home, repo, wanted)
    folder = home / "snapshots" / commit
    if not folder.is_dir():
        raise _not_fetched(repo, commit, f"no folder {folder}")
    return Snapshot(repo, commit, folder)


def snapshot_of(folder: Path) -> Snapshot | None:
    """The snapshot that ``folder`` is or lies in; None for a folder elsewhere."""
    resolved = folder.resolve()
    for place in (resolved, *resolved.parents):
        snapshots, home = place.parent, place.parent.parent.name
        if is_commit(place.name) and snapshots.name == "snapshots" and home.startswith(_PREFIX):
            return Snapshot(home.removeprefix(_PREFIX).replace("--", "/"), place.name, place)
    return None


def fetch_command(repo: str, revision: str) -> str:
    """What a person types to have a revision in the cache; it is never run here."""
    what = f"download {repo} --revision {shlex.quote(revision)}"
    return f"huggingface-cli {what} (newer versions: hf {what})"


def _commit_of(home: Path, repo: str, wanted: str) -> str:
    references = home / "refs"
    known = {
        path.relative_to(references).as_posix(): path.read_text("utf-8", "replace").strip()
        for path in references.rglob("*")
        if path.is_file()
    }
    commits = {commit for name, commit in known.items() if name == wanted}
    if not commits and _ABBREVIATED.fullmatch(wanted) and (home / "snapshots").is_dir():
        names = (path.name for path in (home / "snapshots").iterdir())
        commits = {name for name in names if name.startswith(wanted)}
    if len(commits) == 1 and is_commit(commit := commits.pop()):
        return commit
    found = f"branches and tags: {', '.join(sorted(known)) or 'none'} in {references}"
    raise _not_fetched(repo, wanted, f"{len(commits)} commits {wanted}…" if commits else found)


def _not_fetched(repo: str, revision: str, found: str) -> ConfigError:
    why = unfetchable(revision)
    return ConfigError(
        f"revision {revision!r} of {repo} is not in the local Hugging Face cache",
        found=found,
        expected=f"one commit of {repo} in {cache_folder()}",
        next_step=fetch_command(repo, revision)
        if why is None
        else f"write a commit, a tag or a branch of {repo} there, not {why}",
    )
