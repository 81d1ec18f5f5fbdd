"""What a SQL source reads: the rows of a table or of a query, by key.

Keys and values travel as the driver hands them out: they are compared with their column under its
own type and collation, so that ``ORDER BY`` and ``>`` always agree and no page skips a row.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import ReflectedColumn
from sqlalchemy.exc import NoSuchTableError, SAWarning
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import NullType

from embedmigrate.errors import ConfigError
from embedmigrate.sources.database import Database

if TYPE_CHECKING:
    from embedmigrate.sources.sql import SqlConfig

_NAMES_SHOWN = 50
# Where `(a, b) > (?, ?)` is answered from an index. Elsewhere it is spelled out.
_ROW_VALUES = frozenset({"sqlite", "postgresql"})

Key = Sequence[Any]
Condition = ColumnElement[bool] | sa.TextClause


class Relation:
    """The table or query of a configuration; raises ``ConfigError`` for what does not exist."""

    def __init__(self, database: Database, config: SqlConfig, fields: Sequence[str]) -> None:
        self.database = database
        self.name = config.table or "the query"
        self.table = ""
        """Its name without a schema; empty for a query."""
        self.schema: str | None = None
        """As it was named; None where the database finds the table without."""
        self.keys_a_query = 1000 if database.dialect == "postgresql" else 100
        self._key = config.key
        self._labels: dict[str, frozenset[str]] = {}
        self._unique: list[set[str]] = []
        self._never_null: set[str] = set()
        if config.table is not None:
            self._from, known = self._table(config.table)
        else:
            self._from, known = self._query(config.query or "")
        hint = () if config.updated_at is None else (config.updated_at,)
        self._require({*config.key, *fields, *hint}, known)
        self._where: tuple[Condition, ...] = ()
        if config.where is not None:
            self._where = (sa.text(f"({_raw(config.where)}\n)"),)
            self.database.probe(self._select(config.key), "`where` of the source")

    # -- pages --------------------------------------------------------------------------------

    def page(
        self, fields: Sequence[str], after: Key | None, until: Key | None, limit: int
    ) -> Sequence[sa.Row[Any]]:
        """The first ``limit`` rows with ``after < key <= until``: the key, then ``fields``."""
        bounds: list[Condition] = []
        if after is not None:
            bounds.append(self._beyond(after))
        if until is not None:
            bounds.append(sa.not_(self._beyond(until)))
        columns = self._columns(self._key)
        statement = self._select((*self._key, *fields), *bounds)
        return self.database.rows(statement.order_by(*columns).limit(limit))

    def find(self, fields: Sequence[str], keys: Sequence[Key]) -> Sequence[sa.Row[Any]]:
        """The rows of these keys, as far as there are any: the key, then ``fields``."""
        columns = self._columns(self._key)
        chosen: ColumnElement[bool]
        if len(columns) > 1 and self.database.dialect == "postgresql":
            chosen = sa.tuple_(*columns).in_([tuple(key) for key in keys])
        elif len(columns) == 1:
            values = [key[0] for key in keys]
            chosen = columns[0].in_(
                sa.bindparam(None, values, NullType(), expanding=True, unique=True)
            )
        else:
            chosen = sa.or_(
                *(
                    sa.and_(*(c == _value(v) for c, v in zip(columns, key, strict=True)))
                    for key in keys
                )
            )
        return self.database.rows(self._select((*self._key, *fields), chosen))

    def can_hold(self, key: Key) -> bool:
        """Whether a key of these values could stand here: else it cannot be asked for."""
        if not self.database.can_hold(key):
            return False
        if self._has_labels(key):
            return True
        with self.database.inspect() as inspector:  # the type may have got another one since
            self._labels = _labels(_columns_of(inspector, self.table, self.schema))
        return self._has_labels(key)

    def sample(self) -> Key | None:
        """Any one key without NULL; None when there is no row."""
        not_null = [column.is_not(None) for column in self._columns(self._key)]
        return next(iter(self.database.rows(self._select(self._key, *not_null).limit(1))), None)

    def newer(self, column: str, than: object, limit: int) -> Sequence[sa.Row[Any]]:
        """The first ``limit`` rows whose ``column`` is greater: the key, then the column."""
        newer = self._columns([column])[0]
        statement = self._select((*self._key, column), newer > _value(than))
        return self.database.rows(statement.order_by(newer).limit(limit))

    def equal(self, column: str, to: object, limit: int) -> Sequence[sa.Row[Any]]:
        """The keys of at most ``limit`` rows whose ``column`` has this value."""
        same = self._columns([column])[0] == _value(to)
        return self.database.rows(self._select(self._key, same).limit(limit))

    def greatest(self, column: str) -> Any:
        """The greatest value of a column; None when there is none."""
        greatest = sa.select(sa.func.max(self._columns([column])[0])).select_from(self._from)
        return self.database.rows(greatest.where(*self._where))[0][0]

    # -- counts -------------------------------------------------------------------------------

    def count(self, *conditions: Condition) -> int:
        """How many rows there are."""
        statement = sa.select(sa.func.count()).select_from(self._from)
        rows = self.database.rows(statement.where(*self._where, *conditions))
        return int(rows[0][0])

    def null_keys(self) -> int:
        """How many rows have NULL in a key column."""
        doubtful = [name for name in self._key if name not in self._never_null]
        if not doubtful:
            return 0
        return self.count(sa.or_(*(column.is_(None) for column in self._columns(doubtful))))

    def repeated_keys(self) -> tuple[int, Key | None]:
        """How many keys occur more than once, and one of them; asked only where it may be."""
        if any(columns <= set(self._key) for columns in self._unique):
            return 0, None
        columns = self._columns(self._key)
        groups = self._select(self._key).group_by(*columns).having(sa.func.count() > 1)
        example = next(iter(self.database.rows(groups.limit(1))), None)
        if example is None:
            return 0, None
        total = sa.select(sa.func.count()).select_from(groups.subquery("repeated"))
        return int(self.database.rows(total)[0][0]), example

    # -- within -------------------------------------------------------------------------------

    def _table(self, name: str) -> tuple[sa.FromClause, list[str]]:
        with self.database.inspect() as inspector:
            for schema, table in _readings(name):
                try:
                    columns = _columns_of(inspector, table, schema)
                except NoSuchTableError:
                    continue
                self.table, self.schema = table, schema
                self._labels = _labels(columns)
                self._never_null = {c["name"] for c in columns if not c["nullable"]}
                self._unique = list(_unique_sets(inspector, table, schema))
                known = [column["name"] for column in columns]
                clause = sa.table(table, *(sa.column(c) for c in known), schema=schema)
                return clause, known
            tables = [*inspector.get_table_names(), *inspector.get_view_names()]
        raise ConfigError(
            f"the source database {self.database.name} has no table {name!r}",
            found=", ".join(sorted(tables)[:_NAMES_SHOWN]) or "no tables",
            expected="a table or view, with its schema where that is not the default one",
            next_step="correct `table` of the source in the configuration",
        )

    def _query(self, query: str) -> tuple[sa.FromClause, list[str]]:
        # the line end closes a comment that the query may end with
        raw = _raw(query.strip().rstrip(";")) + "\n"
        everything: sa.Select[Any] = sa.select(sa.literal_column("*")).select_from(
            sa.text(f"({raw}) AS source")
        )
        known = self.database.probe(everything, "`query` of the source")
        return sa.text(raw).columns(*(sa.column(name) for name in known)).subquery("source"), known

    def _require(self, wanted: set[str], known: Sequence[str]) -> None:
        if unknown := wanted.difference(known):
            raise ConfigError(
                f"{self.name} of {self.database.name} has no column(s) "
                + ", ".join(map(repr, sorted(unknown))),
                found=", ".join(map(repr, known[:_NAMES_SHOWN])),
                expected="every column that the configuration and the recipe name",
                next_step="correct the column names, or select them in the query",
            )

    def _has_labels(self, key: Key) -> bool:
        """Whether the values for columns of an enumeration are labels of it."""
        values = zip(self._key, key, strict=True)
        return all(value in self._labels.get(column, {value}) for column, value in values)

    def _columns(self, names: Sequence[str]) -> list[ColumnElement[Any]]:
        return [self._from.c[name] for name in names]

    def _select(self, names: Sequence[str], *conditions: Condition) -> sa.Select[Any]:
        return sa.select(*self._columns(names)).where(*self._where, *conditions)

    def _beyond(self, key: Key) -> ColumnElement[bool]:
        """The condition that a row comes after ``key`` in the order of the key columns."""
        columns, values = self._columns(self._key), [_value(value) for value in key]
        if len(columns) > 1 and self.database.dialect in _ROW_VALUES:
            return sa.tuple_(*columns) > sa.tuple_(*values)
        return sa.or_(
            *(
                sa.and_(
                    *(columns[j] == values[j] for j in range(i)),
                    columns[i] > values[i],
                )
                for i in range(len(columns))
            )
        )


def _value(value: object) -> ColumnElement[Any]:
    # without a type of its own a value takes that of its column; a VARCHAR would turn the
    # comparison of a column of another text type into one under other rules
    return sa.literal(value, NullType())


def _raw(sql: str) -> str:
    """SQL of the configuration's owner as it stands: no colon in it is a parameter."""
    return sql.replace(":", r"\:")


def _readings(name: str) -> Iterator[tuple[str | None, str]]:
    """(schema, table): a dot may be part of a name, else it ends the schema."""
    yield None, name
    for place in reversed([at for at, character in enumerate(name) if character == "."]):
        if 0 < place < len(name) - 1:
            yield name[:place], name[place + 1 :]


def _columns_of(
    inspector: sa.Inspector, table: str, schema: str | None
) -> Sequence[ReflectedColumn]:
    with warnings.catch_warnings():
        # a column of a type that SQLAlchemy does not know is read like any other
        warnings.filterwarnings("ignore", "Did not recognize", SAWarning)
        return inspector.get_columns(table, schema)


def _labels(columns: Sequence[ReflectedColumn]) -> dict[str, frozenset[str]]:
    """The labels of the columns that are enumerations."""
    return {
        column["name"]: frozenset(column["type"].enums)
        for column in columns
        if isinstance(column["type"], sa.Enum)
    }


def _unique_sets(inspector: sa.Inspector, table: str, schema: str | None) -> Iterator[set[str]]:
    """The sets of columns that are unique together, as far as the database tells."""
    try:
        if primary := inspector.get_pk_constraint(table, schema)["constrained_columns"]:
            yield set(primary)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Skipped unsupported reflection", SAWarning)
            constraints = inspector.get_unique_constraints(table, schema)
        for constraint in constraints:
            yield {name for name in constraint["column_names"] if name is not None}
    except (NotImplementedError, NoSuchTableError):
        return
