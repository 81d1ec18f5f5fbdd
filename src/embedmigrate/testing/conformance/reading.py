"""What is read of an index besides searching, and reading while it is written."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest

from embedmigrate.embedders.base import Vectors
from embedmigrate.errors import IndexGone
from embedmigrate.stores.base import IndexReader, IndexWriter, Row, Store
from embedmigrate.testing.conformance.examples import (
    DIMENSIONS,
    ENOUGH,
    SPACE,
    ids,
    make_index,
    manifest,
    row,
    rows,
    vectors,
)
from embedmigrate.testing.conformance.fixtures import StoreFixtures


class ReadingConformance(StoreFixtures):
    """Scans: complete, in order, of one moment."""

    def test_states_come_in_the_order_of_the_bytes_of_id_and_chunk(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        names = ["b", "a", "B", "ä", "z", "aa", "😀", "\uffff", "a b", "10", "9", "é"]
        writer.write(
            [row(id, chunk=chunk) for id in names for chunk in (10, 9)], vectors(24), space=SPACE
        )
        expected = [(id, chunk) for id in sorted(names, key=str.encode) for chunk in (9, 10)]
        assert [(state.id, state.chunk) for state in reader.states()] == expected

    def test_a_scan_is_of_one_moment(self, writer: IndexWriter, reader: IndexReader) -> None:
        writer.write(rows(range(1000)), vectors(1000), space=SPACE)
        states = reader.states()
        seen = [next(states)]
        writer.delete([(f"d{number:05d}", 2) for number in range(500, 1000)])
        seen += states
        assert len(seen) == 1000
        assert sum(1 for _ in reader.states()) == 500

    def test_a_scan_that_is_left_early_keeps_nobody_from_dropping_the_index(
        self, store: Store, writer: IndexWriter, reader: IndexReader
    ) -> None:
        writer.write(rows(range(100)), vectors(100), space=SPACE)
        states, blocks = reader.states(), reader.blocks(10)
        next(states)
        next(blocks)
        states.close()  # type: ignore[attr-defined]
        blocks.close()  # type: ignore[attr-defined]
        store.drop(reader.manifest.index)
        with pytest.raises(IndexGone):
            next(reader.states())

    def test_get_returns_the_live_rows_of_some_documents(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        writer.write([row("a"), row("a", chunk=1), row("b"), row("c")], vectors(4), space=SPACE)
        writer.delete([("b", 2)])
        found = reader.get(["a", "b", "missing"])
        assert sorted((state.id, state.chunk) for state in found) == [("a", 0), ("a", 1)]

    def test_a_vector_that_is_not_there_is_named(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        writer.write([row("a")], vectors(1), space=SPACE)
        with pytest.raises(KeyError, match="'a', 1"):
            reader.vectors([("a", 0), ("a", 1)])
        assert reader.vectors([]).shape == (0, DIMENSIONS)

    def test_blocks_hold_every_live_vector_once_as_it_was_written(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        assert list(reader.blocks()) == []
        writer.write(rows(range(100)), vectors(100), space=SPACE)
        writer.delete([(f"d{number:05d}", 2) for number in range(0, 100, 4)])
        blocks = list(reader.blocks(size=30))
        assert [len(block) for block in blocks] == [30, 30, 15]
        kept = np.array([vector for number, vector in enumerate(vectors(100)) if number % 4])
        found = np.concatenate(blocks)
        np.testing.assert_array_equal(found[np.lexsort(found.T)], kept[np.lexsort(kept.T)])

    def test_a_sound_index_has_no_problems(self, store: Store) -> None:
        about = manifest(factory=store.factory)
        index = make_index(store, about, rows(range(ENOUGH)), vectors(ENOUGH), build=True)
        with closing(store.reader(index)) as reader:
            assert reader.problems() == []
            statistics = reader.statistics()
            assert (statistics.vectors, statistics.dead) == (ENOUGH, 0)
            assert statistics.bytes > ENOUGH * DIMENSIONS * 4

    def test_a_closed_reader_and_writer_can_be_closed_again(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        for opened in (writer, reader):
            opened.close()
            opened.close()


class ConcurrencyConformance(StoreFixtures):
    """Readers beside a writer."""

    def test_readers_see_every_document_exactly_once_while_it_is_rewritten(
        self, store: Store, index: str
    ) -> None:
        """Each round rewrites all documents with the round's vectors, one write a group of them.

        Whatever a search sees, a document is there once, and never after it was deleted.
        """
        documents, rounds = 60, 25
        stop = threading.Event()
        complaints: list[object] = []

        def search(reader: IndexReader, seed: int) -> None:
            query = vectors(1, seed=seed)
            while not stop.is_set():
                (hits,) = reader.search(query, 2 * documents)
                found = ids(hits)
                if len(found) != len(set(found)) or len(found) < documents:
                    complaints.append(found)
                (filtered,) = reader.search(query, documents, {"even": True})
                if not all(hit.metadata["even"] for hit in filtered):
                    complaints.append(filtered)

        def group(number: int, seq: int) -> tuple[list[Row], Vectors]:
            metadata = {"even": seq % 2 == 0}
            some = [row(f"d{n}", seq, metadata=metadata) for n in range(number, documents, 3)]
            return some, vectors(len(some), seed=1000 * seq + number)

        with (
            closing(store.writer(index, epoch=1, run="run-1")) as writer,
            closing(store.reader(index)) as reader,
            ThreadPoolExecutor() as threads,
        ):
            writer.write([row(f"d{n}") for n in range(documents)], vectors(documents), space=SPACE)
            searches = [threads.submit(search, reader, seed) for seed in range(3)]
            for seq in range(2, rounds):
                for number in range(3):
                    writer.write(*group(number, seq), space=SPACE)
                extra = rows([seq], seq)
                writer.write(extra, vectors(1, seed=seq), space=SPACE)
                writer.delete([(extra[0].id, seq + 1)])
                writer.build()
            stop.set()
            for running in searches:
                running.result()
            assert complaints == []
            (hits,) = reader.search(vectors(1), 2 * documents)
            assert sorted(ids(hits)) == sorted(f"d{n}" for n in range(documents))
