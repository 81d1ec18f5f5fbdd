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
    "SELECT quote_ident(current_user), to_regclass(:table) IS NOT NULL,"
    " has_table_privilege(to_regclass(:table), 'SELECT')"
    " OR has_any_column_privilege(to_regclass(:table), 'SELECT')"
)


def examine(
    database: Database, collection: str, table: str | None, recording: Recording | None
) -> Iterator[Observation]:
    """``table`` is quoted as SQL names it; None for a source that is a query."""
    if database.dialect == "postgresql":

        def ask(statement: str) -> Sequence[Any]:
            return database.rows(sa.text(statement))[0]

        yield from examine_server(ask, database.name)
        if table is not None:
            yield look(f"rights on the source of {collection}", lambda: _rights(database, table))
    if recording is not None:
        yield look(f"capture of {collection}", lambda: _capture(collection, recording))


def _rights(database: Database, table: str) -> str:
    (row,) = database.rows(_RIGHTS.bindparams(table=table))
    role, there, readable = tuple(row)
    if there and readable:
        return f"role {role} may read {table}"
    raise ConfigError(
        f"role {role} may not read {table} in {database.name}",
        found="no right SELECT" if there else "no such table",
        expected="SELECT on it, and USAGE on its schema",
        next_step=f"psql: GRANT SELECT ON {table} TO {role}"
        if there
        else "correct `table` of the source in the configuration",
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
