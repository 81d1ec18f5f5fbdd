"""What every store must do. Another store joins by being added to ``STORES``.

Nothing here knows how a store keeps its rows: it uses the Protocol of ``stores/base.py`` alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embedmigrate.embedders.base import Vectors
from embedmigrate.errors import FencedOut, IndexGone, Refused, UsageError
from embedmigrate.models.index_spec import Metric
from embedmigrate.stores.base import (
    Filter,
    Hit,
    IndexReader,
    IndexWriter,
    Row,
    Stamp,
    Store,
    Written,
)
from tests.stores.store_helpers import (
    DIMENSIONS,
    SPACE,
    brute_force,
    faiss_store,
    ids,
    make_index,
    manifest,
    row,
    rows,
    vectors,
)

STORES: dict[str, tuple[Callable[[Path, str], Store], str]] = {
    "faiss-flat": (faiss_store, "Flat"),
    "faiss-ivf": (faiss_store, "IVF16,Flat"),
    "faiss-hnsw": (faiss_store, "HNSW16"),
}
ENOUGH = 700
"""Vectors from which on each of these factories builds an ANN structure."""


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    make, factory = STORES[request.param]
    return make(tmp_path, factory)


@pytest.fixture
def index(store: Store) -> str:
    about = manifest(factory=store.factory)
    store.create(about)
    return about.index


@pytest.fixture
def writer(store: Store, index: str) -> Iterator[IndexWriter]:
    with closing(store.writer(index, epoch=1, run="run-1")) as opened:
        yield opened


@pytest.fixture
def reader(store: Store, index: str) -> Iterator[IndexReader]:
    with closing(store.reader(index)) as opened:
        yield opened


def hits_of(
    reader: IndexReader, query: Vectors, k: int = 10, filter: Filter | None = None
) -> list[Hit]:
    (hits,) = reader.search(query[np.newaxis], k, filter)
    return hits


# -- indexes ----------------------------------------------------------------------------------


def test_an_index_that_was_created_is_listed_with_its_manifest(store: Store, index: str) -> None:
    assert list(store.manifests()) == [manifest(factory=store.factory)]


def test_creating_it_again_keeps_what_is_in_it(store: Store, index: str) -> None:
    with closing(store.writer(index, epoch=1, run="run-1")) as writer:
        writer.write(rows([1]), vectors(1), space=SPACE)
        writer.set_generation(3)
    store.create(manifest(factory=store.factory))
    with closing(store.reader(index)) as reader:
        assert reader.statistics().vectors == 1
        assert reader.manifest.generation == 3


def test_creating_another_index_under_the_same_name_is_refused(store: Store, index: str) -> None:
    with pytest.raises(Refused):
        store.create(replace(manifest(factory=store.factory), fingerprint="space-2"))


def test_an_index_that_was_never_created_is_gone(store: Store) -> None:
    with pytest.raises(IndexGone):
        store.reader("nothing")
    with pytest.raises(IndexGone):
        store.writer("nothing", epoch=1, run="run-1")


def test_a_dropped_index_is_gone_and_can_be_dropped_again(store: Store, index: str) -> None:
    store.drop(index)
    store.drop(index)
    assert list(store.manifests()) == []
    with pytest.raises(IndexGone):
        store.reader(index)


def test_a_reader_notices_that_its_index_was_dropped(
    store: Store, writer: IndexWriter, reader: IndexReader
) -> None:
    writer.write(rows([1]), vectors(1), space=SPACE)
    assert len(hits_of(reader, vectors(1)[0])) == 1
    store.drop(reader.manifest.index)
    with pytest.raises(IndexGone):
        hits_of(reader, vectors(1)[0])


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", ".hidden", "a\0b", "x" * 200])
def test_a_name_that_could_lead_elsewhere_is_refused(store: Store, name: str) -> None:
    with pytest.raises(UsageError):
        store.create(manifest(name))
    with pytest.raises(UsageError):
        store.drop(name)


def test_a_place_that_exists_is_writable(store: Store) -> None:
    store.check_writable()
    assert list(store.manifests()) == []


# -- writing ----------------------------------------------------------------------------------


def test_what_was_written_is_there_as_it_was_written(
    writer: IndexWriter, reader: IndexReader
) -> None:
    written = rows(range(3))
    assert writer.write(written, vectors(3), space=SPACE) == Written(applied=3, outdated=0)
    assert list(reader.states()) == [
        (r.id, r.chunk, r.seq, r.content_hash, r.metadata_hash) for r in written
    ]
    keys = [("d00002", 0), ("d00000", 0)]
    np.testing.assert_array_equal(reader.vectors(keys), vectors(3)[[2, 0]])


def test_writing_nothing_is_allowed(writer: IndexWriter) -> None:
    assert writer.write([], np.empty((0, DIMENSIONS), np.float32), space=SPACE) == Written(0, 0)
    assert writer.delete([]) == writer.write_metadata([]) == Written(0, 0)


def test_a_row_that_is_written_again_replaces_the_first(
    writer: IndexWriter, reader: IndexReader
) -> None:
    first, second = vectors(2)
    writer.write([row("a", 1)], first[np.newaxis], space=SPACE)
    assert writer.write([row("a", 1, text="new")], second[np.newaxis], space=SPACE) == Written(1, 0)
    (state,) = reader.states()
    assert state.content_hash == row("a", text="new").content_hash
    np.testing.assert_array_equal(reader.vectors([("a", 0)]), second[np.newaxis])
    assert reader.statistics().vectors == reader.statistics().documents == 1


def test_an_older_write_never_replaces_a_newer_row(
    writer: IndexWriter, reader: IndexReader
) -> None:
    writer.write([row("a", 5)], vectors(1), space=SPACE)
    written = writer.write([row("a", 4), row("b", 4)], vectors(2, seed=1), space=SPACE)
    assert written == Written(applied=1, outdated=1)
    assert [(state.id, state.seq) for state in reader.states()] == [("a", 5), ("b", 4)]
    np.testing.assert_array_equal(reader.vectors([("a", 0)]), vectors(1))


def chunks_of(reader: IndexReader) -> list[tuple[str, int, int]]:
    return [(state.id, state.chunk, state.seq) for state in reader.states()]


def test_chunks_of_a_document_are_rows_of_their_own(
    writer: IndexWriter, reader: IndexReader
) -> None:
    written = [row("a", chunk=chunk) for chunk in (2, 0, 1)]
    assert writer.write(written, vectors(3), space=SPACE) == Written(1, 0), "one document"
    assert chunks_of(reader) == [("a", 0, 1), ("a", 1, 1), ("a", 2, 1)]
    statistics = reader.statistics()
    assert (statistics.vectors, statistics.documents) == (3, 1)


def test_a_write_replaces_a_document_with_all_of_its_chunks(
    writer: IndexWriter, reader: IndexReader
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
    writer: IndexWriter, reader: IndexReader
) -> None:
    writer.write([row("a", 2)], vectors(1), space=SPACE)
    longer = [row("a", 1, chunk=chunk) for chunk in range(3)]
    assert writer.write([*longer, row("b", 1)], vectors(4), space=SPACE) == Written(1, 1)
    assert chunks_of(reader) == [("a", 0, 2), ("b", 0, 1)]


def test_chunks_of_several_moments_are_refused(writer: IndexWriter, reader: IndexReader) -> None:
    with pytest.raises(ValueError, match="more than one seq"):
        writer.write([row("a", 1), row("a", 2, chunk=1)], vectors(2), space=SPACE)
    assert list(reader.states()) == []


def test_a_reader_never_sees_a_document_half_old_and_half_new(
    writer: IndexWriter, reader: IndexReader
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
    assert len({seq for states in seen for seq, _ in states}) > 1, "it looked while it was written"
    assert all(states == {(seq, 1 + seq % 5)} for states in seen for seq, _ in states)


def test_one_row_twice_in_one_write_is_refused_whole(
    writer: IndexWriter, reader: IndexReader
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
    writer: IndexWriter, reader: IndexReader, wrong: Vectors
) -> None:
    with pytest.raises(ValueError, match=r"float32|finite"):
        writer.write([row("a")], wrong, space=SPACE)
    assert list(reader.states()) == []


def test_metadata_alone_is_replaced_without_touching_the_vector(
    writer: IndexWriter, reader: IndexReader
) -> None:
    writer.write([row("a", 1, text="t", metadata={"v": 1})], vectors(1), space=SPACE)
    update = row("a", 2, text="t", metadata={"v": 2})
    assert writer.write_metadata([update, row("missing", 2)]) == Written(1, 0)
    (hit,) = hits_of(reader, vectors(1)[0])
    assert hit.metadata == {"v": 2}
    (state,) = reader.get(["a"])
    assert (state.seq, state.metadata_hash) == (2, update.metadata_hash)
    np.testing.assert_array_equal(reader.vectors([("a", 0)]), vectors(1))


def test_older_metadata_never_replaces_newer(writer: IndexWriter, reader: IndexReader) -> None:
    writer.write([row("a", 3, metadata={"v": 3})], vectors(1), space=SPACE)
    assert writer.write_metadata([row("a", 2, metadata={"v": 2})]) == Written(0, 1)
    assert hits_of(reader, vectors(1)[0])[0].metadata == {"v": 3}


def test_any_metadata_that_json_can_hold_comes_back(
    writer: IndexWriter, reader: IndexReader
) -> None:
    metadata = {"ключ": "значение", "n": None, "deep": {"list": [1, 2.5, True, "\ud800"]}, "": 0}
    writer.write([row("a", metadata=metadata)], vectors(1), space=SPACE)
    assert hits_of(reader, vectors(1)[0])[0].metadata == metadata


# -- deleting ---------------------------------------------------------------------------------


def test_deleting_a_document_deletes_its_chunks(writer: IndexWriter, reader: IndexReader) -> None:
    writer.write([row("a"), row("a", chunk=1), row("b")], vectors(3), space=SPACE)
    assert writer.delete([("a", 2), ("missing", 2)]) == Written(applied=1, outdated=0)
    assert [state.id for state in reader.states()] == ["b"]
    assert ids(hits_of(reader, vectors(1)[0])) == ["b"]


def test_an_older_delete_does_nothing_to_a_newer_document(
    writer: IndexWriter, reader: IndexReader
) -> None:
    writer.write([row("a", 5), row("a", 5, chunk=1), row("b", 3)], vectors(3), space=SPACE)
    assert writer.delete([("a", 4), ("b", 4)]) == Written(applied=1, outdated=1)
    assert chunks_of(reader) == [("a", 0, 5), ("a", 1, 5)]


def test_a_tombstone_keeps_an_older_write_from_bringing_a_document_back(
    writer: IndexWriter, reader: IndexReader
) -> None:
    writer.write([row("a", 1)], vectors(1), space=SPACE)
    writer.delete([("a", 5), ("never-there", 5)])
    late = [row("a", 4), row("never-there", 4), row("a", 4, chunk=7)]
    assert writer.write(late, vectors(3), space=SPACE) == Written(applied=0, outdated=2)
    assert list(reader.states()) == []


def test_a_write_that_is_as_new_as_the_tombstone_applies(
    writer: IndexWriter, reader: IndexReader
) -> None:
    writer.delete([("a", 5), ("b", 5)])
    assert writer.write([row("a", 5), row("b", 6)], vectors(2), space=SPACE) == Written(2, 0)


def test_an_older_delete_does_not_weaken_a_tombstone(writer: IndexWriter) -> None:
    writer.delete([("a", 5)])
    writer.delete([("a", 3)])
    assert writer.write([row("a", 4)], vectors(1), space=SPACE) == Written(0, 1)


def test_forgotten_tombstones_hold_nothing_back(writer: IndexWriter) -> None:
    writer.delete([("a", 5), ("b", 6)])
    assert writer.forget_tombstones(before_seq=6) == 1
    assert writer.forget_tombstones(before_seq=6) == 0
    assert writer.write([row("a", 1), row("b", 1)], vectors(2), space=SPACE) == Written(1, 1)


# -- what a runner asks -----------------------------------------------------------------------


def test_a_writer_finds_vectors_by_content_and_forgets_dead_ones(writer: IndexWriter) -> None:
    writer.write([row("a", text="one"), row("b", text="two")], vectors(2), space=SPACE)
    one, two = row("", text="one").content_hash, row("", text="two").content_hash
    unknown = row("", text="three").content_hash
    found = writer.find_vectors([one, two, unknown, one])
    assert set(found) == {one, two}
    np.testing.assert_array_equal(found[two], vectors(2)[1])
    writer.delete([("b", 2)])
    assert set(writer.find_vectors([one, two])) == {one}


def test_a_writer_sees_its_own_rows(writer: IndexWriter) -> None:
    writer.write(rows(range(600)), vectors(600), space=SPACE)
    states = writer.existing([f"d{number:05d}" for number in range(0, 1200, 2)])
    assert sorted(state.id for state in states) == [f"d{n:05d}" for n in range(0, 600, 2)]


def test_the_generation_is_recorded_in_the_index(
    store: Store, writer: IndexWriter, reader: IndexReader
) -> None:
    writer.set_generation(7)
    assert writer.manifest.generation == 7
    hits_of(reader, vectors(1)[0])
    assert reader.manifest.generation == 7
    assert [found.generation for found in store.manifests()] == [7]


def test_every_vector_carries_its_provenance(store: Store, index: str) -> None:
    with closing(store.writer(index, epoch=1, run="run-1")) as writer:
        writer.write(rows(range(5)), vectors(5), space=SPACE)
    with closing(store.writer(index, epoch=2, run="run-2")) as writer:
        writer.write(rows(range(3, 7), seq=2), vectors(4), space=SPACE)
        writer.delete([("d00000", 2)])
    with closing(store.reader(index)) as reader:
        assert reader.stamps() == [Stamp("space-1", "run-1", 2), Stamp("space-1", "run-2", 4)]


# -- ownership --------------------------------------------------------------------------------


def test_a_writer_that_was_overtaken_can_change_nothing(store: Store, index: str) -> None:
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


def test_an_older_epoch_does_not_even_get_a_writer(store: Store, index: str) -> None:
    store.writer(index, epoch=5, run="run-1").close()
    with pytest.raises(FencedOut):
        store.writer(index, epoch=4, run="run-2")
    store.writer(index, epoch=5, run="run-1").close()


# -- searching --------------------------------------------------------------------------------


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("metric", ["cosine", "inner_product", "l2"])
def test_search_finds_what_brute_force_finds(
    store: Store, metric: Metric, normalized: bool
) -> None:
    stored = vectors(ENOUGH)
    if normalized:
        stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    about = manifest(factory=store.factory, metric=metric, normalized=normalized)
    index = make_index(store, about, rows(range(ENOUGH)), stored, build=True)
    queries = 3 * vectors(20, seed=1)
    keys = [f"d{number:05d}" for number in range(ENOUGH)]
    with closing(store.reader(index)) as reader:
        for exact in (False, True):
            for query, hits in zip(queries, reader.search(queries, 10, exact=exact), strict=True):
                expected = brute_force(query, keys, stored, 10, metric)
                assert ids(hits) == [id for id, _ in expected]
                scores = [hit.score for hit in hits]
                assert scores == pytest.approx([score for _, score in expected], rel=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "l2"])
def test_ann_and_tail_together_find_what_brute_force_finds(store: Store, metric: Metric) -> None:
    """After a build: new rows, changed rows and dead rows, all seen at once."""
    index = make_index(store, manifest(factory=store.factory, metric=metric), [], vectors(0))
    first, later = vectors(ENOUGH), vectors(400, seed=1)
    truth = {f"d{n:05d}": vector for n, vector in enumerate(first)}
    with (
        closing(store.writer(index, epoch=1, run="run-1")) as writer,
        closing(store.reader(index)) as reader,
    ):
        writer.write(rows(range(ENOUGH)), first, space=SPACE)
        writer.build()
        changed = range(ENOUGH - 200, ENOUGH + 200)
        writer.write(rows(changed, seq=2), later, space=SPACE)
        truth |= {f"d{n:05d}": vector for n, vector in zip(changed, later, strict=True)}
        for number in range(100):
            del truth[f"d{number:05d}"]
        writer.delete([(f"d{number:05d}", 2) for number in range(100)])
        keys, stored = list(truth), np.array(list(truth.values()))
        queries = np.concatenate([vectors(20, seed=2), first[:5], later[:5]])
        for _ in range(2):
            for query, hits in zip(queries, reader.search(queries, 10), strict=True):
                assert ids(hits) == [id for id, _ in brute_force(query, keys, stored, 10, metric)]
                assert hits == hits_of(reader, query)
            writer.build()
        statistics = reader.statistics()
        assert statistics.vectors == len(truth)
        assert statistics.ann_through == (0 if store.factory == "Flat" else ENOUGH + 400)


def test_one_query_and_many_queries_get_the_same_answer(store: Store) -> None:
    about = manifest(factory=store.factory)
    index = make_index(store, about, rows(range(ENOUGH)), vectors(ENOUGH), build=True)
    queries = vectors(40, seed=1)
    with closing(store.reader(index)) as reader:
        together = reader.search(queries, 10)
        assert [reader.search(query[np.newaxis], 10)[0] for query in queries] == together
        assert reader.search(queries, 10, exact=True) == together


def test_equal_vectors_come_in_the_order_of_their_ids(
    writer: IndexWriter, reader: IndexReader
) -> None:
    same = np.repeat(vectors(1), 12, axis=0)
    written = [row(id, chunk=chunk) for id in "fbdace" for chunk in (1, 0)]
    writer.write(written, same, space=SPACE)
    writer.write(rows(range(50)), vectors(50, seed=1), space=SPACE)
    hits = hits_of(reader, vectors(1)[0], 5)
    assert [(hit.id, hit.chunk) for hit in hits] == [
        ("a", 0), ("a", 1), ("b", 0), ("b", 1), ("c", 0),
    ]  # fmt: skip
    assert len({hit.score for hit in hits}) == 1


def test_a_search_returns_no_more_than_there_is(writer: IndexWriter, reader: IndexReader) -> None:
    query = vectors(2, seed=9)
    assert reader.search(query, 10) == [[], []]
    assert reader.search(query[:0], 10) == []
    writer.write(rows(range(3)), vectors(3), space=SPACE)
    assert [len(hits) for hits in reader.search(query, 10)] == [3, 3]
    writer.delete([("d00001", 2)])
    assert [sorted(ids(hits)) for hits in reader.search(query, 10)] == [["d00000", "d00002"]] * 2


def test_a_search_for_everything_returns_everything(store: Store) -> None:
    about = manifest(factory=store.factory)
    index = make_index(store, about, rows(range(ENOUGH)), vectors(ENOUGH), build=True)
    with closing(store.reader(index)) as reader:
        hits = hits_of(reader, vectors(1, seed=1)[0], ENOUGH + 1)
        assert sorted(ids(hits)) == [f"d{number:05d}" for number in range(ENOUGH)]


@pytest.mark.parametrize(
    "wrong",
    [
        vectors(1, dimensions=DIMENSIONS - 1),
        vectors(1).astype(np.float64),
        vectors(1)[0],
        np.full((1, DIMENSIONS), np.nan, np.float32),
    ],
    ids=["dimensions", "dtype", "rank", "nan"],
)
def test_a_query_that_does_not_fit_is_refused(reader: IndexReader, wrong: Vectors) -> None:
    with pytest.raises(ValueError, match=r"float32|finite"):
        reader.search(wrong, 10)


def test_k_is_at_least_one(reader: IndexReader) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        reader.search(vectors(1), 0)


# -- filtering --------------------------------------------------------------------------------

LANGUAGES: list[dict[str, object]] = [
    {"lang": "en", "year": 1999, "open": True},
    {"lang": "de", "year": 2000.0, "open": False},
    {"lang": "fr", "year": "2000", "open": 1},
    {"lang": None, "year": 2000, "open": "true"},
    {"year": None, 'a"b': "en", "naïve $.field": 5},
    {"lang": ["en"], "year": {"lang": "en"}},
]


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ({}, "012345"),
        ({"lang": "en"}, "0"),
        ({"lang": ["en", "fr"]}, "02"),
        ({"lang": []}, ""),
        ({"lang": None}, "34"),
        ({"lang": ["de", None]}, "134"),
        ({"year": 2000}, "13"),
        ({"year": 2000.0}, "13"),
        ({"year": "2000"}, "2"),
        ({"year": [1999, "2000", None]}, "024"),
        ({"open": True}, "0"),
        ({"open": [False, 1]}, "12"),
        ({"open": None}, "45"),
        ({"lang": "de", "year": 2000}, "1"),
        ({"lang": "de", "year": 1999}, ""),
        ({"naïve $.field": 5}, "4"),
        ({"missing": None}, "012345"),
        ({"missing": "x"}, ""),
    ],
)
def test_a_filter_admits_exactly_the_rows_that_match(
    writer: IndexWriter, reader: IndexReader, filter: dict[str, object], expected: str
) -> None:
    writer.write(
        [row(str(n), metadata=metadata) for n, metadata in enumerate(LANGUAGES)],
        vectors(len(LANGUAGES)),
        space=SPACE,
    )
    assert sorted(ids(hits_of(reader, vectors(1)[0], filter=filter))) == list(expected)


@pytest.mark.parametrize(
    "filter",
    [
        {'quoted"name': 1},
        {"back\\slash": 1},
        {"": 1},
        {"a": {"nested": 1}},
        {"a": float("nan")},
        {"a": b"bytes"},
    ],
)
def test_a_filter_that_cannot_be_meant_is_refused(
    reader: IndexReader, filter: dict[str, object]
) -> None:
    with pytest.raises(UsageError):
        hits_of(reader, vectors(1)[0], filter=filter)


def test_a_rare_value_is_found_however_far_away_it_is(store: Store) -> None:
    """Not the nearest ten, filtered; but the ten nearest of those that match."""
    stored = vectors(ENOUGH)
    written = [
        row(f"d{n:05d}", metadata={"rare": n % 50 == 0, "tags": list(range(n % 3))})
        for n in range(ENOUGH)
    ]
    about = manifest(factory=store.factory)
    index = make_index(store, about, written, stored, build=True)
    keys = [r.id for r in written if r.metadata["rare"]]
    query = vectors(1, seed=1)[0]
    with closing(store.reader(index)) as reader:
        hits = hits_of(reader, query, filter={"rare": True})
    assert ids(hits) == [id for id, _ in brute_force(query, keys, stored[::50], 10)]


def test_a_filter_sees_replaced_metadata_and_no_dead_rows(
    writer: IndexWriter, reader: IndexReader
) -> None:
    writer.write([row(id, metadata={"v": 1}) for id in "abc"], vectors(3), space=SPACE)
    writer.write_metadata([row("a", 2, metadata={"v": 2})])
    writer.write([row("b", 2, metadata={"v": 2})], vectors(1, seed=1), space=SPACE)
    writer.delete([("c", 2)])
    query = vectors(1)[0]
    assert sorted(ids(hits_of(reader, query, filter={"v": 2}))) == ["a", "b"]
    assert hits_of(reader, query, filter={"v": 1}) == []


# -- reading everything -----------------------------------------------------------------------


def test_states_come_in_the_order_of_the_bytes_of_id_and_chunk(
    writer: IndexWriter, reader: IndexReader
) -> None:
    names = ["b", "a", "B", "ä", "z", "aa", "😀", "\uffff", "a b", "10", "9", "é"]
    writer.write(
        [row(id, chunk=chunk) for id in names for chunk in (10, 9)], vectors(24), space=SPACE
    )
    expected = [(id, chunk) for id in sorted(names, key=str.encode) for chunk in (9, 10)]
    assert [(state.id, state.chunk) for state in reader.states()] == expected


def test_a_scan_is_of_one_moment(writer: IndexWriter, reader: IndexReader) -> None:
    writer.write(rows(range(1000)), vectors(1000), space=SPACE)
    states = reader.states()
    seen = [next(states)]
    writer.delete([(f"d{number:05d}", 2) for number in range(500, 1000)])
    seen += states
    assert len(seen) == 1000
    assert sum(1 for _ in reader.states()) == 500


def test_get_returns_the_live_rows_of_some_documents(
    writer: IndexWriter, reader: IndexReader
) -> None:
    writer.write([row("a"), row("a", chunk=1), row("b"), row("c")], vectors(4), space=SPACE)
    writer.delete([("b", 2)])
    found = reader.get(["a", "b", "missing"])
    assert sorted((state.id, state.chunk) for state in found) == [("a", 0), ("a", 1)]


def test_a_vector_that_is_not_there_is_named(writer: IndexWriter, reader: IndexReader) -> None:
    writer.write([row("a")], vectors(1), space=SPACE)
    with pytest.raises(KeyError, match="'a', 1"):
        reader.vectors([("a", 0), ("a", 1)])
    assert reader.vectors([]).shape == (0, DIMENSIONS)


def test_blocks_hold_every_live_vector_once_as_it_was_written(
    writer: IndexWriter, reader: IndexReader
) -> None:
    assert list(reader.blocks()) == []
    writer.write(rows(range(100)), vectors(100), space=SPACE)
    writer.delete([(f"d{number:05d}", 2) for number in range(0, 100, 4)])
    blocks = list(reader.blocks(size=30))
    assert [len(block) for block in blocks] == [30, 30, 15]
    kept = np.array([vector for number, vector in enumerate(vectors(100)) if number % 4])
    found = np.concatenate(blocks)
    np.testing.assert_array_equal(found[np.lexsort(found.T)], kept[np.lexsort(kept.T)])


def test_a_sound_index_has_no_problems(store: Store) -> None:
    about = manifest(factory=store.factory)
    index = make_index(store, about, rows(range(ENOUGH)), vectors(ENOUGH), build=True)
    with closing(store.reader(index)) as reader:
        assert reader.problems() == []
        statistics = reader.statistics()
        assert (statistics.vectors, statistics.dead) == (ENOUGH, 0)
        assert statistics.bytes > ENOUGH * DIMENSIONS * 4


def test_a_closed_reader_and_writer_can_be_closed_again(
    writer: IndexWriter, reader: IndexReader
) -> None:
    for opened in (writer, reader):
        opened.close()
        opened.close()


# -- at the same time -------------------------------------------------------------------------


def test_readers_see_every_document_exactly_once_while_it_is_rewritten(
    store: Store, index: str
) -> None:
    """Each round rewrites all documents with the round's vectors, in one write a document group.

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
