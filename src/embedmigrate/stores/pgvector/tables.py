"""Making and dropping the tables of an index, each in one transaction."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

import psycopg
from psycopg import sql

from embedmigrate.errors import ConfigError, Refused, StorageUnavailable
from embedmigrate.stores.base import IndexManifest
from embedmigrate.stores.pgvector.connections import Connection, Database, settings
from embedmigrate.stores.pgvector.layout import (
    LAYOUT,
    MAKE_INDEXES,
    MAKE_TOMBSTONES,
    MAKE_VECTORS,
    Layout,
    check_extension,
    manifest_json,
    quoted,
    read_manifest,
    same_index,
)
from embedmigrate.stores.pgvector.names import INDEXES, TOMBSTONES, table_name
from embedmigrate.stores.recovering import Marks

_LOCK_MILLISECONDS, _ATTEMPTS, _PAUSE_SECONDS = 500, 8, 0.3
"""A change of tables waits briefly and comes back: others queue behind whoever waits for long."""
_T = TypeVar("_T")
_OLDEST_SERVER = 140_000
_DEPENDENTS = "2BP01"
_UNDEFINED = frozenset({"42P01", "3F000"})

_SURROUNDINGS = """
SELECT n.nspname, e.extversion, current_setting('server_encoding'),
       pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean,
       to_regnamespace({schema}) IS NOT NULL,
       CASE WHEN to_regnamespace({schema}) IS NULL
            THEN has_database_privilege(current_database(), 'CREATE')
            ELSE has_schema_privilege(to_regnamespace({schema}), 'CREATE, USAGE') END
FROM (SELECT) AS here
LEFT JOIN pg_extension AS e ON e.extname = 'vector'
LEFT JOIN pg_namespace AS n ON n.oid = e.extnamespace
"""
_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtextextended('embedmigrate ' || {schema}, 0))"
_EXISTING = "SELECT manifest FROM {indexes} WHERE index = {index}"
_RECORD = """
INSERT INTO {indexes} (index, table_name, layout, manifest) VALUES ({index}, %s, %s, %s::jsonb)
"""
_MARKS = """
SELECT owner_epoch, GREATEST(
    0, (SELECT max(seq) FROM {table}), (SELECT max(seq) FROM {tombstones} WHERE index = {index}))
FROM {indexes} WHERE index = {index}
"""
# Not by `to_regclass`, which may answer from before the lock that is held now.
_SCHEMA_IS_THERE = "SELECT count(*) FROM pg_namespace WHERE nspname = {schema}"
_TABLE_IS_THERE = """
SELECT count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = {schema} AND c.relname = {table}
"""


def create(database: Database, manifest: IndexManifest) -> None:
    """Make an empty index; nothing when it is there already. See ``PgvectorStore.create``."""
    layout = Layout(database, manifest.index)
    table_name(manifest.index)

    def make(connection: Connection) -> IndexManifest:
        schema = _check_surroundings(database, connection)
        connection.execute(_with_schema(_ONE_AT_A_TIME, database))
        make_common(layout, connection)
        row = connection.execute(layout.statement(_EXISTING)).fetchone()
        if row is not None:
            return read_manifest(database, manifest.index, row[0])
        dimensions = sql.Literal(manifest.dimensions)
        vector = sql.Identifier(schema, "vector")
        made = layout.statement(MAKE_VECTORS, vector=vector, dimensions=dimensions)
        connection.execute(made)
        connection.execute(layout.statement("CREATE INDEX ON {table} (content_hash)"))
        values = (table_name(manifest.index), LAYOUT, manifest_json(manifest))
        connection.execute(layout.statement(_RECORD), values)
        return manifest

    existing = _changed(database, make)
    if not same_index(existing, manifest):
        raise Refused(
            f"schema {database.schema} of {database.place} holds another index {manifest.index}",
            found=existing,
            expected=manifest,
            next_step="embedmigrate status",
        )


def ensure_common(database: Database) -> None:
    """Make what every index needs, as the role that writes indexes; nothing when it is there."""

    def make(connection: Connection) -> None:
        connection.execute(_with_schema(_ONE_AT_A_TIME, database))
        make_common(Layout(database, "any"), connection)

    _changed(database, make)


def drop(database: Database, index: str) -> None:
    """Drop an index; nothing when it is not there. See ``PgvectorStore.drop``."""
    layout = Layout(database, index)

    def remove(connection: Connection) -> None:
        # The row first, as every writer takes its locks.
        connection.execute(layout.statement("DELETE FROM {indexes} WHERE index = {index}"))
        connection.execute(layout.statement("DROP TABLE IF EXISTS {table}"))
        connection.execute(layout.statement("DELETE FROM {tombstones} WHERE index = {index}"))

    try:
        _changed(database, remove)
    except psycopg.Error as error:
        if error.sqlstate == _DEPENDENTS:
            raise Refused(
                f"something depends on the table of index {index}, which is not dropped",
                found=f"objects that use {database.schema}.{table_name(index)}",
                expected="nothing that would break",
                next_step="drop these views or functions, then run the same command again",
            ) from None
        if error.sqlstate not in _UNDEFINED:  # there never was an index here
            raise


def manifests(database: Database) -> list[IndexManifest]:
    """Every index in the schema, in order of name."""
    statement = sql.SQL("SELECT index, manifest FROM {} ORDER BY index").format(
        sql.Identifier(database.schema, INDEXES)
    )
    with database.opened() as connection:
        try:
            rows = connection.execute(statement).fetchall()
        except psycopg.Error as error:
            if error.sqlstate not in _UNDEFINED:
                raise
            return []
    return [read_manifest(database, index, manifest) for index, manifest in rows]


def marks(database: Database, index: str) -> Marks:
    """How far the writers of an index were. See ``RecoverableStore``."""
    layout = Layout(database, index)
    with database.opened() as connection, database.translated(index):
        row = connection.execute(layout.statement(_MARKS)).fetchone()
    if row is None:
        raise database.gone(index)
    return Marks(*row)


def check_writable(database: Database) -> None:
    """``StorageUnavailable`` where nothing can be written, ``ConfigError`` where it never can."""
    with database.opened() as connection:
        _check_surroundings(database, connection)


def _check_surroundings(database: Database, connection: Connection) -> str:
    """The schema that pgvector is in, if the server, the database and the role will do."""
    row = connection.execute(_with_schema(_SURROUNDINGS, database)).fetchone()
    assert row is not None
    extension_schema, version, encoding, read_only, there, allowed = row
    if connection.info.server_version < _OLDEST_SERVER:
        raise ConfigError(
            f"{database.place} is served by a PostgreSQL that is too old",
            found=connection.info.parameter_status("server_version"),
            expected=f"{_OLDEST_SERVER // 10_000} or later",
            next_step="upgrade the server, or name another one in `url`",
        )
    check_extension(database, version)
    if encoding != "UTF8":
        raise ConfigError(
            f"{database.place} cannot hold every text",
            found=f"encoding {encoding}",
            expected="UTF8",
            next_step="make a database with ENCODING 'UTF8', and correct `url`",
        )
    if read_only:
        raise StorageUnavailable(
            f"{database.place} cannot be written now",
            found="a standby, or a session that may only read",
            expected="the primary server",
            next_step="correct `url`, or run the same command again after the fail-over",
        )
    if not allowed:
        right = f"CREATE on schema {database.schema}" if there else "CREATE on the database"
        raise ConfigError(
            f"the role may not make tables in {database.place}",
            found=f"no right {right}",
            expected=f"{right}, or a schema {database.schema} that belongs to the role",
            next_step=f"psql: CREATE SCHEMA {database.schema} AUTHORIZATION role",
        )
    return str(extension_schema)


def make_common(layout: Layout, connection: Connection) -> None:
    """Schema, manifests and tombstones, unless they are there: asked first, for want of rights."""
    database = layout.database
    schema = sql.Literal(database.schema)
    if not _there(connection, sql.SQL(_SCHEMA_IS_THERE).format(schema=schema)):
        make = sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(database.schema))
        connection.execute(make)
    for table, text in ((INDEXES, MAKE_INDEXES), (TOMBSTONES, MAKE_TOMBSTONES)):
        name = sql.Literal(table)
        if not _there(connection, sql.SQL(_TABLE_IS_THERE).format(schema=schema, table=name)):
            connection.execute(layout.statement(text))


def _there(connection: Connection, count: sql.Composed) -> bool:
    row = connection.execute(count).fetchone()
    return row is not None and row[0] > 0


def _with_schema(text: str, database: Database) -> sql.Composed:
    return sql.SQL(text).format(schema=sql.Literal(quoted(database.schema)))


def _changed(database: Database, change: Callable[[Connection], _T]) -> _T:
    """Do ``change`` in one transaction, again while others hold what it needs."""
    for attempt in range(_ATTEMPTS):
        with database.opened() as connection:
            try:
                with connection.transaction():
                    connection.execute(settings({"lock_timeout": _LOCK_MILLISECONDS}))
                    return change(connection)
            except psycopg.errors.LockNotAvailable:
                if attempt + 1 == _ATTEMPTS:
                    raise
        time.sleep(_PAUSE_SECONDS * (1 + random.random()))
    raise AssertionError("unreachable")
