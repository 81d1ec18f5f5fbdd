"""What a writer of the pgvector store does on the wire, and what survives when it is cut off."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import psycopg
import pytest

from embedmigrate.errors import FencedOut, StorageUnavailable
from embedmigrate.stores.base import IndexWriter, Written
from embedmigrate.stores.pgvector.store import PgvectorStore
from tests.postgres_server import PostgresServer
from tests.stores.between import Between
from tests.stores.store_helpers import (
    SPACE,
    make_index,
    manifest,
    pgvector_store,
    row,
    rows,
    vectors,
)


@pytest.fixture
def store(vector_database: str, schema: str) -> PgvectorStore:
    return pgvector_store(vector_database, schema=schema)


@pytest.fixture
def index(store: PgvectorStore) -> str:
    return make_index(store, manifest(factory="none"), [], vectors(0))


@pytest.fixture
def table(schema: str, index: str) -> str:
    return f'"{schema}"."vectors_{index}"'


@pytest.fixture
def psql(vector_database: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with psycopg.connect(vector_database, autocommit=True) as connection:
        yield connection


# -- round trips ------------------------------------------------------------------------------


@pytest.fixture
def between(postgres_server: PostgresServer) -> Iterator[Between]:
    with Between(postgres_server.sockets) as passing_on:
        yield passing_on


@pytest.fixture
def distant(
    between: Between, vector_database: str, schema: str, index: str
) -> Iterator[IndexWriter]:
    """A writer whose round trips are counted."""
    store = pgvector_store(between.url(vector_database), schema=schema)
    with closing(store.writer(index, epoch=1, run="run-1")) as writer:
        yield writer


def trips(between: Between, action: Callable[[], object]) -> int:
    before = between.round_trips
    action()
    return between.round_trips - before


def test_a_batch_of_new_documents_takes_two_round_trips(
    between: Between, distant: IndexWriter
) -> None:
    for start in range(0, 1536, 512):
        some = rows(range(start, start + 512))
        assert trips(between, lambda some=some: distant.write(some, vectors(512), space=SPACE)) == 2  # type: ignore[misc]
    assert len(distant.existing([f"d{number:05d}" for number in range(1536)])) == 1536


def test_a_batch_that_replaces_takes_one_and_finding_out_one_more(
    between: Between, distant: IndexWriter
) -> None:
    distant.write(rows(range(100)), vectors(100), space=SPACE)

    def write(first: int, seq: int) -> None:
        written = distant.write(rows(range(first, first + 50), seq), vectors(50), space=SPACE)
        assert written == Written(50, 0)

    assert trips(between, lambda: write(0, 2)) == 2, "taken for new, then compared"
    assert trips(between, lambda: write(60, 3)) == 1
    assert trips(between, lambda: write(200, 3)) == 1, "new, and compared all the same"
    assert trips(between, lambda: write(300, 3)) == 2, "new again"


def test_everything_else_takes_one(between: Between, distant: IndexWriter) -> None:
    distant.write(rows(range(100)), vectors(100), space=SPACE)
    hashes = [row.content_hash for row in rows(range(100))]
    actions: list[Callable[[], object]] = [
        lambda: distant.write_metadata(rows(range(50), 2)),
        lambda: distant.delete([(f"d{number:05d}", 3) for number in range(20)]),
        lambda: distant.find_vectors(hashes),
        lambda: distant.existing(["d00077"]),
        lambda: distant.discard("run-1"),
        lambda: distant.forget_tombstones(9),
        lambda: distant.set_generation(2),
    ]
    assert [trips(between, action) for action in actions] == [1] * len(actions)


# -- who may write ----------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [False, True], ids=["new", "known"])
def test_a_write_that_a_takeover_comes_before_changes_nothing(
    store: PgvectorStore,
    index: str,
    schema: str,
    table: str,
    psql: psycopg.Connection[tuple[Any, ...]],
    stored: bool,
) -> None:
    """The takeover has begun, and commits while the write waits for it."""
    with closing(store.writer(index, epoch=1, run="run-1")) as zombie:
        if stored:
            zombie.write([row("a", 1)], vectors(1), space=SPACE)
            zombie.write([row("a", 2)], vectors(1), space=SPACE)
        with psql.transaction(), ThreadPoolExecutor(1) as pool:
            psql.execute(f"UPDATE {schema}.store_index SET owner_epoch = 2, owner_token = 'other'")
            late = pool.submit(zombie.write, [row("a", 9)], vectors(1, seed=1), space=SPACE)
            wait_for_a_lock(store, psql)
            psql.execute("COMMIT; BEGIN")
            with pytest.raises(FencedOut, match="owner epoch 2"):
                late.result(10)
        found = psql.execute(f"SELECT id, seq FROM {table}").fetchall()
        assert found == ([("a", 2)] if stored else [])


def wait_for_a_lock(store: PgvectorStore, psql: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Until a statement of ours waits for somebody."""
    waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = %s"
    with psycopg.connect(psql.info.dsn, autocommit=True) as other:
        for _ in range(1000):
            if other.execute(waiting, (psql.info.dbname,)).fetchone() is not None:
                return
            threading.Event().wait(0.005)
    raise AssertionError("nobody waited")


def test_a_takeover_waits_for_the_write_that_is_under_way(
    store: PgvectorStore, index: str, table: str, psql: psycopg.Connection[tuple[Any, ...]]
) -> None:
    """The write holds the row of the owner while it waits for a row of the table."""
    with closing(store.writer(index, epoch=1, run="run-1")) as first, ThreadPoolExecutor(2) as pool:
        first.write([row("a", 1)], vectors(1), space=SPACE)
        first.write([row("a", 2)], vectors(1), space=SPACE)
        with psql.transaction():
            psql.execute(f"SELECT FROM {table} FOR UPDATE")
            write = pool.submit(first.write, [row("a", 3)], vectors(1), space=SPACE)
            wait_for_a_lock(store, psql)
            takeover = pool.submit(store.writer, index, epoch=2, run="run-2")
            threading.Event().wait(0.1)
            assert not takeover.done()
        assert write.result(10) == Written(1, 0)
        with closing(takeover.result(10)) as second:
            assert [state.seq for state in second.existing(["a"])] == [3]
        with pytest.raises(FencedOut):
            first.write([row("a", 4)], vectors(1), space=SPACE)


# -- cut off ----------------------------------------------------------------------------------


def test_a_server_that_is_killed_in_the_middle_of_a_batch_keeps_what_it_acknowledged(
    postgres_server: PostgresServer,
    between: Between,
    vector_database: str,
    store: PgvectorStore,
    schema: str,
    index: str,
) -> None:
    about = manifest("wide", factory="none", dimensions=384)
    store.create(about)
    distant = pgvector_store(between.url(vector_database), schema=schema)
    killed = threading.Event()

    def kill() -> None:
        postgres_server.kill()
        killed.set()

    with closing(distant.writer("wide", epoch=1, run="run-1")) as writer:
        for start in range(0, 1024, 256):
            some = rows(range(start, start + 256))
            writer.write(some, vectors(256, dimensions=384), space=SPACE)
        between.after(200_000, kill)  # of the 450,000 bytes of the next one
        try:
            with pytest.raises(StorageUnavailable):
                writer.write(rows(range(1024, 1280)), vectors(256, dimensions=384), space=SPACE)
            assert killed.is_set()
        finally:
            postgres_server.start()
        with closing(store.reader("wide")) as reader:
            assert len(list(reader.states())) == 1024
            assert reader.problems() == []
        # The same writer goes on: the row of the index still has its token.
        assert writer.write(
            rows(range(1024, 1280)), vectors(256, dimensions=384), space=SPACE
        ) == Written(256, 0)


def test_a_writer_survives_a_restart_between_two_batches(
    postgres_server: PostgresServer, store: PgvectorStore, index: str
) -> None:
    with closing(store.writer(index, epoch=1, run="run-1")) as writer:
        writer.write(rows(range(3)), vectors(3), space=SPACE)
        postgres_server.restart()
        assert len(writer.existing(["d00001"])) == 1
        postgres_server.restart()
        with pytest.raises(StorageUnavailable):  # whether it was committed nobody can know
            writer.write(rows(range(3, 5)), vectors(2), space=SPACE)
        assert writer.write(rows(range(3, 5)), vectors(2), space=SPACE) == Written(2, 0)


def test_a_write_of_which_one_row_cannot_be_stored_stores_none(
    store: PgvectorStore, index: str, table: str, psql: psycopg.Connection[tuple[Any, ...]]
) -> None:
    psql.execute(f"ALTER TABLE {table} ADD CHECK (id <> 'd00007')")
    with closing(store.writer(index, epoch=1, run="run-1")) as writer:
        with pytest.raises(psycopg.errors.CheckViolation) as raised:
            writer.write(rows(range(10)), vectors(10), space=SPACE)
        assert "d00007" not in str(raised.value), "a row is quoted"
        assert writer.existing([r.id for r in rows(range(10))]) == []
        assert writer.write(rows(range(3)), vectors(3), space=SPACE) == Written(3, 0)


@pytest.mark.parametrize(
    "wrong", [float("nan"), object(), b"bytes"], ids=["nan", "object", "bytes"]
)
def test_a_write_of_which_one_row_cannot_be_made_stores_none(
    store: PgvectorStore, index: str, wrong: object
) -> None:
    some = [*rows(range(200)), replace(row("wrong"), metadata={"v": wrong})]
    with closing(store.writer(index, epoch=1, run="run-1")) as writer:
        with pytest.raises((ValueError, TypeError), match="JSON"):
            writer.write(some, vectors(201), space=SPACE)
        assert writer.existing([r.id for r in some]) == []
        assert writer.write(some[:200], vectors(200), space=SPACE) == Written(200, 0)


def test_what_is_acknowledged_is_flushed_whatever_the_role_prefers(
    vector_database: str, schema: str, psql: psycopg.Connection[tuple[Any, ...]]
) -> None:
    careless = vector_database + "&options=-c%20synchronous_commit%3Doff"
    store = pgvector_store(careless, schema=schema)
    index = make_index(store, manifest(factory="none"), [], vectors(0))
    psql.execute(
        f"""
        CREATE TABLE {schema}.seen (setting text);
        CREATE FUNCTION {schema}.look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO {schema}.seen VALUES (current_setting('synchronous_commit'));
            RETURN NULL;
        END $$;
        CREATE TRIGGER looks AFTER INSERT OR DELETE ON {schema}."vectors_{index}"
            EXECUTE FUNCTION {schema}.look();
        """
    )
    with closing(store.writer(index, epoch=1, run="run-1")) as writer:
        writer.write(rows([1]), vectors(1), space=SPACE)
        writer.write(rows([1]), vectors(1), space=SPACE)
        writer.delete([("d00001", 2)])
    seen = psql.execute(f"SELECT DISTINCT setting FROM {schema}.seen").fetchall()
    assert seen == [("local",)]


# -- what is left alone -----------------------------------------------------------------------


def test_filling_and_building_another_index_changes_no_byte_of_the_live_one(
    vector_database: str, schema: str, psql: psycopg.Connection[tuple[Any, ...]]
) -> None:
    store = pgvector_store(vector_database, "hnsw", schema=schema)
    live = make_index(
        store, manifest("live", factory=store.factory), rows(range(300)), vectors(300), build=True
    )

    def looks() -> list[tuple[Any, ...]]:
        table = f'{schema}."vectors_{live}"'
        return psql.execute(
            f"SELECT md5(string_agg(t.ctid::text || t.xmin::text || t.xmax::text || t::text, ','"
            f" ORDER BY t.ctid)), pg_relation_filenode('{table}'),"
            f" pg_total_relation_size('{table}')"
            f" FROM {table} AS t"
        ).fetchall()

    before = looks()
    make_index(
        store, manifest("next", factory=store.factory), rows(range(300)), vectors(300), build=True
    )
    store.drop("next")
    assert looks() == before


# -- odd contents -----------------------------------------------------------------------------


def test_ids_that_no_text_of_postgresql_can_hold_keep_their_place_in_the_order(
    store: PgvectorStore, index: str, psql: psycopg.Connection[tuple[Any, ...]], table: str
) -> None:
    names = ["a", "a\x00", "a\x00b", "a\x01", "a\x01\x01", "a\x01\x02", "a\x02", "\x00", "b'%s\\"]
    with (
        closing(store.writer(index, epoch=1, run="run-1")) as writer,
        closing(store.reader(index)) as reader,
    ):
        writer.write([row(name) for name in names], vectors(len(names)), space=SPACE)
        ordered = sorted(names, key=str.encode)
        assert [state.id for state in reader.states()] == ordered
        assert sorted(state.id for state in reader.get(names)) == sorted(names)
        assert {hit.id for hit in reader.search(vectors(1), 20)[0]} == set(names)
        reader.vectors([(name, 0) for name in names])
        assert writer.delete([("a\x00", 2)]) == Written(1, 0)
        assert writer.write([row("a\x00", 1), row("a", 1)], vectors(2), space=SPACE) == (1, 1)
        assert sorted(it.id for it in writer.existing(names)) == sorted({*names} - {"a\x00"})
    plain = psql.execute(f"SELECT count(*) FROM {table} WHERE id = 'a'").fetchall()
    assert plain == [(1,)], "other ids stand there as they are"


@pytest.mark.parametrize(
    "text", ["\x00", "\ud800", "a\ud83dz", "\\u0000", "\ufffd", "1e5"], ids=ascii
)
def test_text_that_jsonb_cannot_hold_is_found_by_itself_alone(
    store: PgvectorStore, index: str, text: str
) -> None:
    others = ["\x00\x00", "\udfff", "\ufffd\ufffd", "a\ufffdz", "u0000", "1e6"]
    with (
        closing(store.writer(index, epoch=1, run="run-1")) as writer,
        closing(store.reader(index)) as reader,
    ):
        some = [row(str(n), metadata={"v": it}) for n, it in enumerate([text, *others])]
        writer.write(some, vectors(len(some)), space=SPACE)
        ((hit,),) = reader.search(vectors(1), 9, {"v": text})
        assert (hit.id, hit.metadata) == ("0", {"v": text})
        assert len(reader.search(vectors(1), 9, {"v": [text, *others]})[0]) == len(some)


def test_vectors_are_stored_bit_for_bit(store: PgvectorStore, index: str) -> None:
    odd = vectors(4)
    odd[0, :4] = [np.float32(1e-45), np.float32(-0.0), np.finfo(np.float32).max, np.float32(1) / 3]
    with closing(store.writer(index, epoch=1, run="run-1")) as writer:
        writer.write(rows(range(4)), odd, space=SPACE)
        writer.write(rows(range(2, 4), 2), odd[2:], space=SPACE)
    with closing(store.reader(index)) as reader:
        stored = reader.vectors([(r.id, 0) for r in rows(range(4))])
    assert stored.tobytes() == odd.tobytes()
