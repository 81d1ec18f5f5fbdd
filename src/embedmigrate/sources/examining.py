"""What may be wrong with the database of a SQL source; see ``examining.Examined``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from embedmigrate.errors import ConfigError
from embedmigrate.examining import Observation, look
from embedmigrate.postgres_checks import examine_server
from embedmigrate.sources.base import Recording
from embedmigrate.sources.database import Database

_RIGHTS = sa.text(
    "SELECT quote_ident(current_user), has_schema_privilege(n.oid, 'USAGE'),"
    " has_table_privilege(c.oid, 'SELECT') OR has_any_column_privilege(c.oid, 'SELECT'),"
    " quote_ident(n.nspname), quote_ident(n.nspname) || '.' || quote_ident(c.relname)"
    " FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
    " WHERE c.relname = :table AND CASE WHEN CAST(:schema AS text) IS NULL"
    " THEN pg_table_is_visible(c.oid) ELSE n.nspname = :schema END"
)


def examine(
    database: Database,
    collection: str,
    table: tuple[str | None, str] | None,
    recording: Recording | None,
) -> Iterator[Observation]:
    """``table`` is a schema, None for the default one, and a name; None for a query."""
    if database.dialect == "postgresql":

        def ask(statement: str) -> Sequence[Any]:
            return database.rows(sa.text(statement))[0]

        yield from examine_server(ask, database.name)
        if table is not None:
            yield look(f"rights on the source of {collection}", lambda: _rights(database, table))
    if recording is not None:
        yield look(f"capture of {collection}", lambda: _capture(collection, recording))


def _rights(database: Database, table: tuple[str | None, str]) -> str:
    (row,) = database.rows(_RIGHTS.bindparams(schema=table[0], table=table[1]))
    role, may_enter, may_read, schema, name = tuple(row)
    grants = [
        *([] if may_enter else [f"GRANT USAGE ON SCHEMA {schema} TO {role}"]),
        *([] if may_read else [f"GRANT SELECT ON {name} TO {role}"]),
    ]
    if not grants:
        return f"role {role} may read {name}"
    raise ConfigError(
        f"role {role} may not read {name} in {database.name}",
        found=f"{len(grants)} rights are missing",
        expected="SELECT on it, and USAGE on its schema",
        next_step=f"psql: {'; '.join(grants)}",
    )


def _capture(collection: str, recording: Recording) -> tuple[str, str | None]:
    if recording.token() is not None:
        found = f"every change is recorded, {recording.head()} until now"
        unseen = ", ".join(recording.unseen())
        return found, f"not seen by it: {unseen}" if unseen else None
    if recording.is_there():
        raise ConfigError(
            f"the recording of {collection!r} is not whole",
            found="a trigger that is gone, disabled or not as it was made, or a standby",
            expected="triggers on all of the table",
            next_step=f"embedmigrate capture install {collection}; then embedmigrate sync compares",
        )
    return (
        "changes are not recorded: they are found by comparing",
        f"embedmigrate capture install {collection}",
    )
