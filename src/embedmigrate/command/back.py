"""Commands that take collections back: downgrade and rollback, which are the same thing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import takewhile
from typing import Any

import alembic.command
from sqlalchemy.engine import Connection

from embedmigrate.catalog import events, indexes, routes, runs
from embedmigrate.catalog.locks import Lease
from embedmigrate.catalog.rebuilding import REBUILT
from embedmigrate.catalog.records import AppliedRecord, IndexRecord, IndexState
from embedmigrate.command.project import ROUND_PATIENCE, Project, version_table
from embedmigrate.command.telling import failures_told, rollbacks_told
from embedmigrate.config import Settings
from embedmigrate.engine import settle
from embedmigrate.engine.adopted import refuse_changed
from embedmigrate.engine.job import Reporter, StopSignal
from embedmigrate.engine.prepare import Transition, prepare
from embedmigrate.engine.sync import delete_in_retained
from embedmigrate.errors import (
    BadAnswer,
    ConfigError,
    DigestMismatch,
    Drifted,
    Irreversible,
    LockHeld,
    ModelMismatch,
    ScriptError,
    UnknownRevision,
    UsageError,
)
from embedmigrate.migration.environment import Environment, script_errors
from embedmigrate.migration.operations import RollbackOp
from embedmigrate.migration.plan import Downgrade, plan_downgrade
from embedmigrate.migration.recorder import RecordedStep, pending_downgrades
from embedmigrate.migration.walk import DowngradeWalk


def downgrade(
    settings: Settings,
    target: str,
    *,
    reason: str | None = None,
    now: bool = False,
    rebuild: bool = False,
    allow_mass_delete: bool = False,
    reporter: Reporter | None = None,
    stop: StopSignal | None = None,
) -> dict[str, Any]:
    """Go back to ``target``: catch the old index up with the source, then switch.

    ``now`` switches first and catches up afterwards: until then readers may see old documents (I5
    is suspended, and recorded so). ``rebuild`` builds an index that was dropped again, with the old
    model. ``Irreversible`` when the old index is gone, or ``target`` lies inside a block of
    revisions that were applied as one.
    """
    with (
        Project(
            settings, reporter=reporter, stop=stop, allow_mass_delete=allow_mass_delete
        ) as project,
        failures_told(project),
    ):
        scripts = Environment(settings).scripts()
        heads = project.applied_heads()
        _refuse_ambiguous(settings, target, heads)
        steps = pending_downgrades(scripts, heads, target)
        named, at, _ = target.partition("@")
        if at and named in settings.collections:
            _refuse_company(named, target, steps)
        downgrades = _plan(project, steps)
        moving = {plan.collection for plan in downgrades}
        unsettled = project.unsettled() - moving
        with project.locked_for_a_person(moving | unsettled) as leases:
            if project.applied_heads() != heads or _plan(project, steps) != downgrades:
                raise LockHeld(
                    "something else moved while the locks were taken",
                    next_step="run the same command again",
                )
            plans = _make_targets_ready(project, downgrades, leases, now=now, rebuild=rebuild)
            handler = DowngradeWalk(
                plans, leases, _reason(reason, now=now), project.publish, now=now
            )
            environment = Environment(
                settings, project.catalog, handler=handler, on_step=handler.on_step
            )
            with _caught_up(project, plans, moving | unsettled, leases, now=now) as followers:
                with rollbacks_told(project, plans, handler.reason), script_errors():
                    alembic.command.downgrade(environment.config, target)
                _settle(project, sorted(moving | unsettled), followers)
        return _result(_describe(project, plans), [step.revision for step in steps])


def rollback(
    settings: Settings,
    collection: str,
    *,
    reason: str | None = None,
    now: bool = False,
    rebuild: bool = False,
    allow_mass_delete: bool = False,
    reporter: Reporter | None = None,
    stop: StopSignal | None = None,
) -> dict[str, Any]:
    """Undo the last cut-over of ``collection``: the downgrade that its scripts describe.

    Works from the catalog alone when the scripts are gone. Called again after it was killed behind
    the switch, it finishes that rollback and goes no further back.
    """
    settings.collection(collection)
    with (
        Project(
            settings, reporter=reporter, stop=stop, allow_mass_delete=allow_mass_delete
        ) as project,
        failures_told(project, collection),
    ):
        if half_done := _finish_last(project, collection):
            return _result([half_done], half_done["undone"])
        block = _last_block(project, collection)
        base = block[-1].down_revision
        if _has_scripts(settings, block):
            target = base if base is not None else f"{collection}@base"
            scripts = Environment(settings).scripts()
            steps = pending_downgrades(scripts, project.applied_heads(), target)
            _refuse_company(collection, target, steps)
            project.close()
            return downgrade(
                settings,
                target,
                reason=reason,
                now=now,
                rebuild=rebuild,
                allow_mass_delete=allow_mass_delete,
                reporter=reporter,
                stop=stop,
            )
        switches = block[0].superseded_by is None
        plan = Downgrade(collection, tuple(block), switches, block[0].previous_index)
        with project.locked_for_a_person([collection]) as runners:
            plans = _make_targets_ready(project, [plan], runners, now=now, rebuild=rebuild)
            why = _reason(reason, now=now)
            with _caught_up(project, plans, [collection], runners, now=now) as followers:
                with rollbacks_told(project, plans, why):
                    _switch_without_scripts(
                        project, plans[0], runners[collection], base, why, now=now
                    )
                _settle(project, [collection], followers)
        return _result(_describe(project, plans), [record.revision for record in block])


# -- what is undone ---------------------------------------------------------------------------


def _refuse_company(collection: str, target: str, steps: Sequence[RecordedStep]) -> None:
    """``Irreversible`` when going back with one collection would undo cut-overs of others."""
    moving = {step.operation.collection for step in steps if step.operation is not None}
    if others := moving - {collection}:
        raise Irreversible(
            f"going back with {collection!r} would take other collections back with it",
            found=f"later revisions of {', '.join(sorted(others))} on the branch that was merged",
            expected=f"revisions of {collection!r} alone",
            next_step=f"embedmigrate downgrade {_lowest(steps)}, if all shall go back; else a "
            f"forward revision: embedmigrate revision --collection {collection} --to …",
        )


def _lowest(steps: Sequence[RecordedStep]) -> str:
    """The target that undoes all of ``steps`` without naming a collection."""
    return f"{steps[-1].revision}-1"


def _refuse_ambiguous(settings: Settings, target: str, heads: tuple[str, ...]) -> None:
    if re.fullmatch(r"-\d+", target) and len(heads) > 1:
        raise UsageError(
            f"downgrade {target} is ambiguous: {len(heads)} revisions are applied",
            found=", ".join(sorted(heads)),
            expected="a collection",
            next_step=" or ".join(
                f"embedmigrate downgrade {name}@{target}" for name in sorted(settings.collections)
            ),
        )


def _plan(project: Project, steps: Sequence[RecordedStep]) -> list[Downgrade]:
    moving = [step.operation.collection for step in steps if step.operation is not None]
    with project.catalog.read() as connection:
        applied = {name: routes.applied_of(connection, name) for name in dict.fromkeys(moving)}
        downgrades = plan_downgrade(steps, applied)
        for downgrade in downgrades:
            _check_destination(connection, downgrade, steps)
    return downgrades


def _check_destination(
    connection: Connection, downgrade: Downgrade, steps: Sequence[RecordedStep]
) -> None:
    if not downgrade.switches:
        return
    lowest = downgrade.undone[-1].revision
    operation = next(step.operation for step in steps if step.revision == lowest)
    target = downgrade.target_index
    recorded = None if target is None else indexes.get(connection, target).fingerprint
    if isinstance(operation, RollbackOp) and operation.to != recorded:
        raise ScriptError(
            f"revision {lowest} rolls back to another model than it replaced",
            found=f"to={operation.to}",
            expected=recorded or "None",
            next_step="correct downgrade() in the script",
        )


def _last_block(project: Project, collection: str) -> list[AppliedRecord]:
    """The last cut-over with the revisions that it superseded, the last first."""
    with project.catalog.read() as connection:
        applied = routes.applied_of(connection, collection)
    if not applied:
        raise UnknownRevision(
            f"nothing of {collection!r} is applied that could be rolled back",
            next_step="embedmigrate status",
        )
    below = takewhile(lambda record: record.superseded_by is not None, applied[1:])
    return [applied[0], *below]


def _has_scripts(settings: Settings, block: Sequence[AppliedRecord]) -> bool:
    try:
        scripts = Environment(settings).scripts()
        for record in block:
            with script_errors():
                scripts.get_revision(record.revision)
            if record.down_revision is not None:
                with script_errors():
                    scripts.get_revision(record.down_revision)
    except (ConfigError, UnknownRevision):
        return False
    return True


@contextmanager
def _caught_up(
    project: Project,
    plans: Sequence[Downgrade],
    collections: Iterable[str],
    runners: Mapping[str, Lease],
    *,
    now: bool,
) -> Iterator[dict[str, Lease]]:
    """Bring the old indexes to where the live ones are, and keep them there until the block ends.

    Nobody else writes to what is live meanwhile (I9). Yields the followers' leases: waited for, but
    by somebody who cannot wait (``now``), whose index loses the deleted documents all the same.
    """
    with ExitStack() as stack:
        leases: dict[str, Lease] = {}
        for collection in sorted(set(collections)):
            try:
                leases |= stack.enter_context(
                    project.following([collection], patience=0 if now else ROUND_PATIENCE)
                )
            except LockHeld:
                if not now:
                    raise
        for plan in plans:
            if plan.target_index is None:
                continue
            with project.catalog.read() as connection:
                if indexes.get(connection, plan.target_index).adopted:
                    continue
            lease = leases.get(plan.collection, runners[plan.collection])
            if now:
                delete_in_retained(project.job(plan.collection), lease, beside_runner=True)
            else:
                _catch_up(project, plan.collection, lease, plan.target_index, anew=False)
        yield leases


def _settle(project: Project, collections: Iterable[str], followers: Mapping[str, Lease]) -> None:
    """Finish the switch, unless a follower is at work, which does so in its next round."""
    for collection in collections:
        if collection in followers:
            project.settle(collection, followers[collection])
        else:
            project.reporter.note(f"{collection}: whoever follows it finishes the switch")


# -- making the way back safe -----------------------------------------------------------------


def _make_targets_ready(
    project: Project,
    downgrades: Sequence[Downgrade],
    leases: Mapping[str, Lease],
    *,
    now: bool,
    rebuild: bool,
) -> list[Downgrade]:
    """Catch the old indexes up (or build them again); returns the plans with what they go to.

    That may take hours, in which somebody else keeps up to date what is live.
    """
    plans = []
    for downgrade in downgrades:
        collection, target = downgrade.collection, downgrade.target_index
        if target is not None:
            with project.catalog.read() as connection:
                index = indexes.get(connection, target)
            if index.state is IndexState.DROPPED:
                target = _rebuilt(project, downgrade, leases[collection], rebuild=rebuild)
            elif index.adopted:  # nobody writes to it: it is up to date, or it is not
                refuse_changed(project.job(collection), index, anyway=now)
            elif not now and not _is_served(project, index):
                _catch_up(project, collection, leases[collection], target)
        plans.append(replace(downgrade, target_index=target))
    return plans


def _is_served(project: Project, index: IndexRecord) -> bool:
    """Whether its vectors are those of the live index, which only a follower writes to."""
    with project.catalog.read() as connection:
        live = routes.get(connection, index.collection).live_index
        return live is not None and indexes.get(connection, live).container == index.container


def _catch_up(
    project: Project, collection: str, lease: Lease, target: str, *, anew: bool | None = None
) -> None:
    with project.catalog.read() as connection:
        index = indexes.get(connection, target)
    try:
        settle.catch_up(project.job(collection), lease, target, anew=anew)
    except (ConfigError, DigestMismatch, Drifted, ModelMismatch, BadAnswer) as error:
        raise Irreversible(
            f"the documents of {collection!r} that changed since the cut-over cannot be embedded "
            f"with the old model: {error.message}",
            found=str(settle.outstanding(project.job(collection), index)),
            expected="the old model, to bring its index up to date first",
            next_step="make the old model available, or add --now to serve its index as it is, "
            "with these documents as they were",
        ) from error


def _rebuilt(project: Project, downgrade: Downgrade, lease: Lease, *, rebuild: bool) -> str:
    assert downgrade.target_index is not None
    with project.catalog.read() as connection:
        dropped = indexes.get(connection, downgrade.target_index)
        live = routes.live_fingerprint(connection, downgrade.collection)
        made_by = next(
            record.revision
            for record in routes.applied_of(connection, downgrade.collection)
            if record not in downgrade.undone and record.superseded_by is None
        )
    if not rebuild:
        raise Irreversible(
            f"the index that {downgrade.collection!r} would go back to was dropped",
            found=f"{dropped.name} of {dropped.model.reference}, dropped after its grace",
            expected="a retained index",
            next_step="add --rebuild to embed the collection with that model again, or write a "
            f"forward revision: embedmigrate revision --collection {downgrade.collection} --to …",
        )
    run = prepare(
        project.job(downgrade.collection),
        lease,
        Transition(revision=made_by, spec=dropped.spec, leaves=live, allow_lag=True),
        again="rebuilt for a downgrade",
        recall_target=project.settings.collection(downgrade.collection).recall_target,
    )
    with project.catalog.write() as connection:
        routes.note_rebuilt(connection, lease, revision=made_by, index_name=run.index_name)
    return run.index_name


def _reason(reason: str | None, *, now: bool) -> str | None:
    if not now:
        return reason
    return f"{reason or 'no reason given'} (--now: switched before catching up, I5 suspended)"


# -- switching --------------------------------------------------------------------------------


def _switch_without_scripts(
    project: Project,
    plan: Downgrade,
    lease: Lease,
    base: str | None,
    reason: str | None,
    *,
    now: bool,
) -> None:
    """Route and version row in one transaction (I10), without Alembic."""
    newest, column = plan.undone[0].revision, version_table.c.version_num
    with project.catalog.write() as connection:
        removed = connection.execute(version_table.delete().where(column == newest))
        if removed.rowcount != 1:
            raise ScriptError(
                f"revision {newest} is not the last one applied to {plan.collection!r}, and the "
                "scripts that would tell what came after it are gone",
                next_step="restore the scripts from version control",
            )
        others = {record.revision for record in plan.undone} - {newest}
        if others:
            connection.execute(version_table.delete().where(column.in_(others)))
        if base is not None:
            connection.execute(version_table.insert().values(version_num=base))
        for record in plan.undone:
            routes.undo(
                connection,
                lease,
                record,
                target_index=plan.target_index,
                switch=plan.switches and record is plan.undone[0],
                reason=reason,
                now=now,
            )
        project.publish(connection, plan.collection)


def _finish_last(project: Project, collection: str) -> dict[str, Any] | None:
    """Settle a rollback whose runner died behind the switch; None when there is no such thing."""
    if collection not in project.unsettled():
        return None
    with project.catalog.read() as connection:
        switch = events.last(connection, collection, "cut_over", "rolled_back", REBUILT)
        applied = routes.applied_of(connection, collection)
    if switch is None or switch["kind"] != "rolled_back":
        return None
    if applied and applied[0].superseded_by is not None:  # rows of its block are still there
        return None
    with project.locked_for_a_person([collection]), project.following([collection]) as followers:
        project.settle(collection, followers[collection])
    if collection in project.unsettled():  # its model is gone, so it cannot be settled: go on
        return None
    with project.catalog.read() as connection:
        route = routes.get(connection, collection)
    return {
        "collection": collection,
        "undone": [switch["data"]["revision"]],
        "live": route.live_index,
        "generation": route.generation,
        "reason": switch["data"]["reason"],
    }


def _result(entries: list[dict[str, Any]], undone: Sequence[str]) -> dict[str, Any]:
    return {"schema": 1, "collections": entries, "undone": list(undone)}


def _describe(project: Project, plans: Sequence[Downgrade]) -> list[dict[str, Any]]:
    entries = []
    with project.catalog.read() as connection:
        for plan in plans:
            route = routes.get(connection, plan.collection)
            run = (
                None
                if plan.undone[0].run_id is None
                else runs.get(connection, plan.undone[0].run_id)
            )
            entries.append(
                {
                    "collection": plan.collection,
                    "undone": [record.revision for record in plan.undone],
                    "live": route.live_index,
                    "generation": route.generation,
                    "reason": None if run is None else run.reason,
                }
            )
    return entries
