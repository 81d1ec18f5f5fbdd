"""Managed: a table of documents that embedmigrate itself owns, for applications without one.

In an SQLite file, or in a PostgreSQL database. Each write commits the documents and the record of
the change in one transaction, so that no change is ever missed and none has to be looked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, Self

from pydantic import Field, SecretStr, model_validator

from embedmigrate.context import AdapterContext
from embedmigrate.errors import UsageError
from embedmigrate.models import Recipe
from embedmigrate.sources.base import (
    Capture,
    Captured,
    ChangedSince,
    Document,
    DocumentState,
    KeyRange,
    SourceConfig,
)
from embedmigrate.sources.keys import cut
from embedmigrate.sources.values import DocumentMaker, UnusableRecord, json_value, make_id


class ManagedConfig(SourceConfig):
    """``{ kind = "managed", path | url, id, text, metadata }``.

    ``path`` is an SQLite file, ``url`` a PostgreSQL database in its place; ``id`` is the field of a
    document that holds its id.
    """

    kind: Literal["managed"]
    path: str = Field(default="documents.db", min_length=1)
    url: SecretStr | None = None
    id: str = Field(default="id", min_length=1)
    text: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _path_or_url(self) -> Self:
        if self.url is not None and "path" in self.model_fields_set:
            raise ValueError("give either `path` or `url`")
        return self


class Documents(Capture, Protocol):
    """Where the documents are: id and JSON of each, and the recording of their changes.

    Ids are in the order of their UTF-8 bytes.
    """

    @property
    def place(self) -> str:
        """What messages call it."""

    def write(self, rows: Mapping[str, str]) -> None:
        """Add or replace documents, and record that, in one transaction."""

    def delete(self, ids: Sequence[str]) -> int:
        """Delete the documents of distinct ids, and record that; returns how many were there."""

    def count(self) -> int:
        """How many documents there are."""

    def ids(self) -> Iterator[str]:
        """Every id, in order."""

    def scan(self, after: str | None, until: str | None) -> Iterator[tuple[str, str]]:
        """The documents of a range, in order."""

    def find(self, ids: Sequence[str]) -> Iterator[tuple[str, str]]:
        """The documents of these ids, as far as there are any."""

    def close(self) -> None:
        """Release connections. Idempotent."""


class ManagedSource:
    """The documents of one collection, and the recording of their changes."""

    Config: ClassVar[type[SourceConfig]] = ManagedConfig
    bytewise = True

    def __init__(self, config: ManagedConfig, recipe: Recipe, context: AdapterContext) -> None:
        self._config, self._collection = config, context.collection
        self._maker = DocumentMaker(recipe, config.metadata)
        self._documents: Documents
        if config.url is not None:
            from embedmigrate.sources.managed_postgres import PostgresDocuments

            url = config.url.get_secret_value()
            self._documents = PostgresDocuments(url, context.root, context.collection)
        else:
            from embedmigrate.sources.managed_sqlite import SqliteDocuments

            self._documents = SqliteDocuments(context.root / config.path, context.collection)

    # -- writing --------------------------------------------------------------------------

    def upsert(self, documents: Sequence[Mapping[str, Any]]) -> int:
        """Add or replace whole documents, all or none; returns how many.

        A document is a mapping of JSON values with its id and whatever else it has; the recipe and
        ``metadata`` choose among its fields. ``Refused`` names the first one that cannot be used.
        """
        rows = dict(self._row(number, it) for number, it in enumerate(documents, start=1))
        self._documents.write(rows)
        return len(rows)

    def delete(self, ids: Sequence[str]) -> int:
        """Delete documents; returns how many of them were there."""
        if isinstance(ids, str):
            raise UsageError("delete takes a list of ids", next_step="delete([id])")
        try:
            wanted = dict.fromkeys(map(make_id, ids))
        except UnusableRecord as error:
            raise error.at(f"an id for {self._collection}") from None
        return self._documents.delete(list(wanted))

    # -- the source -----------------------------------------------------------------------

    @property
    def capture(self) -> ManagedSource:
        return self

    @property
    def changed_since(self) -> ChangedSince | None:
        return None

    def prepare(self) -> int:
        return self._documents.count()

    def partition(self, size: int) -> Iterator[KeyRange]:
        return cut(self._documents.ids(), size)

    def scan(self, after: str | None = None, until: str | None = None) -> Iterator[Document]:
        for id, fields in self._documents.scan(after, until):
            yield self._document(id, fields)

    def get(self, ids: Sequence[str]) -> dict[str, Document]:
        possible = [id for id in ids if _can_be_one(id)]
        return {id: self._document(id, fields) for id, fields in self._documents.find(possible)}

    def states(self) -> Iterator[DocumentState]:
        for document in self.scan():
            yield document.state

    # -- its recording --------------------------------------------------------------------

    def token(self) -> str | None:
        return self._documents.token()

    def head(self) -> int:
        return self._documents.head()

    def read(self, after: int, limit: int) -> list[Captured]:
        return self._documents.read(after, limit)

    def forget(self, before: int) -> None:
        self._documents.forget(before)

    def close(self) -> None:
        self._documents.close()

    # -- within ---------------------------------------------------------------------------

    def _row(self, number: int, document: Mapping[str, Any]) -> tuple[str, str]:
        place = f"document {number} for {self._collection}"
        try:
            if not isinstance(document, Mapping):
                raise UnusableRecord(
                    "is not a mapping", found=type(document).__name__, expected="field -> value"
                )
            fields = json_value(document)
            id = make_id(document.get(self._config.id))
        except UnusableRecord as error:
            raise error.at(place) from None
        self._make(place, id, fields)  # whoever reads it must be able to use it
        return id, json.dumps(fields, ensure_ascii=False)

    def _document(self, id: str, fields: str) -> Document:
        return self._make(f"document {id!r} in {self._documents.place}", id, json.loads(fields))

    def _make(self, place: str, id: str, fields: Mapping[str, Any]) -> Document:
        maker = self._maker
        try:
            return maker.make(
                id,
                [fields.get(name) for name in maker.text],
                [fields.get(name) for name in maker.metadata],
            )
        except UnusableRecord as error:
            raise error.at(place) from None


def _can_be_one(id: str) -> bool:
    try:
        make_id(id)
    except UnusableRecord:
        return False
    return True
