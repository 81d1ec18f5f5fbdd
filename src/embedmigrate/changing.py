"""What an application says of its documents: what it changed, or the documents themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from embedmigrate.catalog import Catalog, indexes, journal
from embedmigrate.config import Settings
from embedmigrate.errors import UsageError
from embedmigrate.sources.managed import ManagedConfig, ManagedSource
from embedmigrate.sources.values import UnusableRecord, make_id

_ENTRIES_A_TRANSACTION = 5000


class Changes:
    """The writing side of one collection."""

    def __init__(self, settings: Settings, collection: str, catalog: Catalog) -> None:
        self._settings, self._collection, self._catalog = settings, collection, catalog
        self.is_managed = isinstance(settings.collection(collection).source, ManagedConfig)
        self._opened: ManagedSource | None = None

    def changed(self, ids: Sequence[str]) -> None:
        """See ``Collection.changed``."""
        self._note(ids, journal.CHANGED)

    def deleted(self, ids: Sequence[str]) -> None:
        """See ``Collection.deleted``."""
        self._note(ids, journal.DELETED)

    def upsert(self, documents: Sequence[Mapping[str, Any]]) -> int:
        """See ``Collection.upsert``."""
        return self._documents.upsert(documents)

    def delete(self, ids: Sequence[str]) -> int:
        """See ``Collection.delete``."""
        return self._documents.delete(ids)

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()

    def _note(self, ids: Sequence[str], change: str) -> None:
        if self.is_managed:
            raise UsageError(
                f"the documents of {self._collection!r} are written by embedmigrate",
                found='kind = "managed" in its source',
                expected="Collection.upsert(documents) or .delete(ids), which note the change",
                next_step="call upsert or delete",
            )
        entries = [(id, change) for id in _ids(ids)]
        for start in range(0, len(entries), _ENTRIES_A_TRANSACTION):
            with self._catalog.write() as connection:
                indexes.ensure_collection(connection, self._collection)
                page = entries[start : start + _ENTRIES_A_TRANSACTION]
                journal.append(connection, self._collection, page)

    @property
    def _documents(self) -> ManagedSource:
        if not self.is_managed:
            raise UsageError(
                f"embedmigrate does not own the documents of {self._collection!r}",
                found=f"kind = {self._settings.collection(self._collection).source.kind!r}",
                expected='kind = "managed" in its source',
                next_step="write to the source itself, and say so: Collection.changed(ids)",
            )
        if self._opened is None:
            recipe = self._settings.collection(self._collection).recipe
            source = self._settings.open_source(self._collection, recipe)
            assert isinstance(source, ManagedSource)
            self._opened = source
        return self._opened


def _ids(ids: Sequence[str]) -> list[str]:
    if isinstance(ids, str):
        raise UsageError("a list of ids is expected, not one id", next_step="pass [id]")
    try:
        return [make_id(id) for id in ids]
    except UnusableRecord as error:
        raise error.at("an id") from None
