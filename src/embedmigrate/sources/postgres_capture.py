"""Capture in PostgreSQL: a trigger by which a table records its own changes.

A change is recorded in the transaction that makes it, as the key of a row and no more. The trigger
fires for each row, because that alone loses nothing: a row of a partition or of an heir may be
written by the name of the part or of the whole, by COPY, MERGE, a foreign key or, because the
trigger is enabled always, by logical replication. It runs as its owner, so that whoever may write
to the table needs no grant on what is recorded.

Installing waits for transactions that have written to the table, and writers wait for it. It gives
up after two seconds and tries again later, so that nobody waits longer behind it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from psycopg.sql import Identifier
from sqlalchemy.engine import Connection

from embedmigrate.errors import Temporary
from embedmigrate.postgres import SCHEMA
from embedmigrate.sources.base import Captured
from embedmigrate.sources.database import Database
from embedmigrate.sources.keys import id_of
from embedmigrate.sources.postgres_log import PostgresLog
from embedmigrate.sources.postgres_table import (
    Part,
    needing_triggers,
    parts_of,
    refuse_unrecordable,
    times_of,
)
from embedmigrate.sources.values import UnusableId

LOCK_SECONDS = 2
_PAUSES = (1.0, 2.0, 4.0, 8.0)
_IN_THE_WAY = frozenset({"55P03", "40P01"})
"""Lock timeout, deadlock."""
_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtext('embedmigrate capture'))"


class PostgresCapture:
    """The recording of one table for one collection."""

    def __init__(
        self,
        database: Database,
        collection: str,
        schema: str | None,
        table: str,
        key: Sequence[str],
    ) -> None:
        self._database, self._schema, self._table = database, schema, table
        self._key = tuple(key)
        self._trigger = f"embedmigrate_{collection}"
        self._function = Identifier(SCHEMA, f"capture_record_{collection}").as_string()
        self._log = PostgresLog(database, collection, self._id_of)
        self._times: list[bool] | None = None

    # -- the protocol -------------------------------------------------------------------------

    def token(self) -> str | None:
        """Another one after TRUNCATE, a rewrite, a partition that came or went, a disabled trigger.

        None on a standby, where nothing can be numbered.
        """
        parts, function = self._parts(), self._body()
        if not all(part.is_recorded_by(function) and not part.on_standby for part in parts):
            return None
        drawn = self._log.token()
        if drawn is None or not parts:
            return None
        identity = repr([drawn, *(part.identity for part in parts)])
        return hashlib.sha256(identity.encode()).hexdigest()[:32]

    def head(self) -> int:
        return self._log.head()

    def read(self, after: int, limit: int) -> list[Captured]:
        return self._log.read(after, limit)

    def forget(self, before: int) -> None:
        self._log.forget(before)

    # -- putting it there, and away -----------------------------------------------------------

    def ddl(self) -> list[str]:
        """One transaction that starts a recording, and lets the role of ``url`` read it."""
        role = str(self._database.rows(sa.text("SELECT current_user"))[0][0])
        return self._transaction([*self._installation(), *self._log.grants(role)])

    def removal(self) -> list[str]:
        """One transaction that ends it and leaves no trace."""
        return self._transaction([*self._removal(), *self._log.clearing()])

    def is_there(self) -> bool:
        return self._log.token() is not None or any(part.trigger for part in self._parts())

    def install(self) -> bool:
        """Start recording; False when it is being recorded already, which is then left alone.

        ``Temporary`` when a transaction that has written to the table stays open.
        """
        if self.token() is not None:
            return False
        self._change(self._transaction(self._installation()))
        return True

    def remove(self) -> bool:
        """End the recording and drop what it holds; False when there was none."""
        if not self.is_there():
            return False
        self._change(self.removal())
        return True

    def unseen(self) -> list[str]:
        """Nothing: what fires no trigger changes the token."""
        return []

    # -- within -------------------------------------------------------------------------------

    def _installation(self) -> list[str]:
        parts = self._parts()
        refuse_unrecordable(parts)
        body, trigger = self._body(), Identifier(self._trigger).as_string()
        settings = "SET search_path = pg_catalog, pg_temp"
        if any(self._times_of(parts)):
            settings += " SET datestyle = 'ISO' SET timezone = 'UTC'"
        statements = [
            *self._removal(),
            *self._log.creation(),
            f"CREATE FUNCTION {self._function}() RETURNS trigger LANGUAGE plpgsql "
            f"SECURITY DEFINER {settings} AS {_quoted(body)}",
            # for whoever makes a partition, which gets the trigger; it cannot be called otherwise,
            # nor named without a grant on the schema
            f"GRANT EXECUTE ON FUNCTION {self._function}() TO PUBLIC",
        ]
        for part in needing_triggers(parts):
            table = Identifier(part.schema, part.name).as_string()
            statements += [
                f"CREATE TRIGGER {trigger} AFTER INSERT OR UPDATE OR DELETE ON {table} "
                f"FOR EACH ROW EXECUTE FUNCTION {self._function}()",
                f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}",
            ]
        return statements

    def _removal(self) -> list[str]:
        """CASCADE takes the triggers along, on whatever table the collection had before as well."""
        return [f"DROP FUNCTION IF EXISTS {self._function}() CASCADE", *self._log.removal()]

    def _body(self) -> str:
        """The text of the function. It never fails for a key: every type has a text."""

        def key(row: str) -> str:
            columns = [f"{row}.{Identifier(column).as_string()}" for column in self._key]
            missing = " OR ".join(f"{column} IS NULL" for column in columns)
            # concat, unlike a cast, writes every type as the driver reads it
            texts = ", ".join(f"concat({column})" for column in columns)
            return f"CASE WHEN {missing} THEN NULL ELSE ARRAY[{texts}] END"

        # compared as variables, which have the collation of the database: equal is bytewise equal
        return f"""
DECLARE
    was text[];
    now text[];
BEGIN
    IF TG_OP <> 'INSERT' THEN
        was := {key("OLD")};
    END IF;
    IF TG_OP <> 'DELETE' THEN
        now := {key("NEW")};
    END IF;
    IF was IS NOT NULL AND was IS DISTINCT FROM now THEN
        INSERT INTO {self._log.incoming} (deleted, key) VALUES (true, was);
    END IF;
    IF now IS NOT NULL THEN
        INSERT INTO {self._log.incoming} (deleted, key) VALUES (false, now);
    END IF;
    RETURN NULL;
END
"""

    def _transaction(self, statements: Sequence[str]) -> list[str]:
        return [
            "BEGIN",
            f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'",
            _ONE_AT_A_TIME,
            *statements,
            "COMMIT",
        ]

    def _parts(self) -> list[Part]:
        return parts_of(self._database, self._schema, self._table, self._trigger)

    def _times_of(self, parts: Sequence[Part]) -> list[bool]:
        if self._times is None:
            self._times = times_of(self._database, parts[0], self._key)
        return self._times

    def _id_of(self, key: Sequence[str]) -> str:
        times = self._times_of(self._parts()) if self._times is None else self._times
        try:
            return id_of(
                [
                    # a space divides date and time; a date alone is written as it is read
                    datetime.fromisoformat(text) if is_time and " " in text else text
                    for text, is_time in zip(key, times, strict=True)
                ]
            )
        except UnusableId as error:
            raise error.at(f"the recorded changes of {self._table}") from None

    def _change(self, statements: Sequence[str]) -> None:
        """Run a transaction, again after a pause while something else is in its way."""
        with self._database.writing() as connection:
            for pause in (*_PAUSES, None):
                try:
                    # as it stands: a percent sign in a name is no parameter
                    for sql in statements[1:-1]:
                        connection.exec_driver_sql(sql, execution_options={"no_parameters": True})
                    return
                except sa.exc.DBAPIError as error:
                    if getattr(error.orig, "sqlstate", None) not in _IN_THE_WAY:
                        raise
                    connection.rollback()
                    if pause is None:
                        raise self._in_use(connection) from None
                time.sleep(pause)

    def _in_use(self, connection: Connection) -> Temporary:
        oids = [part.oid for part in self._parts()]
        holders = connection.execute(
            sa.text(
                "SELECT DISTINCT pid FROM pg_catalog.pg_locks WHERE granted AND relation IN :oids "
                "AND mode <> 'AccessShareLock' AND pid <> pg_backend_pid() ORDER BY pid"
            ).bindparams(sa.bindparam("oids", oids, expanding=True))
        ).scalars()
        processes = ", ".join(map(str, holders))
        return Temporary(
            f"{self._table} is in use, and triggers wait for whoever has written to it",
            found=f"transactions that stay open, of the server's processes: {processes or 'gone'}",
            expected=f"a pause between them, in {len(_PAUSES) + 1} tries of {LOCK_SECONDS} s",
            next_step="end them (pg_stat_activity shows what they do), then run the same again",
        )


def _quoted(body: str) -> str:
    """Text between dollars, whatever it holds."""
    tag = "$record$"
    while tag in body:
        tag = f"${tag.strip('$')}_$"
    return f"{tag}{body}{tag}"
