"""Capture: triggers by which an SQLite source records its own changes.

A change is recorded in the transaction that makes it, as the key of a row and no more. SQLite has
one writer at a time, so that the numbers of the recording are in the order of the commits and a
reader never meets one late. The triggers belong to the collection: they outlive every run.

``REPLACE`` deletes the rows that are in its way without firing delete triggers; before each insert
and update the rows that share a unique value with it are therefore recorded as well: what is the
same there is for the collation of the unique index to say. Two ids are the same only byte by byte.
To record too much does no harm, because every document is read again before anything is done about
it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from embedmigrate.errors import ConfigError
from embedmigrate.sources.base import Captured
from embedmigrate.sources.database import Database
from embedmigrate.sources.keys import KeyCodec
from embedmigrate.sources.values import UnusableId

ABOUT = "embedmigrate_capture"
"""The table that says which recordings there are."""


RECORDED = frozenset({"sqlite", "postgresql"})
"""The dialects of databases that can record their changes."""
_TAG = "lower(hex(randomblob(8)))"
_TRIGGERS = ("inserted", "updated", "deleted", "before_insert", "before_update")


class Statement(NamedTuple):
    """One statement of DDL, and the object that it makes: a table and a trigger may share a name,
    as those of two collections do."""

    kind: str
    name: str
    sql: str


class Unique(NamedTuple):
    """A column of a unique index, and how it is compared; None: as the column itself is."""

    column: str
    collation: str | None


class SqliteCapture:
    """The recording of one table for one collection."""

    def __init__(self, database: Database, collection: str, table: str, key: Sequence[str]) -> None:
        self._database, self._table, self._key = database, table, tuple(key)
        self._collection = collection
        self._name = f"{ABOUT}_{collection}"
        self._quote = database.engine.dialect.identifier_preparer.quote
        self._codec: KeyCodec | None = None

    # -- the protocol -------------------------------------------------------------------------

    def token(self) -> str | None:
        tokens = [token for collection, token in self._tokens() if collection == self._collection]
        if not tokens or not self._is_whole():
            return None
        return tokens[0]

    def head(self) -> int:
        rows = self._rows("SELECT seq FROM sqlite_sequence WHERE name = :name", name=self._name)
        return int(rows[0][0]) if rows else 0

    def read(self, after: int, limit: int) -> list[Captured]:
        keys = ", ".join(f"key_{number}" for number in range(len(self._key)))
        rows = self._rows(
            f"SELECT number, change, tag, {keys} FROM {self._quote(self._name)} "
            "WHERE number > :after ORDER BY number LIMIT :limit",
            after=after,
            limit=limit,
        )
        return [Captured(row[0], self._id(row[3:]), row[1], row[2]) for row in rows]

    def forget(self, before: int) -> None:
        self._change([(f"DELETE FROM {self._quote(self._name)} WHERE number < :before", before)])

    # -- putting it there, and away -----------------------------------------------------------

    def ddl(self) -> list[str]:
        """The statements that start a recording, for whoever may change the table."""
        return [*self.removal(), *(it.sql for it in self._objects()), self._new_token()]

    def is_there(self) -> bool:
        named = any(name == self._collection for name, _ in self._tokens())
        return named or bool(self._definitions())

    def install(self) -> bool:
        """Start recording; False when it is being recorded already, which is then left alone."""
        if self.token() is not None:
            return False
        self._change([(sql, None) for sql in self.ddl()])
        return True

    def remove(self) -> bool:
        """End the recording and drop what it holds; False when there was none."""
        if not self.is_there():
            return False
        self._change([(sql, None) for sql in self.removal()])
        return True

    def unseen(self) -> list[str]:
        """Unique indexes over expressions: a REPLACE that they make deletes without a record."""
        return [name for name, columns in self._unique() if columns is None]

    def _same(self, row: str, columns: Sequence[Unique]) -> str:
        """The condition that ``row`` and the new one are the same to a unique index."""
        terms = []
        for name, collation in columns:
            collate = "" if collation in (None, "BINARY") else f" COLLATE {self._quote(collation)}"
            terms.append(f"{row}.{self._quote(name)}{collate} = NEW.{self._quote(name)}")
        return " AND ".join(terms)

    # -- within -------------------------------------------------------------------------------

    def _objects(self) -> Iterator[Statement]:
        """The table of the recording, and the triggers that fill it."""
        recording, table = self._quote(self._name), self._quote(self._table)
        keys = [f"key_{number}" for number in range(len(self._key))]
        yield Statement(
            "table",
            self._name,
            f"CREATE TABLE {recording} (number INTEGER PRIMARY KEY AUTOINCREMENT, "
            f"change TEXT NOT NULL, tag TEXT NOT NULL, {', '.join(keys)})",
        )
        insert = f"INSERT INTO {recording} (change, tag, {', '.join(keys)})"

        def record(change: str, row: str, condition: str = "") -> str:
            values = ", ".join(f"{row}.{self._quote(column)}" for column in self._key)
            return f"{insert} SELECT '{change}', {_TAG}, {values}{condition};"

        def trigger(name: str, when: str, *actions: str) -> Statement:
            full = f"{self._name}_{name}"
            return Statement(
                "trigger",
                full,
                f"CREATE TRIGGER {self._quote(full)} {when} ON {table} FOR EACH ROW "
                f"BEGIN {' '.join(actions)} END",
            )

        moved = " OR ".join(
            f"OLD.{self._quote(column)} IS NOT NEW.{self._quote(column)} COLLATE BINARY"
            for column in self._key
        )
        gone = record("deleted", "OLD", f" WHERE {moved}")
        yield trigger("inserted", "AFTER INSERT", record("changed", "NEW"))
        yield trigger("updated", "AFTER UPDATE", gone, record("changed", "NEW"))
        yield trigger("deleted", "AFTER DELETE", record("deleted", "OLD"))
        itself = " AND ".join(
            f"there.{self._quote(column)} IS NEW.{self._quote(column)} COLLATE BINARY"
            for column in self._key
        )
        in_the_way = [
            record("deleted", "there", f" FROM {table} AS there WHERE {same} AND NOT ({itself})")
            for same in dict.fromkeys(
                self._same("there", columns)
                for _, columns in self._unique()
                if columns and not self._is_key(columns)
            )
        ]
        if in_the_way:
            yield trigger("before_insert", "BEFORE INSERT", *in_the_way)
            yield trigger("before_update", "BEFORE UPDATE", *in_the_way)

    def removal(self) -> list[str]:
        """The statements that end it, and leave nothing but the list of recordings."""
        recorded = self._quote(self._name)
        triggers = [
            f"DROP TRIGGER IF EXISTS {self._quote(f'{self._name}_{name}')}" for name in _TRIGGERS
        ]
        return [
            *triggers,
            f"DROP TABLE IF EXISTS {recorded}",
            f"CREATE TABLE IF NOT EXISTS {ABOUT} "
            "(collection TEXT PRIMARY KEY, token TEXT NOT NULL)",
            f"DELETE FROM {ABOUT} WHERE collection = '{self._collection}'",
        ]

    def _new_token(self) -> str:
        return (
            f"INSERT INTO {ABOUT} (collection, token) "
            f"VALUES ('{self._collection}', lower(hex(randomblob(16))))"
        )

    def _is_key(self, columns: Sequence[Unique]) -> bool:
        """Whether a row that shares these with another one has its id, too."""
        alike = all(it.collation in (None, "BINARY") for it in columns)
        return alike and {it.column for it in columns} == set(self._key)

    def _is_whole(self) -> bool:
        """Whether everything is there as it would be made today."""
        there = self._definitions()
        return all(there.get((it.kind, it.name)) == it.sql for it in self._objects())

    def _definitions(self) -> dict[tuple[str, str], str]:
        """What is there of it, by kind and name."""
        ours = {("table", self._name), *(("trigger", f"{self._name}_{it}") for it in _TRIGGERS)}
        rows = self._rows("SELECT type, name, sql FROM sqlite_master")
        return {(row[0], row[1]): str(row[2]) for row in rows if (row[0], row[1]) in ours}

    def _tokens(self) -> list[tuple[str, str]]:
        exists = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = :name"
        if not self._rows(exists, name=ABOUT):
            return []
        return [(str(row[0]), str(row[1])) for row in self._rows(f"SELECT * FROM {ABOUT}")]

    def _unique(self) -> list[tuple[str, list[Unique] | None]]:
        """The unique indexes of the table: their columns, None where these are expressions."""
        table = self._table
        keys = self._rows("SELECT name FROM pragma_table_info(:table) WHERE pk > 0", table=table)
        found: dict[str, list[Unique] | None] = {
            "the primary key": [Unique(str(row[0]), None) for row in keys]
        }
        columns = self._rows(
            "SELECT list.name, info.name, info.coll FROM pragma_index_list(:table) AS list, "
            'pragma_index_xinfo(list.name) AS info WHERE list."unique" = 1 AND info."key" = 1',
            table=table,
        )
        for index, column, collation in columns:
            known = found.setdefault(str(index), [])
            if column is None:
                found[str(index)] = None
            elif known is not None:
                known.append(Unique(str(column), str(collation)))
        return list(found.items())

    def _id(self, key: Sequence[Any]) -> str:
        if self._codec is None:
            self._codec = KeyCodec.of(key)
        try:
            return self._codec.encode(key)
        except UnusableId as error:
            raise error.at(f"the recorded changes of {self._table}") from None

    def _rows(self, sql: str, **parameters: Any) -> Sequence[Sequence[Any]]:
        return self._database.rows(sa.text(sql).bindparams(**parameters))

    def _change(self, statements: Sequence[tuple[str, int | None]]) -> None:
        """Run statements in one transaction of a connection that may write."""
        with self._database.writing() as connection:
            for sql, before in statements:
                if before is None:
                    connection.exec_driver_sql(sql)
                else:
                    connection.execute(sa.text(sql), {"before": before})


def require_table(table: str | None, dialect: str) -> None:
    """``ConfigError`` for a source that no trigger can be put on."""
    if dialect not in RECORDED:
        raise ConfigError(
            "changes are captured by triggers on SQLite and PostgreSQL alone",
            found=f"a source in {dialect}",
            expected="a source in one of these, or an application that says what it changes",
            next_step='changes = "application" in the collection, and Collection.changed(ids)',
        )
    if table is None:
        raise ConfigError(
            "triggers cannot be put on a query",
            found="`query` in the source",
            expected="`table`, with `where` if need be",
            next_step='configure `table`; or changes = "application", and Collection.changed(ids)',
        )
