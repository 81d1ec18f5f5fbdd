"""What readers in SQL use: the route, a search that knows when its caller is behind, and views.

``docs/sql-readers.md`` is their manual. The catalog's tables and those of the indexes are in one
database, so that one statement sees the route and the rows of one moment (I8).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence

import psycopg
from psycopg import sql

from embedmigrate import postgres
from embedmigrate.errors import StorageUnavailable
from embedmigrate.stores.pgvector.connections import Connection, Database, settings
from embedmigrate.stores.pgvector.layout import Layout
from embedmigrate.stores.pgvector.names import INDEXES

STALE, NOTHING_LIVE, WRONG_LENGTH = "EM001", "EM002", "EM003"
"""SQLSTATEs of the function ``search``."""
_LOCK_MILLISECONDS, _ATTEMPTS, _PAUSE_SECONDS = 200, 10, 0.3
"""Readers queue behind a change of a view that waits: so it waits briefly, and comes back."""
_OURS = sql.Identifier(postgres.SCHEMA)
_VIEW = """
CREATE OR REPLACE VIEW {view} AS
SELECT id, chunk, metadata, embedding::{vector} AS embedding, {generation}::integer AS generation,
       {model_key}::text AS model_key
FROM {table}
"""
"""Of one type whatever the dimensions, so that it can be replaced and grants on it stay."""
_LIVE = "SELECT generation, model_key FROM {ours}.route WHERE collection = %s"

_ROUTE = """
CREATE OR REPLACE VIEW {ours}.route AS
SELECT r.collection::text, r.generation, i.name::text AS index, s.schema_name, s.table_name,
       i.fingerprint::text, i.fingerprint || ':' || i.query_side AS model_key,
       (s.manifest ->> 'dimensions')::integer AS dimensions, s.manifest ->> 'metric' AS metric,
       m.identity::jsonb AS model, to_timestamp(r.updated_at) AS since
FROM {ours}.embedmigrate_route AS r
JOIN {ours}.embedmigrate_index AS i ON i.name = r.live_index
JOIN {ours}.embedmigrate_model AS m
  ON m.fingerprint = i.fingerprint AND m.query_side = i.query_side
JOIN ({indexes}) AS s ON s.index = COALESCE(i.container, i.name)
"""
_INDEXES_OF = "SELECT index, {name}::text AS schema_name, table_name, manifest FROM {table}"

# A caller names its model by the fingerprint alone, or with its query side. Spaces that are proven
# equal stand for one another; query sides do not.
_SEARCH = """
CREATE OR REPLACE FUNCTION {ours}.search(
    collection text, model text, query {vector}, k integer DEFAULT 10, filter jsonb DEFAULT '{{}}')
RETURNS TABLE (id text, chunk integer, score double precision, metadata jsonb, generation integer)
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
SET search_path = {path}
AS $function$
#variable_conflict use_column
DECLARE
    live record;
    nearest text;
    distance text;
    ef_search text := current_setting('hnsw.ef_search', true);
    iterative text := current_setting('hnsw.iterative_scan', true);
BEGIN
    SELECT * INTO live FROM {ours}.route AS r WHERE r.collection = search.collection;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'collection % has no live index', quote_literal(search.collection)
            USING ERRCODE = {nothing_live}, HINT = 'embedmigrate status';
    END IF;
    IF search.model NOT IN (live.fingerprint, live.model_key) AND (
        split_part(search.model, ':', 2) NOT IN ('', split_part(live.model_key, ':', 2))
        OR split_part(search.model, ':', 1) NOT IN (
            WITH RECURSIVE same (fingerprint) AS (
                SELECT live.fingerprint
                UNION SELECT CASE WHEN p.first = same.fingerprint THEN p.second ELSE p.first END
                FROM same JOIN {ours}.embedmigrate_proof AS p
                  ON same.fingerprint IN (p.first, p.second)
            ) SELECT fingerprint FROM same))
    THEN
        RAISE EXCEPTION 'the query of % is of another model than its index',
            quote_literal(search.collection)
            USING ERRCODE = {stale},
                DETAIL = format('the query is of %s; generation %s is of %s',
                                search.model, live.generation, live.model_key),
                HINT = 'read the route again, and embed the query with the model that it names';
    END IF;
    IF vector_dims(search.query) <> live.dimensions THEN
        RAISE EXCEPTION 'the query has % dimensions, and the index of % has %',
            vector_dims(search.query), quote_literal(search.collection), live.dimensions
            USING ERRCODE = {wrong_length}, HINT = 'embed the query with the model of the route';
    END IF;
    nearest := CASE live.metric WHEN 'cosine' THEN '<=>' WHEN 'l2' THEN '<->' ELSE '<#>' END;
    distance := format('embedding %s $1', nearest);
    IF live.dimensions > 2000 THEN
        nearest := format('embedding::halfvec(%s) %s $1::halfvec(%s)',
                          live.dimensions, nearest, live.dimensions);
    ELSE
        nearest := distance;
    END IF;
    IF live.metric = 'cosine' THEN
        distance := format('COALESCE(NULLIF(%s, ''NaN''), 1)', distance);
    END IF;
    PERFORM set_config('hnsw.ef_search', least(1000, greatest(128, 2 * k + 16))::text, true),
            set_config('hnsw.iterative_scan', 'relaxed_order', true);
    RETURN QUERY EXECUTE format(
        'SELECT id, chunk, CASE %L WHEN ''cosine'' THEN 1 - distance WHEN ''l2'''
        ' THEN -distance * distance ELSE -distance END, metadata, %s FROM ('
        'SELECT id, chunk, metadata, %s AS distance FROM %I.%I WHERE metadata @> $2'
        ' ORDER BY %s LIMIT 2 * $3 + 16) AS candidates ORDER BY distance, id, chunk LIMIT $3',
        live.metric, live.generation, distance, live.schema_name, live.table_name, nearest)
        USING query, filter, k;
    PERFORM set_config('hnsw.ef_search', coalesce(ef_search, '40'), true),
            set_config('hnsw.iterative_scan', coalesce(iterative, 'off'), true);
END
$function$
"""
_SIGNATURE = "{ours}.search(text, text, {vector}, integer, jsonb)"
_IS_THERE = (
    "SELECT obj_description(to_regprocedure({signature}), 'pg_proc')"
    " WHERE to_regclass({route}) IS NOT NULL"  # which goes with the tables of a catalog
)


def offer(database: Database, connection: Connection, schemas: Sequence[str]) -> None:
    """The view ``route`` and the function ``search``, unless they are there as they would be made.

    ``schemas`` are all that hold indexes of the catalog.
    """
    vector = _vector_type(database, connection)
    parts = {
        "ours": _OURS,
        "vector": vector,
        "path": sql.SQL(", ").join([sql.Identifier(_schema_of_vector(database, connection))]),
        "indexes": sql.SQL(" UNION ALL ").join(
            sql.SQL(_INDEXES_OF).format(
                name=sql.Literal(schema), table=sql.Identifier(schema, INDEXES)
            )
            for schema in sorted(schemas)
        ),
        "stale": sql.Literal(STALE),
        "nothing_live": sql.Literal(NOTHING_LIVE),
        "wrong_length": sql.Literal(WRONG_LENGTH),
    }
    wanted = [sql.SQL(text).format(**parts) for text in (_ROUTE, _SEARCH)]
    text = "\n".join(it.as_string(connection) for it in wanted)
    mark = f"embedmigrate {hashlib.sha256(text.encode()).hexdigest()[:16]}"
    signature = sql.SQL(_SIGNATURE).format(**parts)
    asked = sql.SQL(_IS_THERE).format(
        signature=sql.Literal(signature.as_string(connection)),
        route=sql.Literal(sql.Identifier(postgres.SCHEMA, "route").as_string(connection)),
    )
    row = connection.execute(asked).fetchone()
    if row is not None and row[0] == mark:
        return
    for statement in wanted:
        connection.execute(statement)
    comment = sql.SQL("COMMENT ON FUNCTION {} IS {}").format(signature, sql.Literal(mark))
    connection.execute(comment)


def publish(database: Database, connection: Connection, collection: str, index: str | None) -> None:
    """Let the view of ``collection`` show the rows of ``index``; see ``PublishingStore``."""
    view = sql.Identifier(postgres.SCHEMA, view_name(collection))
    statements = [sql.SQL("DROP VIEW IF EXISTS {}").format(view)]
    live = connection.execute(sql.SQL(_LIVE).format(ours=_OURS), (collection,)).fetchone()
    if index is not None and live is not None:
        made = sql.SQL(_VIEW).format(
            view=view,
            vector=_vector_type(database, connection),
            table=Layout(database, index).table,
            generation=sql.Literal(live[0]),
            model_key=sql.Literal(live[1]),
        )
        statements = [made]
    for attempt in range(_ATTEMPTS):
        try:
            with connection.transaction():  # a savepoint
                before = _setting(connection, "lock_timeout")
                connection.execute(settings({"lock_timeout": _LOCK_MILLISECONDS}))
                for statement in statements:
                    connection.execute(statement)
                connection.execute(settings({"lock_timeout": before}))
            return
        except psycopg.errors.LockNotAvailable:
            if attempt + 1 == _ATTEMPTS:
                break
        time.sleep(_PAUSE_SECONDS)
    raise StorageUnavailable(
        f"the view {view_name(collection)} in {database.place} is in use",
        found="a transaction that read it and was left open"
        + "".join(f": process {pid} of the server" for pid in _in_the_way(connection, view)),
        expected="readers that end their transactions",
        next_step="end it, then run the same command again; nothing was changed",
    )


def view_name(collection: str) -> str:
    """The view of a collection's live rows."""
    return f"live_{collection}"


def _in_the_way(connection: Connection, view: sql.Identifier) -> list[int]:
    asked = sql.SQL(
        "SELECT DISTINCT pid FROM pg_locks WHERE relation = to_regclass({}) AND granted"
        " AND pid <> pg_backend_pid()"
    ).format(sql.Literal(view.as_string(connection)))
    return [int(row[0]) for row in connection.execute(asked)]


def _setting(connection: Connection, name: str) -> str:
    row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
    assert row is not None
    return str(row[0])


def _schema_of_vector(database: Database, connection: Connection) -> str:
    row = connection.execute(
        "SELECT n.nspname FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace"
        " WHERE e.extname = 'vector'"
    ).fetchone()
    if row is None:
        raise database.no_extension("no extension vector")
    return str(row[0])


def _vector_type(database: Database, connection: Connection) -> sql.Identifier:
    return sql.Identifier(_schema_of_vector(database, connection), "vector")
