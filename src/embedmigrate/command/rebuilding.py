"""``doctor --rebuild-catalog``: a catalog that was lost, from what stores and scripts still say."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import DBAPIError

from embedmigrate.catalog import Catalog, rebuilding, spaces
from embedmigrate.catalog.database import catalog_exists
from embedmigrate.catalog.rebuilding import Floor, Rebuilt, State
from embedmigrate.catalog.records import IndexState
from embedmigrate.catalog.sqlite import file_of
from embedmigrate.command.project import Project, version_table
from embedmigrate.config import Settings
from embedmigrate.engine.belonging import looked_at
from embedmigrate.errors import ConfigError, UnknownCatalog, UsageError
from embedmigrate.migration.environment import VERSION_TABLE, Environment, script_errors
from embedmigrate.migration.moves import moves_of
from embedmigrate.migration.recognising import Container, Recognition, over_floor
from embedmigrate.migration.recorder import refuse_forks
from embedmigrate.stores.base import IndexManifest, Store
from embedmigrate.stores.recovering import Marks, RecoverableStore

LOST = ("runs", "journal", "intake", "dead letters", "evidence", "requests")
"""What nothing but the catalog knew."""
_NOTHING: dict[str, Any] = {
    "schema": 1,
    "needed": False,
    "done": False,
    "catalog_id": None,
    "kept": None,
    "lost": [],
    "collections": [],
    "left_alone": [],
}
_STAMP = re.compile(r"(\d+)\.(\d+)")


def rebuild_catalog(
    settings: Settings,
    *,
    yes: bool = False,
    applied: Sequence[str] = (),
    catalog_id: str | None = None,
) -> dict[str, Any]:
    """What the catalog would be if it was made from the stores and scripts; with ``yes``, make it.

    The catalog that is there is kept as a copy. Nothing is dropped, and an index that no script
    wants is left alone. ``applied`` are the last revisions that were applied, for what indexes and
    scripts leave open, and ``catalog_id`` is the catalog to be, where indexes name several.
    ``UnknownCatalog`` where something is open, ``NotProven`` for a rebinding whose proof is lost,
    ``LockHeld`` while somebody works. Does nothing where the catalog knows all of its indexes.
    """
    scripts = Environment(settings).scripts()
    refuse_forks(scripts)
    with ExitStack() as stack:
        loss = _Loss(settings, scripts, stack)
        if loss.is_none:
            return dict(_NOTHING)
        plan = loss.plan(applied, catalog_id)
        if not yes:
            return _described(plan, done=False, kept=None)
        plan, kept = loss.make(plan)
    # what readers in SQL use is made anew, too
    with Project(settings, create_catalog=True) as project, project.catalog.write() as connection:
        for collection in plan.collections:
            project.publish(connection, collection.name)
    return _described(plan, done=True, kept=kept)


@dataclass(frozen=True)
class _Plan:
    catalog_id: str
    collections: tuple[Rebuilt, ...]
    left_alone: tuple[tuple[str, str, str], ...]
    """Collection, container, and why."""
    revisions: tuple[str, ...]
    """What the version table is to say, with ancestors among them."""


class _Loss:
    """Looks at what is left. ``make`` alone writes."""

    def __init__(self, settings: Settings, scripts: ScriptDirectory, stack: ExitStack) -> None:
        self._settings, self._scripts = settings, scripts
        self._stores = {name: settings.open_store(name) for name in sorted(settings.collections)}
        self._catalog, self._unusable = self._opened()
        if self._catalog is not None:
            stack.enter_context(self._catalog)
        self._listed = {name: list(store.manifests()) for name, store in self._stores.items()}
        self._moves = moves_of(settings, scripts)

    def _opened(self) -> tuple[Catalog | None, bool]:
        """The older catalog, and whether what lies in its place is no database at all."""
        try:
            if not catalog_exists(self._settings.catalog_url):
                return None, False
            return Catalog(self._settings.catalog_url, create=False), False
        except UnknownCatalog as error:
            if not isinstance(error.__cause__, DBAPIError):  # a newer program made it
                raise
            return None, True

    # -- is something lost? -------------------------------------------------------------------

    @property
    def is_none(self) -> bool:
        """Whether the catalog knows every index that is there, and has its version rows."""
        if self._catalog is None or not self._is_whole(self._catalog):
            return False
        with self._catalog.read() as connection:
            copy = rebuilding.Copy(connection, self._catalog)
            generations = {name: copy.floor(name).generation for name in self._stores}
        looked = looked_at(self._catalog, self._manifests(), generations)
        return all(refusal is None for _, refusal in looked)

    def _is_whole(self, catalog: Catalog) -> bool:
        with catalog.read() as connection:
            return rebuilding.Copy(connection, catalog).is_whole(version_table)

    # -- what is to be ------------------------------------------------------------------------

    def plan(self, applied: Sequence[str], catalog_id: str | None) -> _Plan:
        """``UnknownCatalog`` where that is open."""
        chosen = self._catalog_id(catalog_id)
        told, named = self._told(applied)
        collections: list[Rebuilt] = []
        alone: list[tuple[str, str, str]] = []
        for name, store in self._stores.items():
            own = [it for it in self._listed[name] if it.collection == name]
            ours = [it for it in own if it.catalog_id == chosen]
            alone += [
                (name, it.index, f"of catalog {it.catalog_id}") for it in own if it not in ours
            ]
            marks = {it.index: _marks(name, store, it.index) for it in ours}
            recognition = Recognition(
                name,
                self._moves.get(name, ()),
                [Container(it, marks[it.index].adopted) for it in ours],
                told.get(name),
                self._equal(name),
            )
            alone += [(name, it.name, "no script wants it") for it in recognition.strange]
            rebuilt = recognition.recognise()
            if rebuilt.indexes:
                collections.append(over_floor(rebuilt, self._floor(name, marks.values())))
        alone += [
            (it.collection, it.index, "it is not in the store of its collection")
            for it in self._manifests()
            if it not in self._listed.get(it.collection, ())
        ]
        if not collections:
            raise UnknownCatalog(
                "there is nothing to rebuild a catalog from",
                found=f"{len(list(self._manifests()))} indexes, and scripts of "
                f"{', '.join(self._moves) or 'no collection'}, that do not belong together",
                expected="an index that a script wants",
                next_step="restore the scripts from version control, or the stores from a backup",
            )
        revisions = [it.applied[-1].revision for it in collections if it.applied]
        self._refuse_misfit(collections, revisions)
        return _Plan(chosen, tuple(collections), tuple(alone), (*revisions, *named))

    def _catalog_id(self, asked: str | None) -> str:
        named = sorted({it.catalog_id for it in self._manifests()})
        if asked is not None and asked not in named:
            raise UsageError(
                f"no index names the catalog {asked}",
                found=", ".join(named) or "no index at all",
                next_step="name one of them",
            )
        if asked is None and len(named) != 1:
            raise UnknownCatalog(
                "the indexes do not name one catalog",
                found=", ".join(named) or "no index at all",
                expected="indexes of one catalog",
                next_step="embedmigrate doctor --rebuild-catalog --catalog-id ID leaves those of "
                "the others alone"
                if named
                else "embedmigrate upgrade makes the first index, and the catalog",
            )
        return asked or named[0]

    def _told(self, applied: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        """The last revision by collection that a person says was applied, and all as they stand."""
        named: list[str] = []
        for target in applied:
            with script_errors():
                named += [it.revision for it in self._scripts.get_revisions(target) if it]
        below = self._ancestors(named)
        told = {}
        for collection, moves in self._moves.items():
            if within := [move.revision for move in moves if move.revision in below]:
                told[collection] = within[-1]
        return told, named

    def _ancestors(self, revisions: Sequence[str]) -> set[str]:
        with script_errors():
            return {
                script.revision
                for revision in revisions
                for script in self._scripts.iterate_revisions(revision, "base", inclusive=True)
            }

    def _refuse_misfit(self, collections: Sequence[Rebuilt], revisions: Sequence[str]) -> None:
        """``UnknownCatalog`` when what is live of one collection needs more of another."""
        below = self._ancestors(revisions)
        for collection in collections:
            have = {it.revision for it in collection.applied}
            needed = [it.revision for it in self._moves[collection.name] if it.revision in below]
            if missing := [it for it in needed if it not in have]:
                raise UnknownCatalog(
                    f"what is live of {collection.name!r} does not fit what is live of the others",
                    found=f"revision {missing[-1]} of {collection.name!r} below "
                    f"{', '.join(revisions)}, and no index that it made live last",
                    expected="one history of all",
                    next_step="embedmigrate doctor --rebuild-catalog --applied REVISION, with the "
                    "last ones that were applied",
                )

    def _equal(self, collection: str) -> dict[str, frozenset[str]]:
        """What the older catalog still knows of equal spaces."""
        if self._catalog is None:
            return {}
        fingerprints = {move.spec.model.fingerprint for move in self._moves.get(collection, ())}
        with self._catalog.read() as connection:
            if not rebuilding.Copy(connection, self._catalog).knows_proofs:
                return {}
            return {it: spaces.equal_to(connection, it) for it in fingerprints}

    def _floor(self, collection: str, marks: Iterable[Marks]) -> Floor:
        floor = Floor()
        for it in marks:
            floor = floor.over(Floor(seq=it.seq, epoch=it.epoch))
        if self._catalog is not None:
            with self._catalog.read() as connection:
                floor = floor.over(rebuilding.Copy(connection, self._catalog).floor(collection))
        return floor

    def _manifests(self) -> Iterator[IndexManifest]:
        """Every index that is there, once."""
        return iter({it.index: it for listed in self._listed.values() for it in listed}.values())

    # -- making it ----------------------------------------------------------------------------

    def make(self, plan: _Plan) -> tuple[_Plan, str | None]:
        """Write the catalog; returns what it says, and where the copy of the older one is."""
        plan = replace(plan, collections=tuple(map(self._fenced, plan.collections)))
        seen, kept = State(), None
        if self._catalog is not None:
            with self._catalog.read() as connection:
                seen = rebuilding.Copy(connection, self._catalog).state()
        elif self._unusable:
            file = file_of(make_url(self._settings.catalog_url))
            assert file is not None
            kept = rebuilding.set_aside(file)
        with Catalog(self._settings.catalog_url) as catalog:
            copy = rebuilding.rebuild(
                catalog,
                plan.catalog_id,
                plan.collections,
                [(collection, index) for collection, index, _ in plan.left_alone],
                seen,
                self._stamp(catalog, plan.revisions),
            )
        return plan, copy or kept

    def _fenced(self, collection: Rebuilt) -> Rebuilt:
        """Take the indexes over from whoever may still write to them, then read what they reached.

        Of an index that never was live, built with a server's model, the last window of each run
        goes: nobody will close it with a witness any more (I18).
        """
        store = self._stores[collection.name]
        floor = replace(collection.floor, epoch=collection.floor.epoch + 1)
        for index in collection.indexes:
            if index.name != index.container or index.adopted or index.state is IndexState.DROPPED:
                continue
            with (
                closing(store.writer(index.container, epoch=floor.epoch, run="rebuild")) as writer,
                closing(store.reader(index.container)) as reader,
            ):
                windows: dict[int, int] = {}
                for stamp in reader.stamps() if index.state is IndexState.BUILDING else ():
                    if match := _STAMP.fullmatch(stamp.run):
                        run, window = int(match[1]), int(match[2])
                        windows[run] = max(window, windows.get(run, window))
                if not index.spec.model.artifacts:
                    for run, window in windows.items():
                        writer.discard(f"{run}.{window}")
            reached = _marks(collection.name, store, index.container).seq
            floor = floor.over(Floor(seq=reached, run=max(windows, default=0)))
        return replace(collection, floor=floor)

    def _stamp(self, catalog: Catalog, revisions: Sequence[str]) -> Callable[[Connection], None]:
        def stamp(connection: Connection) -> None:
            version_table.create(connection, checkfirst=True)
            connection.execute(version_table.delete())
            opts = {"version_table": VERSION_TABLE, "version_table_schema": catalog.schema}
            if heads := self._heads(revisions):
                with script_errors():
                    context = MigrationContext.configure(connection, opts=opts)
                    context.stamp(self._scripts, heads)  # type: ignore[arg-type]

        return stamp

    def _heads(self, revisions: Sequence[str]) -> tuple[str, ...]:
        below = {it: self._ancestors([it]) - {it} for it in revisions}
        return tuple(
            dict.fromkeys(
                it for it in revisions if not any(it in other for other in below.values())
            )
        )


def _marks(collection: str, store: Store, index: str) -> Marks:
    if not isinstance(store, RecoverableStore):
        raise ConfigError(
            f"the store of {collection!r} does not tell what a new catalog must not fall behind",
            found=type(store).__name__,
            expected="a store with `marks`",
            next_step="restore the catalog from a backup",
        )
    return store.marks(index)


def _described(plan: _Plan, *, done: bool, kept: str | None) -> dict[str, Any]:
    return {
        "schema": 1,
        "needed": True,
        "done": done,
        "catalog_id": plan.catalog_id,
        "kept": kept,
        "lost": list(LOST),
        "collections": [_entry(collection) for collection in plan.collections],
        "left_alone": [
            {"collection": collection, "index": index, "why": why}
            for collection, index, why in plan.left_alone
        ],
    }


def _entry(collection: Rebuilt) -> dict[str, Any]:
    return {
        "collection": collection.name,
        "live": collection.live,
        "revision": collection.applied[-1].revision if collection.applied else None,
        "generation": collection.floor.generation,
        "journal_head": collection.floor.seq,
        "applied": [it.revision for it in collection.applied],
        "undone": list(collection.undone),
        "indexes": [
            {
                "index": it.name,
                "container": it.container,
                "state": it.state,
                "model": it.spec.model.reference,
            }
            for it in collection.indexes
        ],
    }
