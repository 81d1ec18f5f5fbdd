"""Commands that move collections forward: upgrade, cutover, contract."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import alembic.command
from alembic.script import ScriptDirectory

from embedmigrate.catalog import indexes, routes, runs
from embedmigrate.catalog.locks import Lease
from embedmigrate.catalog.records import IndexState, RunRecord
from embedmigrate.command.project import Project, branch_targets
from embedmigrate.command.telling import (
    ask_before_cutover,
    cutovers_told,
    failures_told,
)
from embedmigrate.config import Settings
from embedmigrate.engine import settle
from embedmigrate.engine.job import Reporter, StopSignal
from embedmigrate.engine.prepare import prepare
from embedmigrate.engine.rebind import Rebinding, rebind
from embedmigrate.errors import (
    ConfigError,
    EmbedMigrateError,
    LockHeld,
    Refused,
    Stopped,
    UsageError,
)
from embedmigrate.migration import lockfile
from embedmigrate.migration.environment import Environment, script_errors
from embedmigrate.migration.plan import Upgrade, plan_upgrade
from embedmigrate.migration.recorder import (
    RecordedStep,
    pending_upgrades,
    recorded,
    refuse_forks,
)
from embedmigrate.migration.walk import UpgradeWalk

_SEVERITY = (1, 3, 4, 5, 6, 7, 75)
"""With several collections the first of these exit codes that occurred is the command's."""


def upgrade(
    settings: Settings,
    targets: Sequence[str] = ("heads",),
    *,
    until_ready: bool = False,
    again: str | None = None,
    allow_mass_delete: bool = False,
    only_ready: bool = False,
    reporter: Reporter | None = None,
    stop: StopSignal | None = None,
) -> dict[str, Any]:
    """Apply the pending revisions up to ``targets``.

    Every collection that moves is brought to ``ready`` first; then Alembic walks the scripts and
    each step commits its route and its version row together. ``until_ready`` stops before the walk,
    ``again`` is the reason to redo what a person rolled back, ``only_ready`` refuses to embed.
    Returns what each collection did, and the revisions that were applied. With nothing pending,
    nothing is written. When some collections fail, the others are moved all the same; the gravest
    error is raised, and its ``result`` is what would have been returned.
    """
    targets = branch_targets(settings, targets)
    if again is not None and not again.strip():
        raise UsageError("--again needs a reason", next_step='--again "why it is right now"')
    scripts = Environment(settings).scripts()
    refuse_forks(scripts)
    with (
        Project(
            settings,
            reporter=reporter,
            stop=stop,
            create_catalog=True,
            allow_mass_delete=allow_mass_delete,
        ) as project,
        failures_told(project),
    ):
        upgrades = _pending(project, scripts, targets)
        moving = {upgrade.collection for upgrade in upgrades}
        unsettled = project.unsettled()
        _ensure_collections(project, moving)
        if only_ready:
            _refuse_unprepared(project, upgrades)
        with project.locked(moving | unsettled) as leases:
            upgrades = _pending(project, scripts, targets)  # somebody may have been faster
            if not {upgrade.collection for upgrade in upgrades} <= moving:
                raise LockHeld(
                    "the pending revisions changed while the locks were taken",
                    next_step="run the same command again",
                )
            failed: dict[str, EmbedMigrateError] = {}
            for collection in sorted(unsettled):
                with _alone(project, collection, failed):
                    project.settle(collection, leases[collection])
            prepared = _prepare_all(project, upgrades, leases, again, failed)
            applied: list[str] = []
            if not until_ready:
                ask_before_cutover(project, upgrades, prepared, failed)
                with cutovers_told(project, upgrades, prepared):
                    applied = _walk(project, scripts, targets, upgrades, leases, prepared, failed)
                note_applied(project, scripts, applied)
                for collection in prepared:
                    with _alone(project, collection, failed):
                        project.settle(collection, leases[collection])
            done = [_describe(project, upgrade, prepared, failed) for upgrade in upgrades]
        result = {"schema": 1, "collections": done, "applied": applied}
        if failed:
            error = _most_severe(failed)
            error.result = result if prepared else None
            raise error
        return result


def cutover(
    settings: Settings,
    targets: Sequence[str] = ("heads",),
    *,
    reporter: Reporter | None = None,
    stop: StopSignal | None = None,
) -> dict[str, Any]:
    """Upgrade what is ready: catch up, verify again and switch. ``Refused`` if something is not."""
    return upgrade(settings, targets, only_ready=True, reporter=reporter, stop=stop)


def contract(
    settings: Settings,
    collection: str | None = None,
    *,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Drop the retained indexes whose grace is over (I20); returns their names."""
    names = [collection] if collection is not None else sorted(settings.collections)
    with Project(settings, reporter=reporter) as project:
        dropped, refused = [], []
        for name in names:
            settings.collection(name)
            with project.catalog.read() as connection:
                known = bool(indexes.of_collection(connection, name))
            if not known:
                continue
            with project.locked([name]) as leases:
                try:
                    gone = settle.contract(
                        project.job(name),
                        leases[name],
                        retain_seconds=settings.general.retain_seconds,
                        now=time.time(),
                    )
                except Refused as error:
                    refused.append(error)
                else:
                    dropped.append({"collection": name, "dropped": gone})
        if refused and not any(entry["dropped"] for entry in dropped):
            raise refused[0]
        return {"schema": 1, "collections": dropped}


# -- the steps of an upgrade ------------------------------------------------------------------


def _pending(project: Project, scripts: ScriptDirectory, targets: Sequence[str]) -> list[Upgrade]:
    steps = pending_upgrades(scripts, project.applied_heads(), targets)
    moving = {step.operation.collection for step in steps if step.operation is not None}
    return plan_upgrade(project.settings, [*_open_blocks(project, scripts, moving), *steps])


def _open_blocks(
    project: Project, scripts: ScriptDirectory, collections: set[str]
) -> list[RecordedStep]:
    """Revisions whose rows were written by a walk that was cut short before its cut-over."""
    open_revisions: list[str] = []
    with project.catalog.read() as connection:
        for collection in sorted(collections):
            applied = routes.applied_of(connection, collection)
            superseded = list(takewhile(lambda record: record.superseded_by is not None, applied))
            open_revisions += [record.revision for record in reversed(superseded)]
    return [recorded(scripts, revision) for revision in open_revisions]


def _ensure_collections(project: Project, collections: set[str]) -> None:
    if collections:
        with project.catalog.write() as connection:
            for collection in sorted(collections):
                indexes.ensure_collection(connection, collection)


def _refuse_unprepared(project: Project, upgrades: Sequence[Upgrade]) -> None:
    for upgrade in upgrades:
        with project.catalog.read() as connection:
            run = runs.latest(connection, upgrade.collection, revision=upgrade.transition.revision)
            index = None if run is None else indexes.get(connection, run.index_name)
        # A cut-over that was stopped half-way leaves the index ready, whatever its run says.
        if run is None or index is None or index.state is not IndexState.READY:
            raise Refused(
                f"{upgrade.collection!r} is not ready to be cut over",
                found=f"revision {upgrade.transition.revision} is "
                f"{run.state if run is not None else 'not prepared'}",
                expected="ready",
                next_step="embedmigrate upgrade --until ready",
            )


def _prepare_all(
    project: Project,
    upgrades: Sequence[Upgrade],
    leases: Mapping[str, Lease],
    again: str | None,
    failed: dict[str, EmbedMigrateError],
) -> dict[str, RunRecord]:
    """Prepare every collection that has not ``failed``; those that do are added there."""
    prepared: dict[str, RunRecord] = {}
    for upgrade in upgrades:
        if upgrade.collection in failed:
            continue
        with _alone(project, upgrade.collection, failed):
            prepared[upgrade.collection] = _prepare(
                project, upgrade, leases[upgrade.collection], again
            )
        if upgrade.collection in failed and len(upgrades) > 1:
            project.reporter.note(f"{upgrade.collection}: {failed[upgrade.collection]}")
    return prepared


def _prepare(project: Project, upgrade: Upgrade, lease: Lease, again: str | None) -> RunRecord:
    job = project.job(upgrade.collection)
    if isinstance(upgrade.transition, Rebinding):
        return rebind(job, lease, upgrade.transition, again=again)
    return prepare(
        job,
        lease,
        upgrade.transition,
        again=again,
        recall_target=project.settings.collection(upgrade.collection).recall_target,
    )


@contextmanager
def _alone(
    project: Project, collection: str, failed: dict[str, EmbedMigrateError]
) -> Iterator[None]:
    """What fails for one collection is noted, and does not keep the others from anything."""
    try:
        with failures_told(project, collection):
            yield
    except Stopped:
        raise
    except EmbedMigrateError as error:
        failed[collection] = error


def _walk(
    project: Project,
    scripts: ScriptDirectory,
    targets: Sequence[str],
    upgrades: Sequence[Upgrade],
    leases: Mapping[str, Lease],
    prepared: Mapping[str, RunRecord],
    failed: Mapping[str, EmbedMigrateError],
) -> list[str]:
    """Let Alembic apply the scripts, except for heads that need a collection that failed.

    Returns the revisions that were applied.
    """
    applied: list[str] = []
    handler = UpgradeWalk(upgrades, leases, prepared)
    environment = Environment(
        project.settings, project.catalog, handler=handler, on_step=handler.on_step
    )
    for target in _single_targets(scripts, targets):
        steps = pending_upgrades(scripts, project.applied_heads(), [target])
        needed = {step.operation.collection for step in steps if step.operation is not None}
        if steps and not needed & failed.keys():
            with script_errors():
                alembic.command.upgrade(environment.config, target)
            applied += [step.revision for step in steps]
    return applied


def note_applied(project: Project, scripts: ScriptDirectory, applied: Sequence[str]) -> None:
    """Record how the applied scripts look, those of a walk that was cut short among them."""
    if not applied:
        return
    heads = project.applied_heads()
    try:
        lockfile.note(
            project.settings.script_location,
            scripts.iterate_revisions(heads, "base", inclusive=True),
            anew=applied,
        )
    except (OSError, ConfigError) as error:
        project.reporter.note(
            f"{lockfile.FILE} was not written: {error}\n"
            "  next:     embedmigrate check --policy --freeze, where it can be written"
        )


def _single_targets(scripts: ScriptDirectory, targets: Sequence[str]) -> list[str]:
    single: list[str] = []
    for target in targets:
        single += scripts.get_heads() if target == "heads" else [target]
    return single


def _describe(
    project: Project,
    upgrade: Upgrade,
    prepared: Mapping[str, RunRecord],
    failed: Mapping[str, EmbedMigrateError],
) -> dict[str, Any]:
    with project.catalog.read() as connection:
        route = routes.get(connection, upgrade.collection)
        run = prepared.get(upgrade.collection)
        latest = runs.get(connection, run.id) if run is not None else None
        index = None if latest is None else indexes.get(connection, latest.index_name)
    error = failed.get(upgrade.collection)
    return {
        "collection": upgrade.collection,
        "revision": upgrade.transition.revision,
        "superseded": list(upgrade.superseded),
        "model": upgrade.transition.model.reference,
        "assurance": upgrade.transition.model.pinned_or_witnessed,
        "index": None if index is None else index.name,
        "container": None if index is None else index.container,
        "state": "failed" if latest is None else latest.state,
        "error": None if error is None else error.message,
        "live": latest is not None and route.live_index == latest.index_name,
        "generation": route.generation,
        "total": 0 if latest is None else latest.total,
        "done": 0 if latest is None else latest.done,
        "skipped": 0 if latest is None else latest.skipped,
        "embedded": 0 if latest is None else latest.embedded,
    }


def _most_severe(failed: Mapping[str, EmbedMigrateError]) -> EmbedMigrateError:
    def rank(error: EmbedMigrateError) -> int:
        return _SEVERITY.index(error.exit_code) if error.exit_code in _SEVERITY else -1

    return min(failed.values(), key=rank)
