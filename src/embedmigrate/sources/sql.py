"""SQL: a table or a query of any database that SQLAlchemy speaks to, read by key.

Pages are cut by key, never by OFFSET, and each page is a read-only transaction of its own: the
source can be written while it is read, and no transaction stays open on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from embedmigrate.context import AdapterContext
from embedmigrate.errors import ConfigError, DuplicateId
from embedmigrate.examining import Observation
from embedmigrate.models import Recipe
from embedmigrate.sources.base import (
    ChangedSince,
    Document,
    DocumentState,
    KeyRange,
    Recording,
    SourceConfig,
    cannot_stand_still,
)
from embedmigrate.sources.keys import KeyCodec, cut
from embedmigrate.sources.values import DocumentMaker, UnusableRecord

if TYPE_CHECKING:
    from embedmigrate.sources.relation import Relation

_KEYS_A_PAGE = 4096
_PAGE_CHARACTERS = 4_000_000
_ROWS_THAT_TELL = 100
_PAGES_A_RANGE = 16
"""A range is a batch, which its reader keeps as a whole: what it may hold is read at once."""
_KEYS_A_HINT = 100_000


class SqlConfig(SourceConfig):
    """``{ kind = "sql", url, table | query, key, text, metadata, updated_at, where }``.

    ``key`` is one column or a list; ``query`` and ``where`` are SQL, used as they stand.
    """

    kind: Literal["sql"]
    url: SecretStr
    table: str | None = Field(default=None, min_length=1)
    query: str | None = Field(default=None, min_length=1)
    key: tuple[str, ...] = Field(min_length=1)
    text: tuple[str, ...] = Field(min_length=1)
    updated_at: str | None = None
    where: str | None = Field(default=None, min_length=1)

    @field_validator("key", mode="before")
    @classmethod
    def _one_column_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _table_or_query(self) -> Self:
        if (self.table is None) == (self.query is None):
            raise ValueError("give exactly one of `table` and `query`")
        if len(set(self.key)) != len(self.key):
            raise ValueError("`key` names a column twice")
        return self


class SqlSource:
    """The rows of a table or query, in the order that the database gives to the key."""

    Config: ClassVar[type[SourceConfig]] = SqlConfig
    bytewise = False

    def __init__(self, config: SqlConfig, recipe: Recipe, context: AdapterContext) -> None:
        from embedmigrate.sources.database import Database

        self._config = config
        self._maker = DocumentMaker(recipe, config.metadata)
        self._fields = (*recipe.text, *config.metadata)
        self._database = Database(config.url.get_secret_value(), context.root)
        self._opened: Relation | None = None
        self._codec: KeyCodec | None = None
        self._recording: Recording | None = None
        self._collection = context.collection
        self._page_rows = 100

    # -- the protocol -------------------------------------------------------------------------

    @property
    def capture(self) -> Recording | None:
        from embedmigrate.sources.capture import RECORDED

        if self._config.table is None or self._database.dialect not in RECORDED:
            return None
        return self.recording()

    def recording(self) -> Recording:
        """The triggers of this table, there or not; ``ConfigError`` where none can be."""
        if self._recording is None:
            self._recording = self._make_recording()
        return self._recording

    def _make_recording(self) -> Recording:
        from embedmigrate.sources.capture import SqliteCapture, require_table

        database, key = self._database, self._config.key
        require_table(self._config.table, database.dialect)
        table = self._relation.table
        if database.dialect == "sqlite":
            return SqliteCapture(database, self._collection, table, key)
        from embedmigrate.sources.postgres_capture import PostgresCapture

        return PostgresCapture(database, self._collection, self._relation.schema, table, key)

    def examine(self) -> Iterator[Observation]:
        from embedmigrate.sources.examining import examine

        table = None
        if self._config.table is not None:
            table = (self._relation.schema, self._relation.table)
        return examine(self._database, self._collection, table, self.capture)

    @property
    def changed_since(self) -> ChangedSince | None:
        return None if self._config.updated_at is None else self._changed_since

    def standstill(self) -> AbstractContextManager[None]:
        from embedmigrate.sources.standstill import standstill

        if self._config.table is None or self._database.dialect != "postgresql":
            raise cannot_stand_still(
                f"a {'query' if self._config.query else 'table'} in {self._database.dialect}"
            )
        return standstill(self._database, self._relation.schema, self._relation.table)

    def prepare(self) -> int:
        self._opened = self._codec = None
        relation = self._relation
        if rows := relation.null_keys():
            raise DuplicateId(
                f"{relation.name} holds {rows} row(s) without a key",
                found=f"NULL in {self._key_name}",
                expected="a key in every row",
                next_step="leave them out with `where`, or choose another `key`",
            )
        keys, example = relation.repeated_keys()
        if example is not None:
            raise DuplicateId(
                f"{relation.name} holds {keys} key(s) more than once",
                found=f"for example {self._id(example)!r} in {self._key_name}",
                expected="every key once",
                next_step="choose another `key`, or correct the query",
            )
        self._find_codec()
        return relation.count()

    def partition(self, size: int) -> Iterator[KeyRange]:
        return cut(map(self._id, self._keys()), size)

    def scan(self, after: str | None = None, until: str | None = None) -> Iterator[Document]:
        codec = self._find_codec()
        if codec is None:
            return
        last, end = (None if id is None else self._bound(codec, id) for id in (after, until))
        while True:
            limit = self._page_rows
            if end is not None:
                limit = min(_KEYS_A_PAGE, _PAGES_A_RANGE * limit)
            rows = self._relation.page(self._fields, last, end, limit)
            documents = [self._document(row) for row in rows]
            yield from documents
            if len(rows) >= min(limit, _ROWS_THAT_TELL):
                # rows of a megabyte come a few at a time, small ones by the thousand
                size = sum(len(document.text) for document in documents)
                page = _PAGE_CHARACTERS * len(rows) // (size + 1)
                self._page_rows = max(1, min(_KEYS_A_PAGE, page))
            if len(rows) < limit:
                return
            last = self._key(rows[-1])

    def get(self, ids: Sequence[str]) -> dict[str, Document]:
        wanted = set(ids)
        codec = self._find_codec()
        if codec is None:
            return {}
        keys = [key for key in map(codec.decode, wanted) if key and self._relation.can_hold(key)]
        found, size = {}, self._relation.keys_a_query
        for start in range(0, len(keys), size):
            rows = self._relation.find(self._fields, keys[start : start + size])
            for document in map(self._document, rows):
                # a collation may find "A" for "a", which is another id
                if document.id in wanted:
                    found[document.id] = document
        return found

    def states(self) -> Iterator[DocumentState]:
        for document in self.scan():
            yield document.state

    def close(self) -> None:
        self._database.close()

    def _changed_since(self, watermark: Any) -> tuple[list[str], Any]:
        column, relation = self._config.updated_at, self._relation
        assert column is not None
        if watermark is None:
            greatest = relation.greatest(column)
            return [], None if greatest is None else _stored(greatest)
        last = _loaded(watermark)
        rows = relation.newer(column, last, _KEYS_A_HINT)
        if not rows:
            return [], watermark
        # one that was committed late may bear the time that was the greatest before
        same = relation.equal(column, last, _KEYS_A_PAGE)
        if len(rows) == _KEYS_A_HINT and rows[0][-1] != rows[-1][-1]:
            rows = [row for row in rows if row[-1] != rows[-1][-1]]  # the rest comes next time
        return [self._id(self._key(row)) for row in (*same, *rows)], _stored(rows[-1][-1])

    # -- within -------------------------------------------------------------------------------

    @property
    def _relation(self) -> Relation:
        if self._opened is None:
            from embedmigrate.sources.relation import Relation

            self._opened = Relation(self._database, self._config, self._maker.fields)
        return self._opened

    @property
    def _key_name(self) -> str:
        return ", ".join(map(repr, self._config.key))

    def _keys(self) -> Iterator[tuple[Any, ...]]:
        """Every key, in order."""
        last = None
        while True:
            rows = self._relation.page((), last, None, _KEYS_A_PAGE)
            yield from map(self._key, rows)
            if len(rows) < _KEYS_A_PAGE:
                return
            last = self._key(rows[-1])

    def _key(self, row: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(row[: len(self._config.key)])

    def _id(self, key: Sequence[Any]) -> str:
        try:
            return self._codec_of(key).encode(key)
        except UnusableRecord as error:
            raise error.at(f"{self._key_name} of {self._relation.name}") from None

    def _find_codec(self) -> KeyCodec | None:
        """How ids are read as keys; None while there is no row to learn it from."""
        if self._codec is None and (key := self._relation.sample()) is not None:
            self._id(key)
        return self._codec

    def _codec_of(self, key: Sequence[Any]) -> KeyCodec:
        if self._codec is None:
            self._codec = KeyCodec.of(key)
        return self._codec

    def _bound(self, codec: KeyCodec, id: str) -> tuple[Any, ...]:
        key = codec.decode(id)
        if key is None:
            raise ConfigError(
                f"the id {id!r} is no key of {self._relation.name}",
                expected=f"a key of type {', '.join(kind.__name__ for kind in codec.kinds)}",
                next_step="if `key` was changed, build a new index: the ids are other ones",
            )
        return key

    def _document(self, row: Sequence[Any]) -> Document:
        id = self._id(self._key(row))
        values = row[len(self._config.key) :]
        cut = len(self._maker.text)
        try:
            return self._maker.make(id, values[:cut], values[cut:])
        except UnusableRecord as error:
            raise error.at(f"{self._relation.name}, key {id!r}") from None


def _stored(value: Any) -> Any:
    """A value of the ``updated_at`` column as JSON that ``_loaded`` turns back."""
    if isinstance(value, datetime):
        return {"datetime": value.isoformat()}
    if isinstance(value, str | int | float):
        return value
    raise ConfigError(
        "the `updated_at` column of the source cannot be used",
        found=f"values of type {type(value).__name__}",
        expected="times, text or numbers that only grow",
        next_step="name another column, or leave `updated_at` out",
    )


def _loaded(watermark: Any) -> Any:
    return (
        datetime.fromisoformat(watermark["datetime"]) if isinstance(watermark, dict) else watermark
    )
