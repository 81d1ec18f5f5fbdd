"""Commands that move collections forward: upgrade, cutover."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from typing import Any

import alembic.command
from alembic.script import ScriptDirectory

from embedmigrate.catalog import indexes, requests, routes, runs
from embedmigrate.catalog.locks import Lease
from embedmigrate.catalog.records import IndexRecord, IndexState, RunRecord
from embedmigrate.command.outcome import (
    Outcome,
    do_what_was_asked_before,
    most_severe,
    paused,
)
from embedmigrate.command.project import Project, branch_targets
from embedmigrate.command.telling import (
    ask_before_cutover,
    cutovers_told,
    failures_told,
)
from embedmigrate.config import Settings
from embedmigrate.engine import settle
from embedmigrate.engine.dead_letters import of_live_index, refusal
from embedmigrate.engine.job import Reporter, StopSignal
from embedmigrate.engine.limits import limited
from embedmigrate.engine.outlasting import outlasting
from embedmigrate.engine.prepare import Transition, prepare
from embedmigrate.engine.rebind import Rebinding, rebind
from embedmigrate.engine.settle import retry_live
from embedmigrate.engine.strict import strict_cut
from embedmigrate.errors import (
    AskedToStop,
    ConfigError,
    EmbedMigrateError,
    LockHeld,
    Refused,
    UsageError,
)
from embedmigrate.migration import lockfile
from embedmigrate.migration.environment import Environment, script_errors
from embedmigrate.migration.plan import Upgrade, plan_upgrade
from embedmigrate.migration.reach import reachable
from embedmigrate.migration.recorder import (
    RecordedStep,
    pending_upgrades,
    recorded,
    refuse_forks,
)
from embedmigrate.migration.walk import UpgradeWalk


def upgrade(
    settings: Settings,
    targets: Sequence[str] = ("heads",),
    *,
    until_ready: bool = False,
    again: str | None = None,
    allow_mass_delete: bool = False,
    only_ready: bool = False,
    max_minutes: float | None = None,
    window: str | None = None,
    retry_failed: bool = False,
    reporter: Reporter | None = None,
    stop: StopSignal | None = None,
) -> dict[str, Any]:
    """Apply the pending revisions up to ``targets``.

    Every collection that moves is brought to ``ready`` first; then Alembic walks the scripts and
    each step commits its route and its version row together. ``until_ready`` stops before the walk,
    ``again`` is the reason to redo what a person rolled back, ``only_ready`` refuses to embed.
    ``retry_failed`` tries documents again that could not be embedded, in what is being prepared and
    in what is live; ``DeadLetters`` when some of a live index remain.
    ``max_minutes`` and ``window`` (``"01:00-05:00 Europe/Berlin"``) say when to stop: ``Stopped``,
    at once outside the window. Returns what each collection did, and the revisions that were
    applied. With nothing pending, nothing is written. A collection that is paused, or whose
    cut-over is left to a person, is held: it says so and does not fail. When some collections fail,
    the others are moved all the same; the gravest error is raised, and its ``result`` is what would
    have been returned.
    """
    stop = limited(stop or StopSignal(), max_minutes=max_minutes, window=window)
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
        outcome = Outcome(project, held=paused(project))
        moving = {upgrade.collection for upgrade in upgrades} - outcome.held.keys()
        unsettled = project.unsettled() - outcome.held.keys()
        retried = _with_dead_letters(project) - outcome.held.keys() if retry_failed else set()
        _ensure_collections(project, moving)
        if only_ready:
            _refuse_unprepared(project, upgrades)
        with project.locked(moving | unsettled | retried) as leases:
            upgrades = _pending(project, scripts, targets)  # somebody may have been faster
            if not {it.collection for it in upgrades} <= moving | outcome.held.keys():
                raise LockHeld(
                    "the pending revisions changed while the locks were taken",
                    next_step="run the same command again",
                )
            do_what_was_asked_before(project, upgrades, leases)
            project.take_orders(leases)
            for collection in sorted(unsettled):
                with (
                    outcome.of(collection, leases[collection]),
                    project.following([collection]) as followers,
                ):
                    project.settle(collection, followers[collection])
            for collection in sorted(retried - outcome.withheld):
                with (
                    outcome.of(collection, leases[collection]),
                    project.following([collection]) as followers,
                ):
                    retry_live(project.job(collection), followers[collection])
            _prepare_all(upgrades, leases, again, outcome, retry_failed=retry_failed)
            applied: list[str] = []
            if not until_ready:
                if not only_ready:
                    outcome.hold_manual_ones()
                ask_before_cutover(project, outcome.about_to_switch, outcome.failed)
                with _caught_up(upgrades, leases, outcome) as followers:
                    with (
                        _standing_still(upgrades, followers, leases, outcome),
                        cutovers_told(project, outcome.about_to_switch),
                    ):
                        applied = _walk(scripts, targets, upgrades, leases, outcome)
                    note_applied(project, scripts, applied)
                    for collection, lease in followers.items():
                        with outcome.of(collection, leases[collection]):
                            project.settle(collection, lease)
            done = [_describe(upgrade, outcome) for upgrade in upgrades]
        result = {"schema": 1, "collections": done, "applied": applied}
        if outcome.failed:
            error = most_severe(outcome.failed.values())
            error.result = result if outcome.prepared or outcome.held else None
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


def _with_dead_letters(project: Project) -> set[str]:
    """Collections of which a live index misses documents that could not be embedded."""
    found = {name: of_live_index(project.job(name)) for name in project.settings.collections}
    return {name for name, live in found.items() if live is not None and live[1]}


def _refuse_unprepared(project: Project, upgrades: Sequence[Upgrade]) -> None:
    for upgrade in upgrades:
        with project.catalog.read() as connection:
            request = requests.get(connection, upgrade.collection)
            run = runs.latest(connection, upgrade.collection, revision=upgrade.transition.revision)
            index = None if run is None else indexes.get(connection, run.index_name)
        if request is not None:
            raise Refused(
                f"{upgrade.collection!r} was stopped by a person who asked to {request.wanted} it",
                found=request.by,
                expected="a person's decision to go on",
                next_step=f"embedmigrate resume {upgrade.collection}",
            )
        if index is not None and (dead := _too_many_dead(project, upgrade, index)) is not None:
            raise dead
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
    upgrades: Sequence[Upgrade],
    leases: Mapping[str, Lease],
    again: str | None,
    outcome: Outcome,
    *,
    retry_failed: bool,
) -> None:
    """Prepare every collection that has neither failed nor is held."""
    project, failed = outcome.project, outcome.failed
    for upgrade in upgrades:
        collection = upgrade.collection
        if collection in outcome.withheld:
            continue
        with outcome.of(collection, leases[collection], upgrade.transition):
            run = _prepare(project, upgrade, leases[collection], again, retry_failed)
            project.look(collection)  # nobody may ask again before the lock is given back
            outcome.prepared[collection] = run
        if collection in failed and len(upgrades) > 1:
            project.reporter.note(f"{collection}: {failed[collection]}")


def _prepare(
    project: Project, upgrade: Upgrade, lease: Lease, again: str | None, retry_failed: bool
) -> RunRecord:
    job, transition = project.job(upgrade.collection), upgrade.transition
    if isinstance(transition, Rebinding):
        return rebind(job, lease, transition, again=again)
    recall_target = project.settings.collection(upgrade.collection).recall_target

    def work() -> RunRecord:
        return prepare(
            job,
            lease,
            transition,
            again=again,
            recall_target=recall_target,
            retry_failed=retry_failed,
        )

    return outlasting(job, work)


@contextmanager
def _caught_up(
    upgrades: Sequence[Upgrade], leases: Mapping[str, Lease], outcome: Outcome
) -> Iterator[dict[str, Lease]]:
    """Bring what is prepared to where the live index is, and keep it there until the block ends.

    Nobody else writes to what is live meanwhile, so that at the switch no reader loses sight of a
    change (I1). Yields the followers' leases.
    """
    project, followers = outcome.project, dict[str, Lease]()
    with ExitStack() as stack:
        for upgrade in upgrades:
            collection = upgrade.collection
            if collection not in outcome.prepared or collection in outcome.withheld:
                continue
            with outcome.of(collection, leases[collection], upgrade.transition):
                lease = stack.enter_context(project.following([collection]))[collection]
                with project.catalog.read() as connection:
                    index = indexes.get(connection, outcome.prepared[collection].index_name)
                if index.container == index.name:
                    settle.catch_up(project.job(collection), lease, index.name, anew=False)
                if (dead := _too_many_dead(project, upgrade, index)) is not None:
                    raise dead
                followers[collection] = lease
        yield followers


@contextmanager
def _standing_still(
    upgrades: Sequence[Upgrade],
    followers: Mapping[str, Lease],
    leases: Mapping[str, Lease],
    outcome: Outcome,
) -> Iterator[None]:
    """Hold off the writers of what is to be cut over strictly, until the block ends."""
    project = outcome.project
    with ExitStack() as stack:
        for upgrade in upgrades:
            collection = upgrade.collection
            seconds = project.settings.collection(collection).strict_cut_seconds
            if seconds is None or collection not in followers or collection in outcome.withheld:
                continue
            job, index = project.job(collection), outcome.prepared[collection].index_name
            with outcome.of(collection, leases[collection], upgrade.transition):
                stack.enter_context(strict_cut(job, followers[collection], index, seconds))
        yield


def _too_many_dead(
    project: Project, upgrade: Upgrade, index: IndexRecord
) -> EmbedMigrateError | None:
    """``DeadLetters`` for more documents that cannot be embedded than the script allows."""
    if not isinstance(upgrade.transition, Transition):
        return None
    with project.catalog.read() as connection:
        return refusal(connection, index, upgrade.transition.allow_failed)


def _walk(
    scripts: ScriptDirectory,
    targets: Sequence[str],
    upgrades: Sequence[Upgrade],
    leases: Mapping[str, Lease],
    outcome: Outcome,
) -> list[str]:
    """Let Alembic apply the scripts, except for what needs a collection that is withheld.

    Returns the revisions that were applied.
    """
    project = outcome.project
    changes = {upgrade.collection: upgrade.transition for upgrade in upgrades}
    handler = UpgradeWalk(upgrades, leases, outcome.prepared, project.publish)
    environment = Environment(
        project.settings, project.catalog, handler=handler, on_step=handler.on_step
    )
    for target in _single_targets(scripts, targets):
        steps = pending_upgrades(scripts, project.applied_heads(), [target])
        while goals := reachable(scripts, steps, outcome.withheld):
            try:
                with script_errors():
                    alembic.command.upgrade(environment.config, goals[0])
            except AskedToStop as asked:
                handler.walked.pop()
                with outcome.of(
                    asked.collection, leases[asked.collection], changes[asked.collection]
                ):
                    raise
            steps = [step for step in steps if step.revision not in handler.walked]
    return handler.walked


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


def _describe(upgrade: Upgrade, outcome: Outcome) -> dict[str, Any]:
    collection, revision = upgrade.collection, upgrade.transition.revision
    held, error = outcome.held.get(collection), outcome.failed.get(collection)
    with outcome.project.catalog.read() as connection:
        route = routes.get(connection, collection)
        run = outcome.prepared.get(collection)
        if run is None and held is not None:
            run = runs.latest(connection, collection, revision=revision)
        latest = runs.get(connection, run.id) if run is not None else None
        index = None if latest is None else indexes.get(connection, latest.index_name)
    return {
        "collection": collection,
        "revision": revision,
        "superseded": list(upgrade.superseded),
        "model": upgrade.transition.model.reference,
        "assurance": upgrade.transition.model.pinned_or_witnessed,
        "index": None if index is None else index.name,
        "container": None if index is None else index.container,
        "state": latest.state if latest is not None else "failed" if held is None else "paused",
        "error": None if error is None else error.message,
        "held": held,
        "live": latest is not None and route.live_index == latest.index_name,
        "generation": route.generation,
        "total": 0 if latest is None else latest.total,
        "done": 0 if latest is None else latest.done,
        "skipped": 0 if latest is None else latest.skipped,
        "failed": 0 if latest is None else latest.failed,
        "embedded": 0 if latest is None else latest.embedded,
    }
