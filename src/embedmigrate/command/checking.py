"""``check``: do configuration, scripts and catalog agree?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from embedmigrate import resolve
from embedmigrate.catalog import routes, runs
from embedmigrate.catalog.records import STICKY
from embedmigrate.command.project import Project
from embedmigrate.config import Settings
from embedmigrate.migration import lockfile
from embedmigrate.migration.environment import Environment
from embedmigrate.migration.plan import spec_after
from embedmigrate.migration.recorder import (
    RecordedStep,
    all_moves,
    pending_upgrades,
    refuse_forks,
)
from embedmigrate.models import EmbeddingModel, Recipe


def check(settings: Settings) -> dict[str, Any]:
    """Do configuration, scripts and catalog agree? Lists every difference; changes nothing.

    ``collections`` holds what differs by collection and the command to type next, ``scripts`` the
    applied scripts that are not what they were.
    """
    scripts = Environment(settings).scripts()
    refuse_forks(scripts)
    project = Project.if_any(settings)
    heads: tuple[str, ...] = ()
    live: dict[str, str | None] = {}
    undone: dict[str, str] = {}
    if project is not None:
        with project:
            heads = project.applied_heads()
            with project.catalog.read() as connection:
                for name in settings.collections:
                    live[name] = routes.live_fingerprint(connection, name)
                    undone |= _undone(connection, name)
    pending = pending_upgrades(scripts, heads, ["heads"])
    moves = all_moves(scripts)
    entries = []
    for name in sorted(settings.collections):
        steps = moves.get(name, [])
        open_steps = [step for step in pending if step.operation and _of(step) == name]
        differences = _configured_otherwise(settings, name, steps)
        next_step = (
            f"configure what the scripts end at, or embedmigrate revision --collection {name}"
            if differences
            else None
        )
        for step in open_steps:
            how = undone.get(step.revision)
            again = "" if how is None else f' {step.revision} --again "reason"'
            next_step = next_step or f"embedmigrate upgrade{again}"
            differences.append(f"revision {step.revision} {how or 'is pending'}")
        if not open_steps and steps:
            last = steps[-1].move
            assert last is not None
            if live.get(name) != last.target.fingerprint:
                differences.append(
                    f"the scripts end at {last.target.reference}, but {live.get(name)} is live"
                )
                next_step = next_step or "embedmigrate status"
        entries.append({"collection": name, "differences": differences, "next_step": next_step})
    deviations = lockfile.compare(settings.script_location, scripts.walk_revisions())
    return {
        "schema": 1,
        "agrees": not deviations and not any(entry["differences"] for entry in entries),
        "collections": entries,
        "scripts": [deviation.message for deviation in deviations],
    }


def _undone(connection: Connection, collection: str) -> dict[str, str]:
    """The revisions that a person rolled back or cancelled last, and how."""
    last: dict[str, str] = {}
    for run in runs.of_collection(connection, collection):
        last[run.revision] = run.state
    return {
        revision: f"was {state.replace('_', ' ')} by a person"
        for revision, state in last.items()
        if state in STICKY
    }


def _of(step: RecordedStep) -> str | None:
    return None if step.operation is None else step.operation.collection


def _configured_otherwise(
    settings: Settings, collection: str, steps: Sequence[RecordedStep]
) -> list[str]:
    if not steps:
        return ["no revision makes its first index"]
    configured = settings.collection(collection)
    for accepted in configured.also_accept:
        resolve.pinned(settings, accepted)  # without it the application does not start
    wanted = resolve.pinned(settings, configured.model)
    factory = settings.open_store(collection).factory
    return [str(it) for it in disagreements(settings, collection, steps, wanted, factory)]


@dataclass(frozen=True)
class Disagreement:
    """Something that the configuration says otherwise than the last script of a collection."""

    what: str
    configured: str
    scripted: str

    def __str__(self) -> str:
        return f"{self.what}: configured {self.configured}, the scripts end at {self.scripted}"


def disagreements(
    settings: Settings,
    collection: str,
    steps: Sequence[RecordedStep],
    wanted: EmbeddingModel | None,
    factory: str | None,
) -> Iterator[Disagreement]:
    """Where the configuration of a collection is not what ``steps``, all of its own, end at.

    ``wanted`` is the pinned model that is configured, ``factory`` the index factory; what is None
    is not compared.
    """
    configured = settings.collection(collection)
    spec = spec_after(settings, [step.move for step in steps if step.move is not None])
    target = spec.model
    if wanted is not None and wanted.fingerprint != target.fingerprint:
        yield Disagreement("model", wanted.reference, target.reference)
    elif wanted is not None and wanted.query_side != target.query_side:
        yield Disagreement("query prompt", repr(wanted.query_prompt), repr(target.query_prompt))
    if configured.recipe.digest != spec.recipe.digest:
        yield Disagreement("recipe", _shown(configured.recipe), _shown(spec.recipe))
    metric = configured.store.metric
    if metric != spec.metric or factory not in (None, spec.factory):
        yield Disagreement(
            "index",
            f"{factory or spec.factory} with {metric}",
            f"{spec.factory} with {spec.metric}",
        )


def _shown(recipe: Recipe) -> str:
    joined = f"{', '.join(recipe.text)} joined by {recipe.joiner!r}"
    if recipe.chunker is None:
        return joined
    return f"{joined}, cut into {recipe.chunker.size} tokens, {recipe.chunker.overlap} shared"
