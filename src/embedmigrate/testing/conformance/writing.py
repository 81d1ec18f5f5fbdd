"""What a write, a delete and a change of metadata leave behind."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest

from embedmigrate.embedders.base import Vectors
from embedmigrate.errors import ModelMismatch
from embedmigrate.stores.base import IndexReader, IndexWriter, Stamp, Store, Written
from embedmigrate.testing.conformance.examples import (
    DIMENSIONS,
    SPACE,
    chunks_of,
    hits_of,
    ids,
    row,
    rows,
    vectors,
)
from embedmigrate.testing.conformance.fixtures import StoreFixtures


class WritingConformance(StoreFixtures):
    """Documents with all of their chunks, the newest alone (I3, I5)."""

    def test_what_was_written_is_there_as_it_was_written(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        written = rows(range(3))
        assert writer.write(written, vectors(3), space=SPACE) == Written(applied=3, outdated=0)
        assert list(reader.states()) == [
            (r.id, r.chunk, r.seq, r.content_hash, r.metadata_hash) for r in written
        ]
        keys = [("d00002", 0), ("d00000", 0)]
        np.testing.assert_array_equal(reader.vectors(keys), vectors(3)[[2, 0]])

    def test_writing_nothing_is_allowed(self, writer: IndexWriter) -> None:
        assert writer.write([], np.empty((0, DIMENSIONS), np.float32), space=SPACE) == Written(0, 0)
        assert writer.delete([]) == writer.write_metadata([]) == Written(0, 0)

    def test_a_row_that_is_written_again_replaces_the_first(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        first, second = vectors(2)
        writer.write([row("a", 1)], first[np.newaxis], space=SPACE)
        assert writer.write([row("a", 1, text="new")], second[np.newaxis], space=SPACE) == Written(
            1, 0
        )
        (state,) = reader.states()
        assert state.content_hash == row("a", text="new").content_hash
        np.testing.assert_array_equal(reader.vectors([("a", 0)]), second[np.newaxis])
        assert reader.statistics().vectors == reader.statistics().documents == 1

    def test_an_older_write_never_replaces_a_newer_row(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        writer.write([row("a", 5)], vectors(1), space=SPACE)
        written = writer.write([row("a", 4), row("b", 4)], vectors(2, seed=1), space=SPACE)
        assert written == Written(applied=1, outdated=1)
        assert [(state.id, state.seq) for state in reader.states()] == [("a", 5), ("b", 4)]
        np.testing.assert_array_equal(reader.vectors([("a", 0)]), vectors(1))

    def test_chunks_of_a_document_are_rows_of_their_own(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        written = [row("a", chunk=chunk) for chunk in (2, 0, 1)]
        assert writer.write(written, vectors(3), space=SPACE) == Written(1, 0), "one document"
        assert chunks_of(reader) == [("a", 0, 1), ("a", 1, 1), ("a", 2, 1)]
        statistics = reader.statistics()
        assert (statistics.vectors, statistics.documents) == (3, 1)

    def test_a_write_replaces_a_document_with_all_of_its_chunks(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        three = [row(id, chunk=chunk) for id in "ab" for chunk in range(3)]
        writer.write(three, vectors(6), space=SPACE)
        shorter = [row("a", 2, text="new", chunk=chunk) for chunk in range(2)]
        assert writer.write(shorter, vectors(2, seed=1), space=SPACE) == Written(1, 0)
        assert chunks_of(reader) == [
            *(("a", 0, 2), ("a", 1, 2)),
            *(("b", 0, 1), ("b", 1, 1), ("b", 2, 1)),
        ]
        assert sorted(ids(hits_of(reader, vectors(1)[0]))) == ["a", "a", "b", "b", "b"]
        assert reader.problems() == []

    def test_an_older_write_of_a_longer_document_brings_no_chunk_back(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        writer.write([row("a", 2)], vectors(1), space=SPACE)
        longer = [row("a", 1, chunk=chunk) for chunk in range(3)]
        assert writer.write([*longer, row("b", 1)], vectors(4), space=SPACE) == Written(1, 1)
        assert chunks_of(reader) == [("a", 0, 2), ("b", 0, 1)]

    def test_chunks_of_several_moments_are_refused(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        with pytest.raises(ValueError, match="more than one seq"):
            writer.write([row("a", 1), row("a", 2, chunk=1)], vectors(2), space=SPACE)
        assert list(reader.states()) == []

    def test_a_reader_never_sees_a_document_half_old_and_half_new(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        def write(seq: int) -> None:
            chunks = [row("a", seq, chunk=chunk) for chunk in range(1 + seq % 5)]
            writer.write(chunks, vectors(len(chunks)), space=SPACE)

        write(1)
        done = threading.Event()

        def look() -> list[set[tuple[int, int]]]:
            seen = []
            while not done.is_set():
                states = list(reader.states())
                seen.append({(state.seq, len(states)) for state in states})
            return seen

        with ThreadPoolExecutor(1) as pool:
            looking = pool.submit(look)
            for seq in range(2, 60):
                write(seq)
            done.set()
        seen = looking.result()
        assert len({seq for states in seen for seq, _ in states}) > 1, (
            "it looked while it was written"
        )
        assert all(states == {(seq, 1 + seq % 5)} for states in seen for seq, _ in states)

    def test_one_row_twice_in_one_write_is_refused_whole(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        with pytest.raises(ValueError, match="twice"):
            writer.write([row("a"), row("b"), row("a")], vectors(3), space=SPACE)
        with pytest.raises(ValueError, match="twice"):
            writer.write_metadata([row("a"), row("a")])
        assert list(reader.states()) == []

    @pytest.mark.parametrize(
        "wrong",
        [
            vectors(2),
            vectors(1, dimensions=DIMENSIONS + 1),
            vectors(1).astype(np.float64),
            vectors(1)[0],
            np.full((1, DIMENSIONS), np.nan, np.float32),
            np.full((1, DIMENSIONS), np.inf, np.float32),
        ],
        ids=["rows", "dimensions", "dtype", "rank", "nan", "infinite"],
    )
    def test_vectors_that_do_not_fit_are_refused(
        self, writer: IndexWriter, reader: IndexReader, wrong: Vectors
    ) -> None:
        with pytest.raises(ValueError, match=r"float32|finite"):
            writer.write([row("a")], wrong, space=SPACE)
        assert list(reader.states()) == []

    def test_metadata_alone_is_replaced_without_touching_the_vector(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        writer.write([row("a", 1, text="t", metadata={"v": 1})], vectors(1), space=SPACE)
        update = row("a", 2, text="t", metadata={"v": 2})
        assert writer.write_metadata([update, row("missing", 2)]) == Written(1, 0)
        (hit,) = hits_of(reader, vectors(1)[0])
        assert hit.metadata == {"v": 2}
        (state,) = reader.get(["a"])
        assert (state.seq, state.metadata_hash) == (2, update.metadata_hash)
        np.testing.assert_array_equal(reader.vectors([("a", 0)]), vectors(1))

    def test_older_metadata_never_replaces_newer(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        writer.write([row("a", 3, metadata={"v": 3})], vectors(1), space=SPACE)
        assert writer.write_metadata([row("a", 2, metadata={"v": 2})]) == Written(0, 1)
        assert hits_of(reader, vectors(1)[0])[0].metadata == {"v": 3}

    def test_any_metadata_that_json_can_hold_comes_back(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        metadata = {
            "ключ": "значение",
            "n": None,
            "deep": {"list": [1, 2.5, True, "\ud800"]},
            "": 0,
        }
        writer.write([row("a", metadata=metadata)], vectors(1), space=SPACE)
        assert hits_of(reader, vectors(1)[0])[0].metadata == metadata

    @pytest.mark.parametrize(
        "value",
        [
            *(0.1, -0.0, 1e23, 1e308, 5e-324, 1.0, 2**53 + 1, 10**30, True, None),
            *("\x00", "\ud800", "\\u0000", "1e5", "\ufffd", "😀", ""),
            *([1, [2.0, {"x": -0.0}]], {"a\x00": 1, "\udfff": [None]}, {}, []),
        ],
        ids=ascii,
    )
    @pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
    def test_a_value_comes_back_as_it_was_written(
        self, writer: IndexWriter, reader: IndexReader, value: object, known: bool
    ) -> None:
        if known:
            writer.write([row("a", 0)], vectors(1), space=SPACE)
        writer.write([row("a", metadata={"v": value, "w": "x"})], vectors(1), space=SPACE)
        (hit,) = hits_of(reader, vectors(1)[0], filter={"w": "x"})
        assert repr(hit.metadata["v"]) == repr(value)

    def test_ids_are_any_text(self, writer: IndexWriter, reader: IndexReader) -> None:
        names = ["a", "a\x00", "a\x00b", "a\x01", "a\x01\x01", "a\x02", "\x00", "'", '"']
        names += ["%s", "\\", "{a,b}", "NULL", " ", "ä", "😀", "x" * 512]
        writer.write([row(name) for name in names], vectors(len(names)), space=SPACE)
        assert [state.id for state in reader.states()] == sorted(names, key=str.encode)
        assert {state.id for state in reader.get(names)} == set(names)
        assert set(ids(hits_of(reader, vectors(1)[0], 50))) == set(names)
        keys = [(name, 0) for name in reversed(names)]
        np.testing.assert_array_equal(reader.vectors(keys), vectors(len(names))[::-1])
        assert writer.delete([(name, 2) for name in names[1:]]) == Written(len(names) - 1, 0)
        assert writer.write([row(name) for name in names], vectors(len(names)), space=SPACE) == (
            Written(1, len(names) - 1)
        )


class DeletingConformance(StoreFixtures):
    """Deletes, and the tombstones that they leave (I2)."""

    def test_deleting_a_document_deletes_its_chunks(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        writer.write([row("a"), row("a", chunk=1), row("b")], vectors(3), space=SPACE)
        assert writer.delete([("a", 2), ("missing", 2)]) == Written(applied=1, outdated=0)
        assert [state.id for state in reader.states()] == ["b"]
        assert ids(hits_of(reader, vectors(1)[0])) == ["b"]

    def test_an_older_delete_does_nothing_to_a_newer_document(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        writer.write([row("a", 5), row("a", 5, chunk=1), row("b", 3)], vectors(3), space=SPACE)
        assert writer.delete([("a", 4), ("b", 4)]) == Written(applied=1, outdated=1)
        assert chunks_of(reader) == [("a", 0, 5), ("a", 1, 5)]

    def test_a_tombstone_keeps_an_older_write_from_bringing_a_document_back(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        writer.write([row("a", 1)], vectors(1), space=SPACE)
        writer.delete([("a", 5), ("never-there", 5)])
        late = [row("a", 4), row("never-there", 4), row("a", 4, chunk=7)]
        assert writer.write(late, vectors(3), space=SPACE) == Written(applied=0, outdated=2)
        assert list(reader.states()) == []

    def test_a_write_that_is_as_new_as_the_tombstone_applies(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        writer.delete([("a", 5), ("b", 5)])
        assert writer.write([row("a", 5), row("b", 6)], vectors(2), space=SPACE) == Written(2, 0)

    def test_an_older_delete_does_not_weaken_a_tombstone(self, writer: IndexWriter) -> None:
        writer.delete([("a", 5)])
        writer.delete([("a", 3)])
        assert writer.write([row("a", 4)], vectors(1), space=SPACE) == Written(0, 1)

    def test_forgotten_tombstones_hold_nothing_back(self, writer: IndexWriter) -> None:
        writer.delete([("a", 5), ("b", 6)])
        assert writer.forget_tombstones(before_seq=6) == 1
        assert writer.forget_tombstones(before_seq=6) == 0
        assert writer.write([row("a", 1), row("b", 1)], vectors(2), space=SPACE) == Written(1, 1)


class RunnerConformance(StoreFixtures):
    """What a runner reads through its own writer."""

    def test_a_writer_finds_vectors_by_content_and_forgets_dead_ones(
        self, writer: IndexWriter
    ) -> None:
        writer.write([row("a", text="one"), row("b", text="two")], vectors(2), space=SPACE)
        one, two = row("", text="one").content_hash, row("", text="two").content_hash
        unknown = row("", text="three").content_hash
        found = writer.find_vectors([one, two, unknown, one])
        assert set(found) == {one, two}
        np.testing.assert_array_equal(found[two], vectors(2)[1])
        writer.delete([("b", 2)])
        assert set(writer.find_vectors([one, two])) == {one}

    def test_a_writer_sees_its_own_rows(self, writer: IndexWriter) -> None:
        writer.write(rows(range(600)), vectors(600), space=SPACE)
        states = writer.existing([f"d{number:05d}" for number in range(0, 1200, 2)])
        assert sorted(state.id for state in states) == [f"d{n:05d}" for n in range(0, 600, 2)]

    def test_the_generation_is_recorded_in_the_index(
        self, store: Store, writer: IndexWriter, reader: IndexReader
    ) -> None:
        writer.set_generation(7)
        assert writer.manifest.generation == 7
        hits_of(reader, vectors(1)[0])
        assert reader.manifest.generation == 7
        assert [found.generation for found in store.manifests()] == [7]

    def test_every_vector_carries_its_provenance(self, store: Store, index: str) -> None:
        with closing(store.writer(index, epoch=1, run="run-1")) as writer:
            writer.write(rows(range(5)), vectors(5), space=SPACE)
        with closing(store.writer(index, epoch=2, run="run-2")) as writer:
            writer.write(rows(range(3, 7), seq=2), vectors(4), space=SPACE)
            writer.delete([("d00000", 2)])
        with closing(store.reader(index)) as reader:
            assert reader.stamps() == [Stamp("space-1", "run-1", 2), Stamp("space-1", "run-2", 4)]

    def test_what_a_run_wrote_is_taken_back_without_a_tombstone(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        writer.write(rows(range(3)), vectors(3), space=SPACE)
        writer.begin("window-2")
        writer.write(rows(range(2, 6), seq=5), vectors(4), space=SPACE)
        assert writer.discard("window-2") == 4
        assert writer.discard("window-2") == writer.discard("never") == 0
        assert [state.id for state in reader.states()] == ["d00000", "d00001"]
        assert writer.write(rows([2, 3], seq=1), vectors(2), space=SPACE) == Written(2, 0)

    def test_vectors_of_another_space_are_refused_unless_it_is_proven_equal(
        self, store: Store, index: str
    ) -> None:
        with closing(store.writer(index, epoch=1, run="run-1", accepts=["twin"])) as writer:
            for space in ("other", ""):
                with pytest.raises(ModelMismatch):
                    writer.write([row("a")], vectors(1), space=space)
            writer.write([row("a")], vectors(1), space="twin")
            writer.write([row("b")], vectors(1), space=SPACE)
        with closing(store.reader(index)) as reader:
            assert {stamp.fingerprint: stamp.vectors for stamp in reader.stamps()} == {
                SPACE: 1,
                "twin": 1,
            }
            assert {stamp.fingerprint for stamp in reader.stamps(sample=100)} == {SPACE, "twin"}
