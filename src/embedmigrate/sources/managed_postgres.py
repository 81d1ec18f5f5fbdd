"""The documents that embedmigrate owns, in a PostgreSQL database.

One table a collection in the schema of ours, and the recording that capture uses. Writers insert a
document and the record of it in one transaction, in the order of the ids: two that write the same
documents wait for each other and never for a deadlock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from psycopg.sql import Identifier

from embedmigrate.errors import ConfigError, Refused
from embedmigrate.postgres import SCHEMA
from embedmigrate.sources.base import Captured
from embedmigrate.sources.database import Database
from embedmigrate.sources.postgres_log import PostgresLog

_PAGE = 1000
_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtext('embedmigrate capture'))"
_RIGHTS = {
    "expected": "the right to create tables in the schema embedmigrate, and to write to them",
    "next_step": "grant the role of `url` CREATE on the database, then do the same again",
}


class PostgresDocuments:
    """The documents of one collection, and the recording of their changes."""

    def __init__(self, url: str, root: Path, collection: str) -> None:
        """Connects when it is used first, and makes the tables where there are none."""
        self._database = Database(url, root)
        if self._database.dialect != "postgresql":
            raise ConfigError(
                "`url` of the managed source is not one of a PostgreSQL database",
                found=self._database.dialect,
                expected="postgresql://user@host/database",
                next_step="correct `url`, or name an SQLite file by `path`",
            )
        self._table = Identifier(SCHEMA, f"documents_{collection}").as_string()
        self._log = PostgresLog(self._database, collection, lambda key: key[0])
        self._token: str | None = None

    @property
    def place(self) -> str:
        return self._database.name

    # -- writing --------------------------------------------------------------------------

    def write(self, rows: Mapping[str, str]) -> None:
        ids = sorted(rows)
        if any("\0" in id for id in ids):
            raise Refused(
                "an id cannot be stored in PostgreSQL",
                found="the character U+0000",
                expected="ids without it",
                next_step="choose other ids",
            )
        self._ready()
        with self._database.writing(**_RIGHTS) as connection:
            connection.execute(
                sa.text(
                    f"INSERT INTO {self._table} (id, fields) "
                    "SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:fields AS text[])) "
                    "ON CONFLICT (id) DO UPDATE SET fields = excluded.fields"
                ),
                {"ids": ids, "fields": [rows[id] for id in ids]},
            )
            self._record(connection, ids, deleted=False)

    def delete(self, ids: Sequence[str]) -> int:
        self._ready()
        with self._database.writing(**_RIGHTS) as connection:
            gone = connection.execute(
                sa.text(
                    f"WITH there AS (SELECT id FROM {self._table} "
                    "WHERE id = ANY (CAST(:ids AS text[])) ORDER BY id FOR UPDATE) "
                    f"DELETE FROM {self._table} AS d USING there WHERE d.id = there.id "
                    "RETURNING d.id"
                ),
                {"ids": [id for id in ids if "\0" not in id]},
            ).scalars()
            deleted = sorted(gone)
            self._record(connection, deleted, deleted=True)
        return len(deleted)

    # -- reading --------------------------------------------------------------------------

    def count(self) -> int:
        return int(self._rows(f"SELECT count(*) FROM {self._table}")[0][0])

    def ids(self) -> Iterator[str]:
        return (row[0] for row in self._pages("id", None, None))

    def scan(self, after: str | None, until: str | None) -> Iterator[tuple[str, str]]:
        yield from self._pages("id, fields", after, until)

    def find(self, ids: Sequence[str]) -> Iterator[tuple[str, str]]:
        for start in range(0, len(ids), _PAGE):
            page = [id for id in ids[start : start + _PAGE] if "\0" not in id]
            sql = f"SELECT id, fields FROM {self._table} WHERE id = ANY (CAST(:ids AS text[]))"
            for row in self._rows(sql, ids=page):
                yield row[0], row[1]

    # -- its recording --------------------------------------------------------------------

    def token(self) -> str | None:
        self._ready()
        return self._log.token()

    def head(self) -> int:
        self._ready()
        return self._log.head()

    def read(self, after: int, limit: int) -> list[Captured]:
        self._ready()
        return self._log.read(after, limit)

    def forget(self, before: int) -> None:
        self._log.forget(before)

    def close(self) -> None:
        self._database.close()

    # -- within ---------------------------------------------------------------------------

    def _ready(self) -> None:
        """Make the tables, once, where there are none."""
        if self._token is None:
            self._token = self._log.token()
        if self._token is not None:
            return
        with self._database.writing(**_RIGHTS) as connection:
            connection.exec_driver_sql(_ONE_AT_A_TIME)
            encoding, there = connection.execute(
                sa.text("SELECT current_setting('server_encoding'), to_regclass(:table)"),
                {"table": self._table},
            ).one()
            if encoding != "UTF8":
                raise Refused(
                    f"{self.place} cannot hold every document",
                    found=f"the encoding {encoding}",
                    expected="UTF8",
                    next_step="name a database in UTF8 by `url`, or an SQLite file by `path`",
                )
            if there is None:
                for statement in self._log.creation():
                    connection.exec_driver_sql(statement)
                connection.exec_driver_sql(
                    f'CREATE TABLE {self._table} (id text COLLATE "C" PRIMARY KEY, '
                    "fields text NOT NULL)"
                )
        self._token = self._log.token()

    def _record(self, connection: sa.Connection, ids: Sequence[str], *, deleted: bool) -> None:
        connection.execute(
            sa.text(
                f"INSERT INTO {self._log.incoming} (deleted, key) "
                "SELECT :deleted, ARRAY[id] FROM unnest(CAST(:ids AS text[])) AS id"
            ),
            {"ids": list(ids), "deleted": deleted},
        )

    def _pages(self, columns: str, after: str | None, until: str | None) -> Iterator[Any]:
        """Rows in order of id, a page at a time: no transaction stays open in between."""
        last = after
        while True:
            bounds = {"last": last, "until": until}
            given = {name: value for name, value in bounds.items() if value is not None}
            conditions = {"last": "id > :last", "until": "id <= :until"}
            where = " AND ".join(["true", *(conditions[name] for name in given)])
            rows = self._rows(
                f"SELECT {columns} FROM {self._table} WHERE {where} ORDER BY id LIMIT {_PAGE}",
                **given,
            )
            yield from rows
            if len(rows) < _PAGE:
                return
            last = rows[-1][0]

    def _rows(self, sql: str, **parameters: object) -> Sequence[Sequence[Any]]:
        self._ready()
        return self._database.rows(sa.text(sql).bindparams(**parameters))
