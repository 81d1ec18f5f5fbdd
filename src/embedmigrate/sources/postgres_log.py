"""The recorded changes of one collection in PostgreSQL: written by many, numbered by the reader.

A sequence number that a writer takes says nothing about the order of the commits: a reader that
went on from the greatest one it saw would skip whatever is committed later under a smaller one. So
nothing has a number when it is written. Whoever reads numbers all that is committed and has none,
in one statement and alone; what is committed later gets a greater number, however long its
transaction was open, and nothing waits for a transaction that stays open.

Three tables in the schema of ours: ``capture_incoming_<collection>``, which writers insert into and
nobody updates; ``capture_numbered_<collection>``; and one row in ``capture``. A document that was
changed many times before somebody read gets one number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from psycopg.sql import Identifier, Literal

from embedmigrate.errors import Temporary
from embedmigrate.postgres import SCHEMA
from embedmigrate.sources.base import Captured
from embedmigrate.sources.database import Database

STATE = f"{SCHEMA}.capture"
OURS = "made by embedmigrate capture"
"""Comment on a schema that nobody made for us: it goes with the last recording."""

_TAKE_TURNS = """
SELECT set_config('lock_timeout', '30s', true), set_config('statement_timeout', '0', true),
       set_config('idle_in_transaction_session_timeout', '60s', true),
       set_config('enable_seqscan', 'off', true)
"""
# No scan of what was numbered long ago, even where VACUUM may not remove it yet: of what was not
# visible the last time, the transactions were open then or began later. Ids of transactions that
# are ahead of the server's are those of another server, from which the tables were copied.
_BOUND = """
CASE WHEN pg_snapshot_xmax(seen) <= pg_snapshot_xmax(pg_current_snapshot())
     THEN pg_snapshot_xmax(seen) ELSE CAST('0' AS xid8) END
"""
_OPEN = "ARRAY(SELECT pg_snapshot_xip(seen))"
_OFTEN = "autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000"


class PostgresLog:
    """Numbers have no gaps, and are in the order in which changes became visible."""

    def __init__(
        self, database: Database, collection: str, id_of: Callable[[Sequence[str]], str]
    ) -> None:
        """``id_of`` makes the id of a document of the recorded key."""
        self._database, self._collection, self._id_of = database, collection, id_of
        self.incoming = _name(f"capture_incoming_{collection}")
        self.numbered = _name(f"capture_numbered_{collection}")

    # -- reading ------------------------------------------------------------------------------

    def token(self) -> str | None:
        """What was drawn when the recording began; None where there is none."""
        if not self._rows(
            "SELECT 1 FROM pg_catalog.pg_class AS c "
            "JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace "
            "WHERE n.nspname = :schema AND c.relname = 'capture'",
            schema=SCHEMA,
        ):
            return None
        rows = self._rows(
            f"SELECT token FROM {STATE} WHERE collection = :collection",
            collection=self._collection,
        )
        return str(rows[0][0]) if rows else None

    def head(self) -> int:
        """The last number, after everything that is committed has one."""
        waits, last = self._state()
        return self._number() if waits else last

    def read(self, after: int, limit: int) -> list[Captured]:
        """The changes behind ``after``; numbers what has none where there are not enough."""
        page = self._page(after, limit)
        if len(page) < limit and self.head() > (page[-1].number if page else after):
            page = self._page(after, limit)
        return page

    def forget(self, before: int) -> None:
        with self._database.writing() as connection:
            connection.execute(
                sa.text(
                    f"WITH gone AS (DELETE FROM {self.numbered} WHERE number < :before "
                    f"AND number >= (SELECT kept FROM {STATE} WHERE collection = :collection)) "
                    f"UPDATE {STATE} SET kept = greatest(kept, :before) "
                    "WHERE collection = :collection"
                ),
                {"before": before, "collection": self._collection},
            )

    # -- its tables ---------------------------------------------------------------------------

    def creation(self) -> list[str]:
        """The statements that make the tables, after ``removal``."""
        collection = Literal(self._collection).as_string()
        return [
            "DO $$ BEGIN "
            f"IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = '{SCHEMA}') THEN "
            f"CREATE SCHEMA {SCHEMA}; COMMENT ON SCHEMA {SCHEMA} IS '{OURS}'; "
            "END IF; END $$",
            f"CREATE TABLE IF NOT EXISTS {STATE} (collection text PRIMARY KEY, "
            "token text NOT NULL, last bigint NOT NULL, kept bigint NOT NULL, "
            "seen pg_snapshot NOT NULL) WITH (fillfactor = 50)",
            f"CREATE TABLE {self.incoming} (id bigint GENERATED ALWAYS AS IDENTITY, "
            "xid xid8 NOT NULL DEFAULT pg_current_xact_id(), deleted boolean NOT NULL, "
            f'key text[] COLLATE "C" NOT NULL) WITH ({_OFTEN})',
            f"CREATE INDEX ON {self.incoming} (xid)",
            # else nothing could be deleted where a publication is FOR ALL TABLES
            f"ALTER TABLE {self.incoming} REPLICA IDENTITY FULL",
            f"CREATE TABLE {self.numbered} (number bigint PRIMARY KEY, deleted boolean NOT NULL, "
            f'tag text NOT NULL, key text[] COLLATE "C" NOT NULL) WITH ({_OFTEN})',
            f"INSERT INTO {STATE} (collection, token, last, kept, seen) "
            f"VALUES ({collection}, CAST(gen_random_uuid() AS text), 0, 0, '1:1:')",
        ]

    def removal(self) -> list[str]:
        """The statements that drop what was recorded; they leave nothing where nothing is left."""
        collection = Literal(self._collection).as_string()
        return [
            f"DROP TABLE IF EXISTS {self.incoming}",
            f"DROP TABLE IF EXISTS {self.numbered}",
            "DO $$ BEGIN "
            f"IF to_regclass('{STATE}') IS NOT NULL THEN "
            f"DELETE FROM {STATE} WHERE collection = {collection}; END IF; END $$",
        ]

    def clearing(self) -> list[str]:
        """The statements that drop what no collection uses any more, after ``removal``."""
        denied = (
            "EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN NULL; "
        )
        return [
            "DO $$ BEGIN "
            f"IF to_regclass('{STATE}') IS NOT NULL AND NOT EXISTS (SELECT FROM {STATE}) "
            f"THEN DROP TABLE {STATE}; END IF; {denied}END $$",
            "DO $$ BEGIN "
            f"IF obj_description(to_regnamespace('{SCHEMA}'), 'pg_namespace') = '{OURS}' "
            f"THEN DROP SCHEMA {SCHEMA}; END IF; {denied}END $$",
        ]

    def grants(self, role: str) -> list[str]:
        """What the role that reads the recording has to be granted."""
        to = f"TO {_identifier(role)}"
        return [
            f"GRANT USAGE ON SCHEMA {SCHEMA} {to}",
            f"GRANT SELECT, UPDATE ON {STATE} {to}",
            f"GRANT SELECT, DELETE ON {self.incoming} {to}",
            f"GRANT SELECT, INSERT, DELETE ON {self.numbered} {to}",
        ]

    # -- within -------------------------------------------------------------------------------

    def _state(self) -> tuple[bool, int]:
        """Whether anything has no number yet, and the last number."""
        state = f"FROM {STATE} WHERE collection = :collection"
        first = f"(SELECT xid FROM {self.incoming} WHERE xid %s ORDER BY xid LIMIT 1) IS NOT NULL"
        rows = self._rows(
            f"SELECT {first % f'>= (SELECT {_BOUND} {state})'} "
            f"OR {first % f'= ANY (ARRAY(SELECT pg_snapshot_xip(seen) {state}))'}, last {state}",
            collection=self._collection,
        )
        if not rows:
            raise self._ended()
        return bool(rows[0][0]), int(rows[0][1])

    def _number(self) -> int:
        """Number what is committed and has no number; returns the last one.

        The lock comes in a statement before: a snapshot that was taken while waiting for it would
        not show what the one before left over, and would be noted as if it did.
        """
        collection = {"collection": self._collection}
        with self._database.writing() as connection:
            connection.exec_driver_sql(_TAKE_TURNS)
            state = connection.execute(
                sa.text(
                    f"SELECT last, CAST({_BOUND} AS text), CAST({_OPEN} AS text) "
                    f"FROM {STATE} WHERE collection = :collection FOR UPDATE"
                ),
                collection,
            ).first()
            if state is None:
                raise self._ended()
            last, bound, still_open = state
            return int(
                connection.execute(
                    sa.text(
                        f"WITH seen AS (DELETE FROM {self.incoming} "
                        "WHERE xid >= CAST(:bound AS xid8) OR xid = ANY (CAST(:open AS xid8[])) "
                        "RETURNING id, deleted, key), "
                        "latest AS (SELECT DISTINCT ON (key) id, deleted, key FROM seen "
                        "ORDER BY key, id DESC), "
                        f"numbered AS (INSERT INTO {self.numbered} (number, deleted, tag, key) "
                        "SELECT CAST(:last AS bigint) + row_number() OVER (ORDER BY id), deleted, "
                        "CAST(gen_random_uuid() AS text), key FROM latest RETURNING 1) "
                        f"UPDATE {STATE} SET seen = pg_current_snapshot(), "
                        "last = last + (SELECT count(*) FROM numbered) "
                        "WHERE collection = :collection RETURNING last"
                    ),
                    {"bound": bound, "open": still_open, "last": last, **collection},
                ).scalar_one()
            )

    def _page(self, after: int, limit: int) -> list[Captured]:
        rows = self._rows(
            f"SELECT number, deleted, tag, key FROM {self.numbered} "
            "WHERE number > :after ORDER BY number LIMIT :limit",
            after=after,
            limit=limit,
        )
        return [
            Captured(number, self._id_of(key), "deleted" if deleted else "changed", tag)
            for number, deleted, tag, key in rows
        ]

    def _ended(self) -> Temporary:
        return Temporary(
            f"the recording of {self._collection!r} was removed meanwhile",
            next_step="run the same command again: it compares source and index",
        )

    def _rows(self, sql: str, **parameters: object) -> Sequence[Sequence[Any]]:
        return self._database.rows(sa.text(sql).bindparams(**parameters))


def _name(table: str) -> str:
    return Identifier(SCHEMA, table).as_string()


def _identifier(name: str) -> str:
    return Identifier(name).as_string()
