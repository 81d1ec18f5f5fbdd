"""What a reader of the pgvector store asks the server, and what it goes on through."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np
import psycopg
import pytest

from embedmigrate.errors import IndexGone, StorageUnavailable
from embedmigrate.models.index_spec import Metric
from embedmigrate.stores.pgvector.store import PgvectorStore
from tests.postgres_server import PostgresServer
from tests.stores.between import Between
from tests.stores.store_helpers import (
    ENOUGH,
    SPACE,
    brute_force,
    ids,
    make_index,
    manifest,
    pgvector_store,
    row,
    rows,
    vectors,
)


@pytest.fixture
def psql(vector_database: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with psycopg.connect(vector_database, autocommit=True) as connection:
        yield connection


def filled(
    url: str, schema: str, index: str = "hnsw", dimensions: int = 16, **options: object
) -> tuple[PgvectorStore, str]:
    """A store with an index of 700 rows, built."""
    store = pgvector_store(url, index, schema=schema, **options)
    about = manifest(factory=store.factory, dimensions=dimensions)
    some = [row(f"d{n:05d}", metadata={"n": n, "even": n % 2 == 0}) for n in range(ENOUGH)]
    return store, make_index(store, about, some, vectors(ENOUGH, dimensions=dimensions), build=True)


def scans(psql: psycopg.Connection[tuple[Any, ...]], schema: str, index: str) -> dict[str, int]:
    """How often each access method was used on the table of an index, now that nobody reads."""
    ours = (
        "SELECT FROM pg_stat_activity WHERE application_name = 'embedmigrate'"
        " AND datname = current_database()"
    )
    while psql.execute(ours).fetchone() is not None:  # it counts when it ends
        time.sleep(0.005)
    found = psql.execute(
        "SELECT a.amname, sum(pg_stat_get_numscans(i.indexrelid)) FROM pg_index AS i"
        " JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_am AS a ON a.oid = c.relam"
        " WHERE i.indrelid = %s::regclass GROUP BY 1",
        (f'{schema}."vectors_{index}"',),
    ).fetchall()
    return {name: int(times) for name, times in found}


# -- through the index, or not ----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hnsw", "ivfflat"])
def test_a_search_goes_through_the_ann_index_and_an_exact_one_does_not(
    vector_database: str, schema: str, psql: psycopg.Connection[tuple[Any, ...]], kind: str
) -> None:
    store, index = filled(vector_database, schema, kind, lists=16)

    def search(*, exact: bool) -> int:
        before = scans(psql, schema, index)[kind]
        with closing(store.reader(index)) as reader:
            reader.search(vectors(3, seed=1), 5, exact=exact)
            reader.search(vectors(2, seed=2), 5, {"even": True}, exact=exact)
        return scans(psql, schema, index)[kind] - before

    assert search(exact=False) >= 3
    assert search(exact=True) == 0


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "l2"])
def test_exact_search_is_exact_where_the_ann_index_hardly_tries(
    vector_database: str, schema: str, metric: Metric
) -> None:
    store = pgvector_store(vector_database, "ivfflat", schema=schema, lists=50, probes=1)
    about = manifest(factory=store.factory, metric=metric)
    index = make_index(store, about, rows(range(ENOUGH)), vectors(ENOUGH), build=True)
    queries = vectors(20, seed=1)
    keys = [f"d{number:05d}" for number in range(ENOUGH)]
    truth = [
        [id for id, _ in brute_force(query, keys, vectors(ENOUGH), 10, metric)] for query in queries
    ]
    with closing(store.reader(index)) as reader:
        exact = [ids(hits) for hits in reader.search(queries, 10, exact=True)]
        quick = [ids(hits) for hits in reader.search(queries, 10)]
    assert exact == truth
    assert quick != truth, "it tried harder than it was told to"


def test_small_effort_still_brings_as_many_as_were_asked_for(
    vector_database: str, schema: str
) -> None:
    """pgvector alone returns no more than ``ef_search``, and of those what the filter leaves."""
    store, index = filled(vector_database, schema, ef_search=1)
    with closing(store.reader(index)) as reader:
        assert [len(hits) for hits in reader.search(vectors(2, seed=1), 600)] == [600, 600]
        (few,) = reader.search(vectors(1, seed=1), 5, {"n": [1, 5, 9, 250, 699]})
        assert sorted(hit.metadata["n"] for hit in few) == [1, 5, 9, 250, 699]


def test_more_dimensions_than_a_vector_index_takes_are_searched_by_halves_and_scored_in_full(
    vector_database: str, schema: str, psql: psycopg.Connection[tuple[Any, ...]]
) -> None:
    store = pgvector_store(vector_database, "hnsw", schema=schema)
    about = manifest(factory=store.factory, dimensions=2500, metric="l2")
    stored = vectors(60, dimensions=2500)
    stored[1] = stored[0] + np.float32(1e-5)  # nearly all the same in half precision
    index = make_index(store, about, rows(range(60)), stored, build=True)
    with closing(store.reader(index)) as reader:
        found = reader.search(stored[:2], 3)
    assert scans(psql, schema, index)["hnsw"] >= 1
    with closing(store.reader(index)) as reader:
        assert [hits[0].id for hits in found] == ["d00000", "d00001"]
        assert found == reader.search(stored[:2], 3, exact=True)
        np.testing.assert_array_equal(reader.vectors([("d00001", 0)]), stored[1:2])


def test_a_vector_without_a_direction_is_as_far_as_a_right_angle(
    vector_database: str, schema: str
) -> None:
    store = pgvector_store(vector_database, "hnsw", schema=schema)
    stored = np.zeros((3, 16), np.float32)
    stored[0, 0], stored[1, 0] = 1, -1
    index = make_index(store, manifest(factory=store.factory), rows(range(3)), stored, build=True)
    with closing(store.reader(index)) as reader:
        for exact in (False, True):
            (hits,) = reader.search(stored[:1], 5, exact=exact)
            assert [(hit.id, hit.score) for hit in hits] == [
                ("d00000", 1.0), ("d00002", 0.0), ("d00001", -1.0),
            ]  # fmt: skip


# -- on the wire ------------------------------------------------------------------------------


def test_a_search_of_many_queries_takes_one_round_trip(
    postgres_server: PostgresServer, vector_database: str, schema: str
) -> None:
    _, index = filled(vector_database, schema)
    with Between(postgres_server.sockets) as between:
        distant = pgvector_store(between.url(vector_database), "hnsw", schema=schema)
        with closing(distant.reader(index)) as reader:
            before = between.round_trips
            reader.search(vectors(20, seed=1), 10)
            reader.search(vectors(20, seed=1), 10, {"even": True})
            reader.get(["d00001", "d00002"])
            reader.vectors([("d00001", 0)])
            reader.stamps(sample=100)
            assert between.round_trips - before == 5


def test_a_scan_streams(postgres_server: PostgresServer, vector_database: str, schema: str) -> None:
    """Whoever looks at the first row has not been sent the rest."""
    store = pgvector_store(vector_database, schema=schema)
    count = 12_000
    index = make_index(
        store, manifest(factory="none"), rows(range(count)), vectors(count), batch=4000
    )
    with Between(postgres_server.sockets) as between:
        distant = pgvector_store(between.url(vector_database), schema=schema)
        with closing(distant.reader(index)) as reader:
            before = between.round_trips
            states = reader.states()
            next(states)
            first = between.round_trips - before
            assert sum(1 for _ in states) == count - 1
            assert between.round_trips - before > first + 1


# -- what it goes on through ------------------------------------------------------------------


def test_a_reader_does_not_notice_that_the_server_was_restarted(
    postgres_server: PostgresServer, vector_database: str, schema: str
) -> None:
    store, index = filled(vector_database, schema)
    with closing(store.reader(index)) as reader, ThreadPoolExecutor(4) as threads:

        def look() -> list[object]:
            several = [threads.submit(reader.search, vectors(1, seed=n), 5) for n in range(8)]
            return [found.result() for found in several]

        before = look()
        postgres_server.restart()
        assert look() == before
        postgres_server.restart()
        assert len(list(reader.states())) == ENOUGH
        postgres_server.restart()
        assert sum(len(block) for block in reader.blocks()) == ENOUGH


def test_a_reader_of_a_server_that_is_down_says_so_and_goes_on_later(
    postgres_server: PostgresServer, vector_database: str, schema: str
) -> None:
    store, index = filled(vector_database, schema)
    with closing(store.reader(index)) as reader:
        postgres_server.stop()
        try:
            with pytest.raises(StorageUnavailable, match="postgresql://") as raised:
                reader.search(vectors(1), 5)
            assert "password" not in str(raised.value)
        finally:
            postgres_server.start()
        assert len(reader.search(vectors(1), 5)[0]) == 5


def test_another_index_of_the_same_name_is_not_taken_for_the_one_that_was_opened(
    vector_database: str, schema: str
) -> None:
    store, index = filled(vector_database, schema)
    with closing(store.reader(index)) as reader:
        store.drop(index)
        filled(vector_database, schema)
        with pytest.raises(IndexGone):
            reader.search(vectors(1), 5)
        with pytest.raises(IndexGone):
            next(reader.states())


def test_a_reader_behind_a_pooler_of_transactions_leaves_nothing_in_the_session(
    vector_database: str, schema: str, psql: psycopg.Connection[tuple[Any, ...]]
) -> None:
    store, index = filled(vector_database, schema)
    with closing(store.reader(index)) as reader:
        reader.search(vectors(1), 5)
        list(reader.states())
        with reader._connections.taken() as connection:  # type: ignore[attr-defined]
            psql.execute("LOAD 'vector'")
            for setting in ("hnsw.ef_search", "enable_seqscan", "search_path", "lock_timeout"):
                now = connection.execute(f"SHOW {setting}").fetchone()
                assert now == psql.execute(f"SHOW {setting}").fetchone()
            prepared = connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()
            assert prepared == (0,)


def test_the_sample_of_stamps_has_the_newest_and_is_of_the_size_that_was_asked_for(
    vector_database: str, schema: str
) -> None:
    store = pgvector_store(vector_database, schema=schema)
    about = manifest(factory="none", dimensions=384)
    store.create(about)
    with closing(store.writer(about.index, epoch=1, run="old")) as writer:
        for start in range(0, 3000, 500):
            some = rows(range(start, start + 500))
            writer.write(some, vectors(500, dimensions=384), space=SPACE)
        writer.begin("new")
        writer.write(rows(range(9000, 9005)), vectors(5, dimensions=384), space=SPACE)
    with closing(store.reader(about.index)) as reader:
        stamps = {stamp.run: stamp.vectors for stamp in reader.stamps(sample=400)}
        assert stamps["new"] == 5
        assert 150 < stamps["old"] < 900
        assert {it.run: it.vectors for it in reader.stamps()} == {"new": 5, "old": 3000}


def test_damage_that_the_server_lets_through_is_found(
    vector_database: str, schema: str, psql: psycopg.Connection[tuple[Any, ...]]
) -> None:
    store, index = filled(vector_database, schema)
    table = f'{schema}."vectors_{index}"'
    with closing(store.reader(index)) as reader:
        assert reader.problems() == []
        psql.execute(f'ALTER TABLE {table} DROP CONSTRAINT "vectors_{index}_pkey"')
        psql.execute(f"INSERT INTO {table} SELECT * FROM {table} WHERE id = 'd00003'")
        psql.execute(f"UPDATE {table} SET fingerprint = '' WHERE id = 'd00004'")
        assert reader.problems() == [
            "1 vectors have no fingerprint",
            "document 'd00003', chunk 0 is there 2 times",
        ]
