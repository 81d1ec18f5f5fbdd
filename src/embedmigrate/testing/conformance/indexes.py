"""What becomes of an index as a whole, and who may write it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from embedmigrate.errors import FencedOut, IndexGone, Refused, UsageError
from embedmigrate.stores.base import IndexReader, IndexWriter, Store
from embedmigrate.stores.recovering import Marks, RecoverableStore
from embedmigrate.testing.conformance.examples import (
    DIMENSIONS,
    SPACE,
    hits_of,
    manifest,
    row,
    rows,
    vectors,
)
from embedmigrate.testing.conformance.fixtures import StoreFixtures


class IndexConformance(StoreFixtures):
    """How an index is made, found and dropped."""

    def test_an_index_that_was_created_is_listed_with_its_manifest(
        self, store: Store, index: str
    ) -> None:
        assert list(store.manifests()) == [manifest(factory=store.factory)]

    def test_creating_it_again_keeps_what_is_in_it(self, store: Store, index: str) -> None:
        with closing(store.writer(index, epoch=1, run="run-1")) as writer:
            writer.write(rows([1]), vectors(1), space=SPACE)
            writer.set_generation(3)
        store.create(manifest(factory=store.factory))
        with closing(store.reader(index)) as reader:
            assert reader.statistics().vectors == 1
            assert reader.manifest.generation == 3

    def test_creating_another_index_under_the_same_name_is_refused(
        self, store: Store, index: str
    ) -> None:
        with pytest.raises(Refused):
            store.create(replace(manifest(factory=store.factory), fingerprint="space-2"))

    def test_an_index_that_was_never_created_is_gone(self, store: Store) -> None:
        with pytest.raises(IndexGone):
            store.reader("nothing")
        with pytest.raises(IndexGone):
            store.writer("nothing", epoch=1, run="run-1")

    def test_a_dropped_index_is_gone_and_can_be_dropped_again(
        self, store: Store, index: str
    ) -> None:
        store.drop(index)
        store.drop(index)
        assert list(store.manifests()) == []
        with pytest.raises(IndexGone):
            store.reader(index)

    def test_a_reader_notices_that_its_index_was_dropped(
        self, store: Store, writer: IndexWriter, reader: IndexReader
    ) -> None:
        writer.write(rows([1]), vectors(1), space=SPACE)
        assert len(hits_of(reader, vectors(1)[0])) == 1
        store.drop(reader.manifest.index)
        with pytest.raises(IndexGone):
            hits_of(reader, vectors(1)[0])

    @pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", ".hidden", "a\0b", "x" * 200])
    def test_a_name_that_could_lead_elsewhere_is_refused(self, store: Store, name: str) -> None:
        with pytest.raises(UsageError):
            store.create(manifest(name, factory=store.factory))
        with pytest.raises(UsageError):
            store.drop(name)

    def test_a_place_that_exists_is_writable(self, store: Store) -> None:
        store.check_writable()
        assert list(store.manifests()) == []


class OwnershipConformance(StoreFixtures):
    """Who may write: the newest epoch alone (I15)."""

    def test_a_writer_that_was_overtaken_can_change_nothing(self, store: Store, index: str) -> None:
        with (
            closing(store.writer(index, epoch=1, run="run-1")) as zombie,
            closing(store.writer(index, epoch=2, run="run-2")) as owner,
        ):
            owner.write([row("a", 1)], vectors(1), space=SPACE)
            attempts: list[Callable[[], object]] = [
                lambda: zombie.write([row("z", 9)], vectors(1), space=SPACE),
                lambda: zombie.write([], np.empty((0, DIMENSIONS), np.float32), space=SPACE),
                lambda: zombie.write_metadata([row("a", 9)]),
                lambda: zombie.delete([("a", 9)]),
                lambda: zombie.discard("run-2"),
                lambda: zombie.set_generation(9),
                zombie.build,
            ]
            for attempt in attempts:
                with pytest.raises(FencedOut):
                    attempt()
            owner.write([row("b", 1)], vectors(1, seed=1), space=SPACE)
        with closing(store.reader(index)) as reader:
            assert [(state.id, state.seq) for state in reader.states()] == [("a", 1), ("b", 1)]
            assert reader.manifest.generation == 0
            assert reader.problems() == []
        assert store.fenced

    def test_of_two_writers_of_one_epoch_the_later_may_write(
        self, store: Store, index: str
    ) -> None:
        with (
            closing(store.writer(index, epoch=1, run="run-1")) as first,
            closing(store.writer(index, epoch=1, run="run-1")) as second,
        ):
            second.write([row("a", 1)], vectors(1), space=SPACE)
            with pytest.raises(FencedOut):
                first.write([row("b", 1)], vectors(1), space=SPACE)
            assert [state.id for state in second.existing(["a", "b"])] == ["a"]

    def test_it_tells_a_new_catalog_how_far_its_writers_were(
        self, store: Store, index: str
    ) -> None:
        if not isinstance(store, RecoverableStore):
            pytest.skip("a catalog that is lost cannot be rebuilt from this store")
        assert store.marks(index) == Marks(epoch=0, seq=0)
        with closing(store.writer(index, epoch=7, run="run-1")) as writer:
            writer.write([row("a", 3), row("b", 5)], vectors(2), space=SPACE)
            assert store.marks(index) == Marks(epoch=7, seq=5)
            writer.delete([("a", 9)])
        assert store.marks(index) == Marks(epoch=7, seq=9)
        with pytest.raises(IndexGone):
            store.marks("nothing")

    def test_an_older_epoch_does_not_even_get_a_writer(self, store: Store, index: str) -> None:
        store.writer(index, epoch=5, run="run-1").close()
        with pytest.raises(FencedOut):
            store.writer(index, epoch=4, run="run-2")
        store.writer(index, epoch=5, run="run-1").close()
