"""What a search finds, whatever the index is made of."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from embedmigrate.embedders.base import Vectors
from embedmigrate.errors import UsageError
from embedmigrate.models.index_spec import Metric
from embedmigrate.stores.base import IndexReader, IndexWriter, Store
from embedmigrate.testing.conformance.examples import (
    DIMENSIONS,
    ENOUGH,
    SPACE,
    brute_force,
    hits_of,
    ids,
    make_index,
    manifest,
    row,
    rows,
    vectors,
)
from embedmigrate.testing.conformance.fixtures import StoreFixtures

LANGUAGES: list[dict[str, object]] = [
    {"lang": "en", "year": 1999, "open": True},
    {"lang": "de", "year": 2000.0, "open": False},
    {"lang": "fr", "year": "2000", "open": 1},
    {"lang": None, "year": 2000, "open": "true"},
    {"year": None, 'a"b': "en", "naïve $.field": 5},
    {"lang": ["en"], "year": {"lang": "en"}},
]


class SearchConformance(StoreFixtures):
    """The nearest, best first, as arithmetic says."""

    @pytest.mark.parametrize("normalized", [True, False])
    @pytest.mark.parametrize("metric", ["cosine", "inner_product", "l2"])
    def test_search_finds_what_brute_force_finds(
        self, store: Store, metric: Metric, normalized: bool
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
                for query, hits in zip(
                    queries, reader.search(queries, 10, exact=exact), strict=True
                ):
                    expected = brute_force(query, keys, stored, 10, metric)
                    assert ids(hits) == [id for id, _ in expected]
                    scores = [hit.score for hit in hits]
                    assert scores == pytest.approx([score for _, score in expected], rel=1e-5)

    @pytest.mark.parametrize("metric", ["cosine", "inner_product", "l2"])
    def test_ann_and_tail_together_find_what_brute_force_finds(
        self, store: Store, metric: Metric
    ) -> None:
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
                    assert ids(hits) == [
                        id for id, _ in brute_force(query, keys, stored, 10, metric)
                    ]
                    assert hits == hits_of(reader, query)
                writer.build()
            assert reader.statistics().vectors == len(truth)

    def test_one_query_and_many_queries_get_the_same_answer(self, store: Store) -> None:
        about = manifest(factory=store.factory)
        index = make_index(store, about, rows(range(ENOUGH)), vectors(ENOUGH), build=True)
        queries = vectors(40, seed=1)
        with closing(store.reader(index)) as reader:
            together = reader.search(queries, 10)
            assert [reader.search(query[np.newaxis], 10)[0] for query in queries] == together
            assert reader.search(queries, 10, exact=True) == together

    def test_equal_vectors_come_in_the_order_of_their_ids(
        self, writer: IndexWriter, reader: IndexReader
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

    def test_a_search_returns_no_more_than_there_is(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        query = vectors(2, seed=9)
        assert reader.search(query, 10) == [[], []]
        assert reader.search(query[:0], 10) == []
        writer.write(rows(range(3)), vectors(3), space=SPACE)
        assert [len(hits) for hits in reader.search(query, 10)] == [3, 3]
        writer.delete([("d00001", 2)])
        assert [sorted(ids(hits)) for hits in reader.search(query, 10)] == [
            ["d00000", "d00002"]
        ] * 2

    def test_a_search_for_everything_returns_everything(self, store: Store) -> None:
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
    def test_a_query_that_does_not_fit_is_refused(
        self, reader: IndexReader, wrong: Vectors
    ) -> None:
        with pytest.raises(ValueError, match=r"float32|finite"):
            reader.search(wrong, 10)

    def test_k_is_at_least_one(self, reader: IndexReader) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            reader.search(vectors(1), 0)


class FilterConformance(StoreFixtures):
    """The nearest of those that a filter admits."""

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
        self, writer: IndexWriter, reader: IndexReader, filter: dict[str, object], expected: str
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
        self, reader: IndexReader, filter: dict[str, object]
    ) -> None:
        with pytest.raises(UsageError):
            hits_of(reader, vectors(1)[0], filter=filter)

    def test_a_rare_value_is_found_however_far_away_it_is(self, store: Store) -> None:
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
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        writer.write([row(id, metadata={"v": 1}) for id in "abc"], vectors(3), space=SPACE)
        writer.write_metadata([row("a", 2, metadata={"v": 2})])
        writer.write([row("b", 2, metadata={"v": 2})], vectors(1, seed=1), space=SPACE)
        writer.delete([("c", 2)])
        query = vectors(1)[0]
        assert sorted(ids(hits_of(reader, query, filter={"v": 2}))) == ["a", "b"]
        assert hits_of(reader, query, filter={"v": 1}) == []
