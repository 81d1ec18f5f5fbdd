"""Alembic's verbs with Alembic's grammar, on embedmigrate's scripts and version table."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import alembic.command
from alembic.script import Script, ScriptDirectory

from embedmigrate import resolve
from embedmigrate.catalog import Catalog, routes
from embedmigrate.catalog.database import catalog_exists
from embedmigrate.command.project import Project
from embedmigrate.config import Settings
from embedmigrate.errors import EmbedMigrateError, Refused, UsageError
from embedmigrate.migration.environment import (
    MAX_REVISION_ID,
    Environment,
    script_errors,
)
from embedmigrate.migration.plan import spec_after
from embedmigrate.migration.recorder import all_moves, record, refuse_forks
from embedmigrate.migration.rendering import ScriptBody, render, render_rebind
from embedmigrate.migration.walk import OfflineWalk
from embedmigrate.models import IndexSpec


def revision(
    settings: Settings,
    message: str | None = None,
    *,
    collection: str | None = None,
    to: str | None = None,
    rebind: bool | None = None,
    head: str | None = None,
    splice: bool = False,
    branch_label: str | None = None,
    rev_id: str | None = None,
    depends_on: Sequence[str] | None = None,
) -> Path:
    """Write a revision and return its path.

    With ``collection`` it holds the move from what the last revision of that collection made to the
    model ``to`` (default: the one that the collection's configuration names), with every identity
    spelt out. That is a re-embedding, or a rebind where nothing but the query side changes;
    ``rebind`` asks for the one or the other; False also embeds anew with the model that is there
    already. Without ``collection`` it is empty.
    """
    environment = Environment(settings)
    scripts = environment.scripts()
    _check_rev_id(scripts, rev_id)
    attributes: dict[str, Any] = {}
    labels = [branch_label] if branch_label else []
    if collection is None:
        if to is not None or rebind is not None:
            option = "--to" if to is not None else "--rebind"
            raise UsageError(f"{option} needs --collection", next_step="add --collection NAME")
    else:
        refuse_forks(scripts, [collection])
        spec = _wanted_spec(settings, collection, to)
        source = _last_target(settings, scripts, collection)
        if source is not None and source.answers_like(spec) and rebind is not False:
            raise UsageError(
                f"{collection!r} already moves to {spec.model.reference} with this recipe",
                found="the same model, recipe, factory and metric as the last revision",
                expected="a change",
                next_step="change the configuration, pin the model, or give --to MODEL; to embed "
                "the collection anew with the same model, add --no-rebind",
            )
        attributes["embedmigrate_body"] = _body(
            collection, source, spec, rebind=rebind, allow_lag=lags(settings, collection)
        )
        has_branch = any(collection in it.branch_labels for it in scripts.walk_revisions())
        head = head or (f"{collection}@head" if has_branch else "base")
        if not has_branch:
            labels = [collection, *labels]
    environment = Environment(settings, attributes=attributes)
    with script_errors():
        made = alembic.command.revision(
            environment.config,
            message=message,
            head=head or "head",
            splice=splice,
            branch_label=labels or None,
            rev_id=rev_id,
            depends_on=list(depends_on) if depends_on else None,  # type: ignore[arg-type]
        )
    assert isinstance(made, Script)
    return Path(made.path)


def _body(
    collection: str,
    source: IndexSpec | None,
    wanted: IndexSpec,
    *,
    rebind: bool | None,
    allow_lag: bool,
) -> ScriptBody:
    """A rebind where it is asked for, or goes without saying; ``UsageError`` where none can be."""
    leaves = None if source is None else source.model.reference
    if rebind is None:
        rebind = source is not None and source.digest == wanted.digest
    if not rebind:
        return render(collection, leaves, wanted, allow_lag=allow_lag)
    if source is None or leaves is None:
        raise UsageError(
            f"{collection!r} has no vectors yet that could stay",
            expected="a revision that embeds it",
            next_step="leave --rebind out",
        )
    if differences := _of_vectors(source, wanted):
        raise UsageError(
            f"{collection!r} cannot be rebound to {wanted.model.reference}: more changes than the "
            "model",
            found=", ".join(f"{what}: {here}" for what, _, here in differences),
            expected=", ".join(f"{what}: {there}" for what, there, _ in differences),
            next_step="leave --rebind out, which embeds every document",
        )
    return render_rebind(collection, leaves, wanted.model)


def lags(settings: Settings, collection: str) -> bool:
    """Whether nothing tells of every change of the source, or it cannot be asked now."""
    if settings.collection(collection).changes is not None:
        return False
    try:
        with closing(
            settings.open_source(collection, settings.collection(collection).recipe)
        ) as it:
            return it.capture is None or it.capture.token() is None
    except EmbedMigrateError:
        return True


def _of_vectors(source: IndexSpec, wanted: IndexSpec) -> list[tuple[str, object, object]]:
    """What of an index, the model's identity apart, is not the same: (what, there, here)."""
    pairs = [
        ("recipe", source.recipe.model_dump(), wanted.recipe.model_dump()),
        ("factory", source.factory, wanted.factory),
        ("metric", source.metric, wanted.metric),
        ("dimensions", source.model.dimensions, wanted.model.dimensions),
    ]
    return [(what, there, here) for what, there, here in pairs if there != here]


def _check_rev_id(scripts: ScriptDirectory, rev_id: str | None) -> None:
    """``UsageError`` unless an id that was asked for can be a file name and is free."""
    if rev_id is None:
        return
    if not re.fullmatch(rf"\w{{1,{MAX_REVISION_ID}}}", rev_id, re.ASCII):
        raise UsageError(
            f"revision id {rev_id!r} cannot be used",
            found=f"{len(rev_id)} characters",
            expected=f"letters, digits and _, at most {MAX_REVISION_ID}",
            next_step="choose another --rev-id",
        )
    for script in scripts.walk_revisions():
        if script.revision == rev_id:
            raise UsageError(
                f"revision id {rev_id!r} is taken",
                found=script.path,
                expected="an id that no script has",
                next_step="choose another --rev-id",
            )


def _wanted_spec(settings: Settings, collection: str, to: str | None) -> IndexSpec:
    configured = settings.collection(collection)
    store = settings.open_store(collection)
    return IndexSpec(
        model=resolve.pinned(settings, to or configured.model),
        recipe=configured.recipe,
        store_kind=configured.store.kind,
        factory=store.factory,
        metric=configured.store.metric,
    )


def _last_target(settings: Settings, scripts: ScriptDirectory, collection: str) -> IndexSpec | None:
    """What the last revision of a collection makes."""
    steps = all_moves(scripts).get(collection, [])
    moves = [step.move for step in steps if step.move is not None]
    return spec_after(settings, moves) if moves else None


def merge(
    settings: Settings,
    revisions: Sequence[str],
    message: str | None = None,
    *,
    branch_label: str | None = None,
    rev_id: str | None = None,
) -> Path:
    """Join heads of different collections; two re-embeddings of one collection are refused."""
    environment = Environment(settings)
    scripts = environment.scripts()
    refuse_forks(scripts)
    _check_rev_id(scripts, rev_id)
    with script_errors():
        made = alembic.command.merge(
            environment.config,
            list(revisions),
            message=message,
            branch_label=branch_label,
            rev_id=rev_id,
        )
    assert isinstance(made, Script)
    return Path(made.path)


def _printed(
    settings: Settings, verb: Callable[..., Any], *args: Any, online: bool, **kwargs: Any
) -> str:
    """The text that one of Alembic's commands prints."""
    output = io.StringIO()
    project = Project.if_any(settings) if online else None
    if online and project is None:
        Environment(settings).scripts()
        return ""
    try:
        environment = Environment(
            settings, None if project is None else project.catalog, stdout=output
        )
        environment.scripts()
        with script_errors():
            verb(environment.config, *args, **kwargs)
    finally:
        if project is not None:
            project.close()
    return output.getvalue()


def current(settings: Settings, *, verbose: bool = False, check_heads: bool = False) -> str:
    """The applied revisions; with ``check_heads``, ``Refused`` unless they are the heads."""
    if check_heads:
        scripts = Environment(settings).scripts()
        project = Project.if_any(settings)
        applied: tuple[str, ...] = ()
        if project is not None:
            with project:
                applied = project.applied_heads()
        if set(applied) != set(scripts.get_heads()):
            raise Refused(
                "not every head is applied",
                found=", ".join(sorted(applied)) or "nothing",
                expected=", ".join(sorted(scripts.get_heads())) or "nothing",
                next_step="embedmigrate upgrade",
            )
    return _printed(settings, alembic.command.current, verbose=verbose, online=True)


def history(
    settings: Settings,
    rev_range: str | None = None,
    *,
    verbose: bool = False,
    indicate_current: bool = False,
) -> str:
    """The revisions in order, newest first."""
    online = indicate_current or "current" in (rev_range or "")
    if online and not catalog_exists(settings.catalog_url):
        online = indicate_current = False
        rev_range = rev_range and rev_range.replace("current", "base")
    return _printed(
        settings,
        alembic.command.history,
        rev_range,
        verbose=verbose,
        indicate_current=indicate_current,
        online=online,
    )


def heads(settings: Settings, *, verbose: bool = False, resolve_dependencies: bool = False) -> str:
    """The heads of the scripts."""
    return _printed(
        settings,
        alembic.command.heads,
        verbose=verbose,
        resolve_dependencies=resolve_dependencies,
        online=False,
    )


def branches(settings: Settings, *, verbose: bool = False) -> str:
    """The branch points of the scripts."""
    return _printed(settings, alembic.command.branches, verbose=verbose, online=False)


def show(settings: Settings, revisions: str) -> str:
    """One revision in full."""
    return _printed(
        settings, alembic.command.show, revisions, online=revisions in ("current", "currents")
    )


def edit(settings: Settings, revisions: str) -> None:
    """Open a revision in ``$EDITOR``."""
    _printed(settings, alembic.command.edit, revisions, online=revisions == "current")


def ensure_version(settings: Settings) -> None:
    """Make the catalog and its version table unless they exist."""
    with Catalog(settings.catalog_url) as catalog:
        environment = Environment(settings, catalog)
        environment.scripts()
        with script_errors():
            alembic.command.ensure_version(environment.config)


def stamp(settings: Settings, revisions: Sequence[str], *, purge: bool = False) -> None:
    """Write version rows without moving anything; refused where they would contradict the route."""
    with Project(settings, create_catalog=True) as project:
        environment = Environment(settings, project.catalog)
        scripts = environment.scripts()
        heads = project.applied_heads()
        with script_errors():
            steps = scripts._stamp_revs(tuple(revisions), () if purge else heads)
        stamped = set() if purge else set(heads)
        for step in steps:
            stamped = stamped.difference(step.from_).union(step.to_)
        _refuse_contradiction(project, _claims(scripts, heads), _claims(scripts, stamped))
        with script_errors():
            alembic.command.stamp(environment.config, list(revisions), purge=purge)


def _claims(scripts: ScriptDirectory, heads: Collection[str]) -> dict[str, str]:
    """Collection -> fingerprint that must be live if ``heads`` are applied."""
    if not heads:
        return {}
    with script_errors():
        applied = list(scripts.iterate_revisions(tuple(heads), "base", inclusive=True))
    moves = [record(script).move for script in reversed(applied)]
    return {it.collection: it.target.fingerprint for it in moves if it is not None}


def _refuse_contradiction(
    project: Project, before: Mapping[str, str], after: Mapping[str, str]
) -> None:
    with project.catalog.read() as connection:
        for collection in sorted(before.keys() | after.keys()):
            live = routes.live_fingerprint(connection, collection)
            claimed = after.get(collection)
            if claimed not in (live, before.get(collection)):
                raise Refused(
                    f"the version rows would contradict what {collection!r} serves",
                    found=f"live model {live or 'none'}",
                    expected=f"live model {claimed or 'none'}",
                    next_step="embedmigrate upgrade, or embedmigrate downgrade",
                )


def upgrade_sql(settings: Settings, target: str = "heads") -> str:
    """Alembic's offline script of an upgrade, every statement commented out.

    SQL cannot embed, verify or switch, and the version statements alone would make the catalog
    claim what did not happen.
    """
    return _offline(settings, alembic.command.upgrade, target)


def downgrade_sql(settings: Settings, target: str) -> str:
    """The same for a downgrade; Alembic wants a range here, ``from:to``."""
    return _offline(settings, alembic.command.downgrade, target)


def _offline(settings: Settings, verb: Callable[..., Any], target: str) -> str:
    output = io.StringIO()
    environment = Environment(settings, handler=OfflineWalk(), stdout=output)
    refuse_forks(environment.scripts())
    with script_errors():
        verb(environment.config, target, sql=True)
    lines = [
        "-- NOT A MIGRATION. SQL cannot embed, verify or switch an index.",
        "-- What follows shows the steps; every statement is commented out on purpose.",
        "-- Run embedmigrate without --sql.",
        "",
    ]
    lines += [f"-- {line}".rstrip() for line in output.getvalue().splitlines()]
    return "\n".join(lines) + "\n"
