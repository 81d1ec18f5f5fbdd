"""The catalog in PostgreSQL, in a schema of its own.

Writers take turns, as they do in SQLite: a transaction that may write begins with an advisory lock.
What a guard reads is then still so when it writes, on any isolation level, and a sequence number is
taken in the order of the commits. Such transactions last milliseconds; one that was forgotten is
ended by the server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import event as sa_event
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError

from embedmigrate import postgres
from embedmigrate.catalog.sqlite import READ_ONLY
from embedmigrate.errors import EmbedMigrateError

LOCK_TIMEOUT = "30s"
IDLE_TIMEOUT = "60s"
"""How long a process that was stopped inside a transaction may keep the others waiting."""


def lock_key(*names: str) -> int:
    """The number of an advisory lock, signed 64 bits."""
    hashed = hashlib.sha256("\0".join(("embedmigrate", *names)).encode()).digest()
    return int.from_bytes(hashed[:8], "big", signed=True)


_TAKE_TURNS = (
    f"SELECT set_config('lock_timeout', '{LOCK_TIMEOUT}', true), "
    f"set_config('idle_in_transaction_session_timeout', '{IDLE_TIMEOUT}', true), "
    f"pg_advisory_xact_lock({lock_key('catalog')})"
)
_READ = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"


def make_engine(url: URL) -> Engine:
    """An engine whose tables without a schema are those of ours."""
    return sa.create_engine(
        url,
        connect_args=postgres.connect_args() if url.get_driver_name() == postgres.DRIVER else {},
        pool_pre_ping=True,
        hide_parameters=True,
        execution_options={"schema_translate_map": {None: postgres.SCHEMA}},
    )


def listen(engine: Engine) -> None:
    """Begin transactions the way that ``Catalog`` promises."""
    sa_event.listen(engine, "begin", _begin)


def _begin(connection: Connection) -> None:
    read_only = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql(_READ if read_only else _TAKE_TURNS)


def create_schema(connection: Connection) -> None:
    """Make the schema of ours; inside a transaction that writes.

    It is asked for first: who may not make one may have been given one.
    """
    if not sa.inspect(connection).has_schema(postgres.SCHEMA):
        connection.execute(sa.schema.CreateSchema(postgres.SCHEMA))


def copy_tables(connection: Connection, tables: Sequence[str], name: str) -> str:
    """Copy tables of ours, without their constraints, into a new schema; what people call it."""
    quote = connection.dialect.identifier_preparer.quote
    connection.execute(sa.schema.CreateSchema(name))
    for table in tables:
        connection.exec_driver_sql(
            f"CREATE TABLE {quote(name)}.{quote(table)} AS"
            f" TABLE {quote(postgres.SCHEMA)}.{quote(table)}"
        )
    return f"schema {name}"


def go_on_after(connection: Connection, table: sa.Table, number: int) -> None:
    """Let the ids that are given out be greater than ``number``."""
    sequence = sa.func.pg_get_serial_sequence(f"{postgres.SCHEMA}.{table.name}", "id")
    last = sa.func.greatest(sa.func.nextval(sequence), number)
    connection.execute(sa.select(sa.func.setval(sequence, last)))


def translate(error: DBAPIError, place: str) -> EmbedMigrateError | None:
    """The error for the person on call; None for a fault of this program."""
    import psycopg

    if not isinstance(error.orig, psycopg.Error):
        return None
    return postgres.contracted(error.orig, f"the catalog at {place}")


def server_time() -> sa.ColumnElement[float]:
    """Seconds since 1970 by the clock of the server, which is one for all machines."""
    return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Float)
