"""What commands tell hooks: that something failed, that a cut-over is about to be, or was.

Hooks run behind the transactions that they hear of: one that was killed in between, a command has
told them of at most once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from embedmigrate.catalog import routes, runs
from embedmigrate.catalog.records import Route, RunRecord
from embedmigrate.command.project import Project, tell_drift
from embedmigrate.engine.occasion import of_error, of_run, of_switch
from embedmigrate.errors import Drifted, EmbedMigrateError, LockHeld, Stopped, Vetoed
from embedmigrate.migration.plan import Downgrade


@contextmanager
def failures_told(project: Project, collection: str | None = None) -> Iterator[None]:
    """Tell what ends the block early."""
    try:
        yield
    except Exception as error:
        tell_failure(project, collection, error)
        raise


def tell_failure(project: Project, collection: str | None, error: Exception) -> None:
    """``on_failure``, and ``on_drift`` before it where that is what failed.

    An error that passes through several blocks is told by the innermost. A stop is no failure, and
    neither is another runner.
    """
    if getattr(error, "told", False) or isinstance(error, Stopped | LockHeld):
        return
    error.told = True  # type: ignore[attr-defined]
    run = None if collection is None else _last_run(project, collection)
    drift = next((it for it in (error, error.__cause__) if isinstance(it, Drifted)), None)
    if drift is not None:
        tell_drift(project.hooks, collection, drift, run)
    project.hooks.tell(of_error("on_failure", collection, error, run))


def _last_run(project: Project, collection: str) -> RunRecord | None:
    with suppress(EmbedMigrateError), project.catalog.read() as connection:
        return runs.latest(connection, collection)
    return None


def ask_before_cutover(
    project: Project, about_to_switch: Mapping[str, RunRecord], failed: dict[str, EmbedMigrateError]
) -> None:
    """``before_cutover`` of every collection that is about to be switched, with its ready run.

    One that is vetoed is added to ``failed``: its run stays ready, and the others go on.
    """
    for collection, run in about_to_switch.items():
        project.stop.check()
        try:
            project.hooks.tell(of_run(project.catalog, "before_cutover", run))
        except Vetoed as veto:
            failed[collection] = veto
            tell_failure(project, collection, veto)


@contextmanager
def cutovers_told(project: Project, about_to_switch: Mapping[str, RunRecord]) -> Iterator[None]:
    """``after_cutover`` of every collection that the block switched, also when it failed later."""
    about = {
        name: of_run(project.catalog, "after_cutover", run) for name, run in about_to_switch.items()
    }
    try:
        yield
    finally:
        for collection, run in about_to_switch.items():
            with project.catalog.read() as connection:
                applied = routes.applied_of(connection, collection)
                generation = routes.get(connection, collection).generation
            if applied and applied[0].run_id == run.id:
                project.hooks.tell(replace(about[collection], generation=generation))


@contextmanager
def rollbacks_told(
    project: Project, plans: Sequence[Downgrade], reason: str | None
) -> Iterator[None]:
    """``on_rollback`` of every collection that the block switched back."""
    before = {plan.collection: _route(project, plan.collection) for plan in plans}
    try:
        yield
    finally:
        for plan in plans:
            then = before[plan.collection]
            if _route(project, plan.collection).generation != then.generation:
                project.hooks.tell(
                    of_switch(
                        project.catalog,
                        "on_rollback",
                        plan.collection,
                        revision=plan.undone[0].revision,
                        before=then.live_index,
                        reason=reason,
                    )
                )


def _route(project: Project, collection: str) -> Route:
    with project.catalog.read() as connection:
        return routes.get(connection, collection)
