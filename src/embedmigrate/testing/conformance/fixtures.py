"""What every test of a store is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from embedmigrate.stores.base import IndexReader, IndexWriter, Store
from embedmigrate.testing.conformance.examples import manifest


class StoreFixtures:
    """An empty index, a writer and a reader of it. A subclass says which store."""

    @pytest.fixture
    def store(self) -> Store:
        """A store without an index, in a place of this test's own."""
        raise NotImplementedError("make a fixture `store` in the class that is collected")

    @pytest.fixture
    def index(self, store: Store) -> str:
        about = manifest(factory=store.factory)
        store.create(about)
        return about.index

    @pytest.fixture
    def writer(self, store: Store, index: str) -> Iterator[IndexWriter]:
        with closing(store.writer(index, epoch=1, run="run-1")) as opened:
            yield opened

    @pytest.fixture
    def reader(self, store: Store, index: str) -> Iterator[IndexReader]:
        with closing(store.reader(index)) as opened:
            yield opened
