"""What may be wrong with the database of the indexes; see ``examining.Examined``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from embedmigrate.errors import ConfigError, StorageUnavailable
from embedmigrate.examining import Observation, look
from embedmigrate.postgres_checks import examine_server
from embedmigrate.stores.base import IndexManifest
from embedmigrate.stores.pgvector.ann import memory_needed
from embedmigrate.stores.pgvector.connections import Connection, Database
from embedmigrate.stores.pgvector.factory import Factory
from embedmigrate.stores.pgvector.layout import Layout, check_extension
from embedmigrate.stores.pgvector.tables import manifests

_EXTENSION = """
SELECT (SELECT extversion FROM pg_extension WHERE extname = 'vector'),
       (SELECT default_version FROM pg_available_extensions WHERE name = 'vector')
"""
_RIGHTS = """
SELECT quote_ident(current_user),
       CASE WHEN n.oid IS NULL THEN has_database_privilege(current_database(), 'CREATE')
            ELSE has_schema_privilege(n.oid, 'CREATE') AND has_schema_privilege(n.oid, 'USAGE') END,
       n.oid IS NOT NULL,
       (SELECT string_agg(c.relname, ', ' ORDER BY c.relname) FROM pg_class AS c
        WHERE c.relnamespace = n.oid AND c.relkind = 'r'
        AND (c.relname IN ('store_index', 'store_tombstone') OR c.relname LIKE 'vectors\\_%%')
        AND NOT (has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
             AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE'))),
       (SELECT string_agg(c.relname, ', ' ORDER BY c.relname) FROM pg_class AS c
        WHERE c.relnamespace = n.oid AND c.relkind = 'r' AND c.relname LIKE 'vectors\\_%%'
        AND NOT pg_has_role(c.relowner, 'USAGE'))
FROM (SELECT) AS here LEFT JOIN pg_namespace AS n ON n.nspname = %(schema)s
"""
_SIZE = """
SELECT pg_total_relation_size(c.oid), greatest(c.reltuples, 0)::bigint, c.relpages
FROM pg_class AS c WHERE c.oid = to_regclass({name})
"""
_COUNT = "SELECT count(*) FROM {table}"
_SMALL_PAGES = 1000
"""A table of at most so many pages is counted, where the server has not estimated its rows."""
_MEMORY = """
SELECT pg_size_bytes(current_setting('maintenance_work_mem')) / 1024,
       pg_size_bytes(current_setting('shared_buffers')) / 1024,
       pg_size_bytes(%s) / 1024
"""


class _Size(NamedTuple):
    manifest: IndexManifest
    bytes: int
    rows: int


def examine(database: Database, memory: str | None, collection: str) -> Iterator[Observation]:
    """``memory`` is what is configured for building, ``collection`` what the store is for."""
    with database.opened() as connection:

        def ask(statement: str) -> Sequence[Any]:
            with database.translated():
                row = connection.execute(statement).fetchone()
            assert row is not None
            return tuple(row)

        yield from examine_server(ask, database.place)
        place = f"schema {database.schema} of {database.place}"
        yield look(f"pgvector in {database.place}", lambda: _extension(database, ask))
        yield look(f"rights on {place}", lambda: _rights(database, connection))
        sizes = _sizes(database, connection)
        yield look(f"disk of {place}", lambda: _disk(database, connection, sizes))
        yield look(
            f"memory to build indexes of {collection}",
            lambda: _memory(
                connection, memory, [it for it in sizes if it.manifest.collection == collection]
            ),
        )


def _extension(database: Database, ask: Callable[[str], Sequence[Any]]) -> tuple[str, str | None]:
    version, available = ask(_EXTENSION)
    check_extension(database, version)
    if available in (None, version):
        return f"version {version}", None
    return f"version {version}", f"psql: ALTER EXTENSION vector UPDATE brings {available}"


def _rights(database: Database, connection: Connection) -> str:
    schema = database.schema
    with database.translated():
        row = connection.execute(_RIGHTS, {"schema": schema}).fetchone()
    assert row is not None
    role, may_make, there, lacking, not_owned = row
    tables = f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}"
    if may_make and not lacking and not not_owned:
        return f"role {role} may make, write and drop indexes"
    if not may_make:
        found, next_step = (
            f"it may not make tables in schema {schema}",
            (
                f"psql: GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}"
                if there
                else f"psql: CREATE SCHEMA {schema} AUTHORIZATION {role}"
            ),
        )
    elif lacking:
        found, next_step = f"not all rights on {lacking}", f"psql: {tables}"
    else:
        found = f"another role owns {not_owned}, and only its owner may build on it and drop it"
        next_step = f"psql: GRANT that role TO {role}, or ALTER TABLE ... OWNER TO {role}"
    raise ConfigError(
        f"role {role} may not write indexes in {database.place}",
        found=found,
        expected="CREATE and USAGE on the schema, and tables of its own",
        next_step=next_step,
    )


def _sizes(database: Database, connection: Connection) -> list[_Size]:
    """The indexes with what they take on the disk, and about how many rows they have."""
    found = []
    with database.translated():
        for manifest in manifests(database):
            layout = Layout(database, manifest.index)
            name = sql.Literal(layout.table.as_string(connection))
            row = connection.execute(sql.SQL(_SIZE).format(name=name)).fetchone()
            if row is None:
                continue
            size, rows, pages = row
            if rows == 0 and pages <= _SMALL_PAGES:
                with suppress(psycopg.errors.InsufficientPrivilege):
                    counted = connection.execute(layout.statement(_COUNT)).fetchone()
                    rows = counted[0] if counted else 0
            found.append(_Size(manifest, size, rows))
    return found


def _disk(
    database: Database, connection: Connection, sizes: Sequence[_Size]
) -> tuple[str, str | None]:
    """``StorageUnavailable`` where another index as large as the largest does not fit."""
    largest = max((it.bytes for it in sizes), default=0)
    total = sum(it.bytes for it in sizes)
    found = (
        f"{len(sizes)} indexes take {_megabytes(total)}; one more as large as the largest takes "
        f"{_megabytes(largest)}"
    )
    free = _free(connection)
    if free is None:
        return found, "the server does not say how much is free: look at its machine"
    found += f"; {_megabytes(free)} are free"
    if free < largest:
        raise StorageUnavailable(
            f"the disk of {database.place} has no room for another index",
            found=found,
            expected="room for what is live, for one that is built, and for what is retained",
            next_step="embedmigrate contract, or give the server a larger disk",
        )
    return found, None


def _free(connection: Connection) -> int | None:
    """Free bytes of the disk: only of a server on this machine, and only a role that may read all
    settings learns where its files are."""
    if not connection.info.host.startswith("/"):
        return None
    try:
        row = connection.execute("SELECT current_setting('data_directory')").fetchone()
        assert row is not None
        disk = os.statvfs(row[0])
    except (psycopg.Error, OSError):
        return None
    return disk.f_bavail * disk.f_frsize


def _memory(
    connection: Connection, configured: str | None, sizes: Sequence[_Size]
) -> tuple[str, str | None]:
    needed = max(
        (
            memory_needed(it.manifest, Factory.parse(it.manifest.factory), it.rows)
            for it in sizes
            if it.manifest.factory != "none"
        ),
        default=0,
    )
    row = connection.execute(_MEMORY, (configured or "0",)).fetchone()
    assert row is not None
    server, buffers, own = row
    granted = own if configured else max(server, min(needed, buffers // 2))
    found = f"about {_megabytes(needed * 1024)} needed, {_megabytes(granted * 1024)} allowed"
    if granted >= needed:
        return found, None
    return found, (
        f'building is slower than it could be: maintenance_work_mem = "{needed // 1024 + 1}MB" of '
        "the store in the configuration, if the server has that much"
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 or size == 0 else "less than 1 MB"
