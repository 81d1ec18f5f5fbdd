"""A catalog written anew from what the stores and the scripts say, in one transaction.

What the catalog that is there says of state goes: it is an older copy, or empty. A copy of it is
kept beside it. What stays true whatever was lost stays: models, witnesses, proofs and events. No
number goes back behind it, so that nothing is handed out twice.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from embedmigrate.catalog import events, indexes, locks, postgresql, schema
from embedmigrate.catalog.database import Catalog, actor
from embedmigrate.catalog.records import IndexState, RunState
from embedmigrate.catalog.sqlite import file_of
from embedmigrate.durable import sync_folder
from embedmigrate.errors import LockHeld, Refused
from embedmigrate.models import IndexSpec

REBUILT = "catalog_rebuilt"
"""Event of the catalog, and of each collection in it."""
_STAYS = frozenset({schema.catalog, schema.model, schema.witness, schema.proof, schema.event})


@dataclass(frozen=True)
class Index:
    """A row of ``embedmigrate_index`` to be."""

    name: str
    spec: IndexSpec
    state: IndexState
    container: str
    adopted: bool = False
    revision: str | None = None
    """Of one that is being built: the revision that wants it."""


@dataclass(frozen=True)
class Applied:
    """A row of ``embedmigrate_applied`` to be."""

    revision: str
    down_revision: str | None
    index: str | None
    previous: str | None
    superseded_by: str | None


@dataclass(frozen=True)
class Floor:
    """Numbers that a collection must not fall behind."""

    generation: int = 0
    made: int = 0
    seq: int = 0
    epoch: int = 0
    run: int = 0

    def over(self, other: Floor) -> Floor:
        """The greater of each."""
        mine, theirs = vars(self), vars(other)
        return Floor(**{name: max(mine[name], theirs[name]) for name in mine})


@dataclass(frozen=True)
class Rebuilt:
    """What a collection is to be."""

    name: str
    floor: Floor
    live: str | None
    indexes: tuple[Index, ...]
    applied: tuple[Applied, ...]
    undone: tuple[str, ...] = ()
    """Revisions that were live and that somebody went back from."""


class State(NamedTuple):
    """By which it is noticed that somebody wrote to a catalog meanwhile."""

    catalog_id: str | None = None
    indexes: int = 0
    last_event: int = 0


class Copy:
    """What an older copy of the catalog says, however many of its tables are gone."""

    def __init__(self, connection: Connection, catalog: Catalog) -> None:
        self._connection = connection
        self._there = set(sa.inspect(connection).get_table_names(catalog.schema))

    def state(self) -> State:
        return State(
            self._first(sa.select(schema.catalog.c.catalog_id), schema.catalog),
            self._first(sa.select(sa.func.count()).select_from(schema.index), schema.index) or 0,
            self._first(sa.select(sa.func.max(schema.event.c.id)), schema.event) or 0,
        )

    def is_whole(self, version_table: sa.Table) -> bool:
        """Whether all tables are there, and what is applied has a version row."""
        if not schema.metadata.tables.keys() <= self._there:
            return False
        applied = self._first(sa.select(schema.applied.c.id).limit(1), schema.applied)
        return applied is None or self._first(sa.select(version_table), version_table) is not None

    @property
    def knows_proofs(self) -> bool:
        return schema.proof.name in self._there

    def floor(self, collection: str) -> Floor:
        """The numbers that were given out by then."""
        collections = schema.collection.c
        return Floor(
            generation=self._greatest(
                schema.route.c.generation, schema.route.c.collection == collection
            ),
            made=self._greatest(collections.indexes_made, collections.name == collection),
            seq=self._greatest(collections.journal_head, collections.name == collection),
            epoch=self._greatest(schema.lease.c.epoch, schema.lease.c.collection == collection),
            run=self._greatest(schema.run.c.id, sa.true()),
        )

    def tables(self) -> list[str]:
        """The tables of ours, the version table among them."""
        return sorted(name for name in self._there if name.startswith("embedmigrate_"))

    def _greatest(self, column: sa.Column[Any], of: sa.ColumnElement[bool]) -> int:
        return int(self._first(sa.select(sa.func.max(column)).where(of), column.table) or 0)

    def _first(self, query: sa.Select[Any], table: sa.FromClause) -> Any:
        assert isinstance(table, sa.Table)
        return self._connection.execute(query).scalar() if table.name in self._there else None


def rebuild(
    catalog: Catalog,
    catalog_id: str,
    collections: Sequence[Rebuilt],
    left_alone: Sequence[tuple[str, str]],
    seen: State,
    stamp: Callable[[Connection], None],
) -> str | None:
    """Write the catalog anew; returns where the copy of the old one is, None if it was empty.

    ``left_alone`` are collection and container of what is none of its indexes, ``stamp`` writes the
    version row. ``Refused`` unless the catalog is as it was ``seen``; ``LockHeld`` while somebody
    works with it.
    """
    with catalog.write() as connection:
        schema.metadata.create_all(connection)
        old = Copy(connection, catalog)
        if old.state()[1:] != seen[1:] or seen.catalog_id not in (None, old.state().catalog_id):
            raise Refused(
                f"the catalog at {catalog.place} was written meanwhile",
                found=old.state(),
                expected=seen,
                next_step="embedmigrate doctor",
            )
        for collection in collections:
            _refuse_held(connection, collection.name)
        kept = _keep_copy(catalog, connection, old)
        for table in reversed(schema.metadata.sorted_tables):
            if table not in _STAYS:
                connection.execute(table.delete())
        connection.execute(schema.catalog.update().values(catalog_id=catalog_id))
        run_ids = itertools.count(max((it.floor.run for it in collections), default=0) + 1)
        for collection in collections:
            _write(connection, collection, run_ids)
        if connection.dialect.name == "postgresql":
            postgresql.go_on_after(connection, schema.run, next(run_ids))
        known = indexes.left_alone(connection)
        for name, container in left_alone:
            if container not in known:
                events.record(connection, indexes.LEFT_ALONE, name, {"index": container})
        stamp(connection)
        events.record(connection, REBUILT, None, {"catalog_id": catalog_id, "kept_as": kept})
    return kept


def _refuse_held(connection: Connection, collection: str) -> None:
    for role in locks.Role:
        if (holder := locks.holder(connection, collection, role)) is not None:
            raise LockHeld(
                f"somebody works on {collection!r}",
                found=holder,
                expected="nobody, while the catalog is rebuilt",
                next_step="end that process; then run the same command again",
            )


def _keep_copy(catalog: Catalog, connection: Connection, old: Copy) -> str | None:
    """Copy every table; the name of the copy, None for a catalog that nothing was written to.

    In PostgreSQL it is a schema, made in the same transaction. In SQLite it is a file, with what
    was committed: nothing of this transaction.
    """
    if not any(
        connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first()
        for table in schema.metadata.sorted_tables
        if table is not schema.catalog
    ):
        return None
    if (file := file_of(catalog.engine.url)) is not None:
        copy = file.with_name(f"{file.name}.before-{_now()}")
        with (
            closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
        with copy.open("rb") as written:
            os.fsync(written.fileno())
        sync_folder(copy.parent)
        return str(copy)
    return postgresql.copy_tables(
        connection, old.tables(), f"{catalog.schema}_before_{_now().lower().replace('.', '_')}"
    )


def _now() -> str:
    """As a part of a name that no copy has yet."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")


def set_aside(file: Path) -> str:
    """Rename a file that is no catalog any more, with its log: whoever mends it needs both."""
    aside = file.with_name(f"{file.name}.before-{_now()}")
    for suffix in ("-wal", "-shm", ""):  # a log that is left would be taken for that of the new one
        part = file.with_name(file.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    sync_folder(file.parent)
    return str(aside)


def _write(connection: Connection, collection: Rebuilt, run_ids: Iterator[int]) -> None:
    now, name, floor = time.time(), collection.name, collection.floor
    connection.execute(
        schema.collection.insert().values(
            name=name, journal_head=floor.seq, indexes_made=floor.made, created_at=now
        )
    )
    for index in collection.indexes:
        _write_index(connection, collection, index, now)
        if index.state is IndexState.BUILDING and index.revision is not None:
            _write_run(connection, collection, index, next(run_ids), now)
    connection.execute(
        schema.route.insert().values(
            collection=name,
            live_index=collection.live,
            generation=floor.generation,
            # whoever follows it records the generation in the index, as after a switch
            settled_generation=floor.generation if collection.live is None else 0,
            updated_at=now,
        )
    )
    for applied in collection.applied:
        connection.execute(
            schema.applied.insert().values(
                revision=applied.revision,
                collection=name,
                down_revision=applied.down_revision,
                index_name=applied.index,
                previous_index=applied.previous,
                superseded_by=applied.superseded_by,
                applied_at=now,
            )
        )
    for role in locks.Role:
        connection.execute(
            schema.lease.insert().values(
                collection=name, role=role, epoch=floor.epoch, heartbeat_at=now, lease_seconds=0.0
            )
        )
    for revision in collection.undone:
        reason = "it was live before what is live now, when the catalog was rebuilt"
        data = {"revision": revision, "reason": reason}
        events.record(connection, RunState.ROLLED_BACK, name, data)
    facts = {"live": collection.live, "generation": floor.generation}
    events.record(connection, REBUILT, name, facts)


def _write_index(connection: Connection, collection: Rebuilt, index: Index, now: float) -> None:
    spec = index.spec
    was_live = index.state in (IndexState.RETAINED, IndexState.DROPPED, IndexState.ADOPTED)
    indexes.remember_model(connection, spec.model)
    connection.execute(
        schema.index.insert().values(
            name=index.name,
            collection=collection.name,
            spec_digest=spec.digest,
            spec=spec.model_dump(mode="json"),
            fingerprint=spec.model.fingerprint,
            query_side=spec.model.query_side,
            state=index.state,
            position=collection.floor.seq,
            created_at=now,
            retained_at=None if index.name == collection.live or not was_live else now,
            dropped_at=now if index.state is IndexState.DROPPED else None,
            container=index.container,
            adopted={"rebuilt": now, "actor": actor()} if index.adopted else sa.null(),
        )
    )


def _write_run(
    connection: Connection, collection: Rebuilt, index: Index, run_id: int, now: float
) -> None:
    """What an upgrade takes up again, under a number that no run had whose stamps are in a store:
    should it have to take its vectors back, it takes none of that run's."""
    connection.execute(
        schema.run.insert().values(
            id=run_id,
            collection=collection.name,
            revision=index.revision,
            index_name=index.name,
            state=RunState.FAILED,
            epoch=collection.floor.epoch,
            total=0,
            done=0,
            skipped=0,
            failed=0,
            embedded=0,
            started_at=now,
            actor=actor(),
            reason="the catalog was lost",
        )
    )
