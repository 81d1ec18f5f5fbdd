"""What may be wrong with the database of the catalog."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from embedmigrate import postgres
from embedmigrate.catalog import schema
from embedmigrate.catalog.database import make_engine
from embedmigrate.catalog.sessions import refuse_transaction_pooling
from embedmigrate.errors import ConfigError
from embedmigrate.examining import Observation, look
from embedmigrate.postgres_checks import examine_server

_MAY_WRITE = """
SELECT CASE WHEN to_regnamespace(%(schema)s) IS NULL
            THEN has_database_privilege(current_database(), 'CREATE')
            ELSE has_schema_privilege(to_regnamespace(%(schema)s), 'USAGE') END,
       quote_ident(current_user),
       (SELECT string_agg(c.relname, ', ' ORDER BY c.relname)
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = %(schema)s AND c.relkind = 'r' AND c.relname = ANY (%(tables)s)
        AND NOT (has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
             AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE')))
"""


def examine(url: str) -> Iterator[Observation]:
    """Look at the server, the way to it and the rights of the role; nothing for SQLite."""
    engine = make_engine(url)
    try:
        if engine.dialect.name != "postgresql":
            return
        where = postgres.place(url)
        with postgres.translated(where), _connect(url) as connection:

            def ask(statement: str) -> Any:
                with postgres.translated(where):
                    return connection.execute(statement).fetchone()

            yield from examine_server(ask, where)
            yield look("way to the catalog", lambda: _directly(url, where))
            yield look("rights on the catalog", lambda: _rights(connection, where))
    finally:
        engine.dispose()


def _connect(url: str) -> Any:
    import psycopg

    return psycopg.connect(postgres.conninfo(url), autocommit=True, **postgres.connect_args())


def _directly(url: str, where: str) -> str:
    with postgres.translated(where), _connect(url) as connection:
        refuse_transaction_pooling(connection, lambda: _connect(url), f"the catalog at {where}")
    return "sessions are kept: no proxy pools transactions"


def _rights(connection: Any, where: str) -> str:
    asked = {"schema": postgres.SCHEMA, "tables": sorted(schema.metadata.tables)}
    with postgres.translated(where):
        allowed, role, lacking = connection.execute(_MAY_WRITE, asked).fetchone()
    if allowed and not lacking:
        return f"role {role} may write it"
    raise ConfigError(
        f"role {role} may not write the catalog in {where}",
        found=f"not all rights on {lacking}" if lacking else f"no right on {postgres.SCHEMA}",
        expected="SELECT, INSERT, UPDATE and DELETE on its tables, USAGE on its schema",
        next_step=f"psql: GRANT USAGE ON SCHEMA {postgres.SCHEMA} TO {role}; GRANT SELECT, INSERT, "
        f"UPDATE, DELETE ON ALL TABLES IN SCHEMA {postgres.SCHEMA} TO {role}"
        if lacking or allowed
        else f"psql: CREATE SCHEMA {postgres.SCHEMA} AUTHORIZATION {role}",
    )
