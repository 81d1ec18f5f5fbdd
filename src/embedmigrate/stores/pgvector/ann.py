"""The ANN index: built once after the load, and kept up to date by the server from then on.

It is one transaction, so that a build that is killed leaves nothing. Writing waits for it; reading
does not. HNSW is never built again. The lists of IVFFlat were cut for the rows that there were: it
is built anew once there are more than twice as many.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from embedmigrate import logs
from embedmigrate.stores.base import BuildProgress, IndexManifest
from embedmigrate.stores.pgvector.connections import Connection, Database, settings
from embedmigrate.stores.pgvector.factory import MAX_VECTOR, Factory, operator_class
from embedmigrate.stores.pgvector.layout import Found

GROWTH = 2
"""An IVFFlat index is built anew with more than so many times the rows that it was built of."""
_POLL_SECONDS = 1.0
_BRIEFLY = 500
"""Milliseconds."""
_NO_MEMORY = frozenset({"53100", "53200"})
"""No space for shared memory, out of memory."""
_log = logging.getLogger(__name__)

_ANN_INDEXES = """
SELECT c.relname, i.indisvalid FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indexrelid
JOIN pg_am AS a ON a.oid = c.relam
WHERE i.indrelid = {table_text}::regclass AND a.amname IN ('hnsw', 'ivfflat')
ORDER BY c.oid
"""
_ANN_ROWS = "SELECT ann_rows, (SELECT count(*) FROM {table}) FROM {indexes} WHERE index = {index}"
_MEMORY = """
SELECT pg_size_bytes(current_setting('maintenance_work_mem')) / 1024,
       pg_size_bytes(current_setting('shared_buffers')) / 1024
"""
_CREATE = "CREATE INDEX ON {table} USING {method} ({column} {operators}) {options}"
_RECORD = "UPDATE {indexes} SET ann_rows = {rows} WHERE index = {index}"
_LASTING = {"statement_timeout": 0}
_NOTICE_DEATH = """
SELECT set_config('client_connection_check_interval', '5s', true) WHERE version() LIKE '%linux%'
"""
"""So that the server stops building for a process that was killed; it cannot tell everywhere."""
_DROP = "DROP INDEX IF EXISTS {ann}"
_PROGRESS = """
SELECT phase, GREATEST(blocks_done, 0), GREATEST(blocks_total, 0)
FROM pg_stat_progress_create_index WHERE pid = %s
"""


@dataclass(frozen=True)
class BuildOptions:
    """What the configuration says of building; None leaves it to the server."""

    maintenance_work_mem: str | None = None
    workers: int | None = None


def build(
    connection: Connection,
    found: Found,
    factory: Factory,
    options: BuildOptions,
    check_owner: Callable[[Connection], None],
    tell: Callable[[BuildProgress], None] | None = None,
) -> None:
    """Build the ANN index, unless there is one that is good enough or there is nothing to index.

    ``check_owner`` raises in the transaction that builds, before it commits, when another writer
    took over. Raises errors of the driver.
    """
    layout = found.layout
    with connection.transaction():
        connection.execute(settings(found.settings(**_LASTING)))
        there = ann_indexes(connection, found)
        recorded, rows = connection.execute(layout.statement(_ANN_ROWS)).fetchone() or (0, 0)
    if factory.kind == "none" or rows == 0:
        return
    valid = [name for name, is_valid in there if is_valid]
    if valid and not (factory.kind == "ivfflat" and recorded and rows > GROWTH * recorded):
        _drop(connection, found, [name for name, _ in there if name != valid[-1]])
        if not recorded:  # somebody made it by hand
            _try(connection, found, layout.statement(_RECORD, rows=sql.Literal(rows)))
        return

    def create(resources: Mapping[str, object]) -> None:
        with _progress(layout.database, connection, tell):
            _create(connection, found, factory, rows, resources, check_owner)

    resources = _resources(connection, options, memory_needed(found.manifest, factory, rows))
    try:
        create(resources)
    except psycopg.Error as error:
        if error.sqlstate not in _NO_MEMORY:
            raise
        # Workers share memory of a kind that containers have little of. One process needs none.
        create(resources | {"max_parallel_maintenance_workers": 0})
    _drop(connection, found, [name for name, _ in there])
    _try(connection, found, layout.statement("ANALYZE {table}"))


def ann_indexes(connection: Connection, found: Found) -> list[tuple[str, bool]]:
    """Name and validity of the ANN indexes on the table, the newest last."""
    name = sql.Literal(found.layout.table.as_string(connection))
    return connection.execute(found.layout.statement(_ANN_INDEXES, table_text=name)).fetchall()


def memory_needed(manifest: IndexManifest, factory: Factory, rows: int) -> int:
    """About how many kilobytes of ``maintenance_work_mem`` the build can use.

    HNSW: the vectors, as the index has them, and for each about 1.1 lists of 2 m neighbours of 16
    bytes. IVFFlat: the sample that the lists are found with, at most 50 vectors a list.
    """
    size = manifest.dimensions * (2 if manifest.dimensions > MAX_VECTOR else 4)
    if factory.kind == "ivfflat":
        return min(rows, 50 * factory.lists_for(rows)) * (size + 16) // 1024
    return rows * (size + 160 + 35 * factory.m) // 1024


def _resources(connection: Connection, options: BuildOptions, needed: int) -> dict[str, object]:
    """Memory and workers for the transaction that builds.

    Without a configured amount: the server's, or half of its ``shared_buffers`` where that is more
    and can be used. Nobody here knows how much memory the server's machine has left; who gave
    ``shared_buffers`` to it did.
    """
    resources: dict[str, object] = {}
    if options.workers is not None:
        resources["max_parallel_maintenance_workers"] = options.workers
    if options.maintenance_work_mem is not None:
        resources["maintenance_work_mem"] = options.maintenance_work_mem
        return resources
    given, buffers = connection.execute(_MEMORY).fetchone() or (0, 0)
    granted = max(given, min(needed, buffers // 2))
    if granted > given:
        resources["maintenance_work_mem"] = granted
    if granted < needed:
        logs.say(
            _log,
            logging.WARNING,
            "build-memory",
            f"the ANN index is built with {granted // 1024} MB, and would be built faster with"
            f" {needed // 1024 + 1} MB: maintenance_work_mem of the store in the configuration",
            {"granted_kb": granted, "needed_kb": needed},
        )
    return resources


def _create(
    connection: Connection,
    found: Found,
    factory: Factory,
    rows: int,
    resources: Mapping[str, object],
    check_owner: Callable[[Connection], None],
) -> None:
    dimensions = found.manifest.dimensions
    column = sql.SQL("embedding")
    if dimensions > MAX_VECTOR:
        column = sql.SQL("(embedding::halfvec({}))").format(sql.Literal(dimensions))  # type: ignore[assignment]
    storage = (
        {"lists": factory.lists_for(rows)}
        if factory.kind == "ivfflat"
        else {"m": factory.m, "ef_construction": factory.ef_construction}
    )
    options = sql.SQL("WITH ({})").format(
        sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(value))
            for name, value in storage.items()
        )
    )
    create = found.layout.statement(
        _CREATE,
        method=sql.Identifier(factory.kind),
        column=column,
        operators=sql.Identifier(operator_class(found.manifest.metric, dimensions)),
        options=options,
    )
    with connection.transaction():
        connection.execute(settings(found.settings(**_LASTING, **resources)))
        connection.execute(_NOTICE_DEATH)
        connection.execute(create)
        check_owner(connection)
        connection.execute(found.layout.statement(_RECORD, rows=sql.Literal(rows)))


def _drop(connection: Connection, found: Found, superseded: list[str]) -> None:
    """Drop indexes that a newer one stands for."""
    for name in superseded:
        ann = sql.Identifier(found.layout.database.schema, name)
        _try(connection, found, found.layout.statement(_DROP, ann=ann))


def _try(connection: Connection, found: Found, statement: sql.Composed) -> None:
    """Run what may as well wait until the next build: nobody queues behind it for long."""
    with suppress(psycopg.errors.LockNotAvailable), connection.pipeline():
        connection.execute(settings(found.settings(lock_timeout=_BRIEFLY, **_LASTING)))
        connection.execute(statement)


@contextmanager
def _progress(
    database: Database, connection: Connection, tell: Callable[[BuildProgress], None] | None
) -> Iterator[None]:
    """Tell how far the server is, about once a second, as a second connection sees it."""
    if tell is None:
        yield
        return
    backend, done = connection.info.backend_pid, threading.Event()
    thread = threading.Thread(
        target=_watch, args=(database, backend, done, tell), name="build progress", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _watch(
    database: Database, backend: int, done: threading.Event, tell: Callable[[BuildProgress], None]
) -> None:
    with suppress(psycopg.Error), database.connect() as connection:
        while not done.wait(_POLL_SECONDS):
            row: tuple[Any, ...] | None = connection.execute(_PROGRESS, (backend,)).fetchone()
            if row is not None:
                tell(BuildProgress(*row))
