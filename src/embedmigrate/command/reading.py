"""Commands that only look: plan, status, verify, search."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from sqlalchemy.engine import Connection

from embedmigrate.catalog import indexes, locks, requests, routes, runs
from embedmigrate.catalog.dead_letters import states as letters_of
from embedmigrate.catalog.records import STICKY, UNDER_WAY, IndexRecord, IndexState, RunState
from embedmigrate.collection import Collection
from embedmigrate.command.project import Project, branch_targets
from embedmigrate.command.syncing import lag_of
from embedmigrate.config import Settings
from embedmigrate.engine import dead_letters, intake
from embedmigrate.engine.diff import Diff
from embedmigrate.engine.job import Reporter
from embedmigrate.engine.rebind import Rebinding
from embedmigrate.engine.verify import Finding
from embedmigrate.engine.verify import verify as verify_index
from embedmigrate.errors import EmbedMigrateError, IndexGone, UsageError
from embedmigrate.migration.environment import Environment
from embedmigrate.migration.plan import Upgrade, plan_upgrade
from embedmigrate.migration.recorder import pending_upgrades, refuse_forks
from embedmigrate.stores.base import Filter

_FLOAT_BYTES = 4


def plan(settings: Settings, targets: Sequence[str] = ("heads",)) -> dict[str, Any]:
    """What ``upgrade`` would do: for each collection that moves, from where to where and how much.

    Reads the source to count its documents; changes nothing.
    """
    scripts = Environment(settings).scripts()
    refuse_forks(scripts)
    targets = branch_targets(settings, targets)
    project = Project.if_any(settings)
    heads: tuple[str, ...] = ()
    if project is not None:
        with project:
            heads = project.applied_heads()
    upgrades = plan_upgrade(settings, pending_upgrades(scripts, heads, targets))
    return {"schema": 1, "collections": [_planned(settings, upgrade) for upgrade in upgrades]}


def _planned(settings: Settings, upgrade: Upgrade) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "collection": upgrade.collection,
        "revision": upgrade.transition.revision,
        "superseded": list(upgrade.superseded),
        "source": upgrade.source_reference,
        "target": upgrade.transition.model.reference,
        "assurance": upgrade.transition.model.pinned_or_witnessed,
        "rebind": isinstance(upgrade.transition, Rebinding),
        "query_prompt": upgrade.transition.model.query_prompt,
        "changes": changes_of(settings, upgrade.collection),
        "factory": None,
        "chunker": None,
        "documents": 0,
        "vector_bytes": 0,
    }
    if not isinstance(upgrade.transition, Rebinding):
        spec = upgrade.transition.spec
        with closing(settings.open_source(upgrade.collection, spec.recipe)) as source:
            documents = source.prepare()
        entry |= {
            "factory": spec.factory,
            "documents": documents,
            "chunker": None if spec.recipe.chunker is None else spec.recipe.chunker.model_dump(),
            # how many chunks there are is known when every text was read
            "vector_bytes": None
            if spec.recipe.chunker
            else documents * spec.model.dimensions * _FLOAT_BYTES,
        }
    return entry


def changes_of(settings: Settings, collection: str) -> str | None:
    """How changes of the source are learned of; None when it cannot be asked now."""
    configured = settings.collection(collection)
    try:
        with closing(settings.open_source(collection, configured.recipe)) as source:
            return intake.means_of(source, told=configured.changes is not None)
    except EmbedMigrateError:
        return None


def status(settings: Settings) -> dict[str, Any]:
    """Every collection: what is live, what is being built, what is retained, which revision."""
    project = Project.if_any(settings)
    if project is None:
        empty = [_nothing(name) for name in sorted(settings.collections)]
        return {"schema": 1, "collections": empty}
    with project:
        with project.catalog.read() as connection:
            entries = [_status_of(connection, name) for name in sorted(settings.collections)]
        for entry in entries:  # behind the transaction: an index may take seconds to open
            if live := entry["live"]:
                live["documents"] = _documents(project, entry["collection"], live["container"])
                live["lag"] = lag_of(project.job(entry["collection"]))
                live["changes"] = changes_of(settings, entry["collection"])
    return {"schema": 1, "collections": entries}


def _nothing(collection: str) -> dict[str, Any]:
    return {
        "collection": collection,
        "live": None,
        "shadow": None,
        "retained": [],
        "dead_letters": [],
        "revision": None,
        "runner": None,
        "follower": None,
        "request": None,
        "waiting": None,
    }


def _status_of(connection: Connection, collection: str) -> dict[str, Any]:
    route = routes.get(connection, collection)
    applied = routes.applied_of(connection, collection)
    entry = _nothing(collection)
    entry["revision"] = applied[0].revision if applied else None
    entry["runner"] = locks.holder(connection, collection)
    entry["follower"] = locks.holder(connection, collection, locks.Role.FOLLOWER)
    if (request := requests.get(connection, collection)) is not None:
        entry["request"] = described_request(request)
    last = runs.latest(connection, collection)
    if last is not None and entry["runner"] is not None:  # a runner that was killed said nothing
        entry["waiting"] = last.waiting
    if route.live_index is not None:
        live = indexes.get(connection, route.live_index)
        entry["live"] = {
            **_described(live),
            "generation": route.generation,
            "documents": None,
            "lag": None,
            "changes": None,
            "compared_at": live.compared_at,
        }
    for index in indexes.of_collection(connection, collection):
        letters = dead_letters.described(connection, index)
        if letters["count"]:
            entry["dead_letters"].append(letters)
        if index.name == route.live_index:
            continue
        described = _described(index)
        run = runs.latest(connection, collection, index=index.name)
        rebuilt = run is not None and run.state in UNDER_WAY | {RunState.PAUSED}
        kept = index.state in (IndexState.RETAINED, IndexState.ADOPTED)
        if kept and not rebuilt:
            undone = run is not None and run.state in STICKY
            entry["retained"].append(
                {
                    **described,
                    "retained_at": index.retained_at,
                    "state": run.state if run is not None and undone else None,
                    "revision": run.revision if run is not None and undone else None,
                    "reason": run.reason if run is not None and undone else None,
                }
            )
        elif run is not None:
            entry["shadow"] = {
                **described,
                "state": run.state,
                "revision": run.revision,
                "done": run.done,
                "skipped": run.skipped,
                "failed": run.failed,
                "total": run.total,
                "embedded": run.embedded,
                "reason": run.reason,
            }
    return entry


def described_request(request: requests.Request) -> dict[str, Any]:
    """What a person asks, for a document."""
    return {
        "wanted": request.wanted,
        "by": request.actor,
        "at": request.at,
        "reason": request.reason,
    }


def _described(index: IndexRecord) -> dict[str, Any]:
    return {
        "index": index.name,
        "container": index.container,
        "fingerprint": index.fingerprint,
        "model": index.model.name,
        "assurance": index.model.pinned_or_witnessed,
        "provenance": "adopted" if index.adopted else "built",
    }


def _documents(project: Project, collection: str, container: str) -> int | None:
    """How many documents the store holds; None when it cannot be opened."""
    try:
        with closing(project.job(collection).store.reader(container)) as reader:
            return reader.statistics().documents
    except EmbedMigrateError:
        return None


def verify(
    settings: Settings,
    collection: str | None = None,
    *,
    index: str | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Invariants 1 to 7 of the live index (or of ``index``), measured now; nothing is changed.

    The result's ``holds`` says whether all of them hold.
    """
    if index is not None and collection is None:
        raise UsageError("--index needs the collection", next_step="embedmigrate verify COLLECTION")
    names = [collection] if collection is not None else sorted(settings.collections)
    entries = []
    with Project(settings, reporter=reporter) as project:
        for name in names:
            settings.collection(name)
            try:
                chosen = project.index_of(name, index)
            except IndexGone:
                if collection is None:
                    continue
                raise
            findings = _findings(project, name, chosen)
            entries.append(
                {
                    "collection": name,
                    "index": chosen.name,
                    "holds": all(finding.holds for finding in findings),
                    "failed": findings[0].measured["failed"],
                    "invariants": [vars(finding) for finding in findings],
                }
            )
    return {
        "schema": 1,
        "holds": all(entry["holds"] for entry in entries),
        "collections": entries,
    }


def _findings(project: Project, collection: str, index: IndexRecord) -> list[Finding]:
    job = project.job(collection)
    with (
        closing(job.open_source(index.spec.recipe)) as source,
        closing(job.reader(index)) as reader,
    ):
        job.reporter.phase(collection, "verifying")
        source.prepare()
        dead = letters_of(job.catalog, index.container)
        diff = Diff(source, reader, job.work_dir, dead)
        for _ in diff:
            pass
        return verify_index(
            index.spec,
            reader,
            source,
            job.embedder(index.model),
            diff.comparison,
            spaces=job.spaces(index),
            recall_target=project.settings.collection(collection).recall_target,
        )


def search(
    settings: Settings,
    collection: str,
    text: str,
    k: int = 10,
    filter: Filter | None = None,
) -> dict[str, Any]:
    """Search as an application would."""
    with Collection.open(collection, settings) as opened:
        result = opened.search(text, k, filter)
    return {
        "schema": 1,
        "collection": collection,
        "generation": result.generation,
        "model": result.model,
        "fingerprint": result.fingerprint,
        "index": result.index,
        "hits": [
            {"id": hit.id, "chunk": hit.chunk, "score": hit.score, "metadata": hit.metadata}
            for hit in result.hits
        ],
    }
