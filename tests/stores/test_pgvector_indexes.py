"""Making, building and dropping indexes in PostgreSQL, and what the store refuses."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg
import pytest
from pydantic import ValidationError

from embedmigrate.errors import (
    ConfigError,
    DamagedIndex,
    FencedOut,
    Refused,
    StorageUnavailable,
    UnknownCatalog,
)
from embedmigrate.stores.base import BuildProgress, TellsProgress
from embedmigrate.stores.pgvector.factory import Factory
from embedmigrate.stores.pgvector.names import document_id, stored_id, table_name
from embedmigrate.stores.pgvector.store import PgvectorStore
from tests.postgres_server import PostgresServer
from tests.stores.store_helpers import (
    SPACE,
    make_index,
    manifest,
    pgvector_store,
    rows,
    vectors,
)


@pytest.fixture
def psql(vector_database: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with psycopg.connect(vector_database, autocommit=True) as connection:
        yield connection


# -- configuration ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schema", ["", "Upper", "a-b", 'a"b', "pg_mine", "information_schema", "9x"]
)
def test_a_schema_must_be_a_plain_name_of_ones_own(schema: str) -> None:
    with pytest.raises(ValidationError):
        pgvector_store("postgresql://host/db", schema=schema)


@pytest.mark.parametrize(
    "options",
    [
        {"index": "hnsw", "m": 1},
        {"index": "hnsw", "m": 40, "ef_construction": 79},
        {"index": "ivfflat", "lists": 0},
        {"index": "ivfflat", "lists": 40_000},
        {"index": "flat"},
        {"maintenance_work_mem": "much"},
        {"maintenance_work_mem": "1GB'; DROP"},
        {"ef_search": 1001},
        {"build_workers": -1},
    ],
)
def test_what_pgvector_cannot_do_is_refused_before_anything_is_asked(
    options: dict[str, Any],
) -> None:
    with pytest.raises(ValidationError):
        pgvector_store("postgresql://host/db", **options)


def test_reading_a_configuration_imports_no_driver() -> None:
    program = (
        "import sys; from embedmigrate.registry import adapter; import embedmigrate.testing;"
        "adapter('stores', 'pgvector').Config(kind='pgvector', url='postgresql://host/db');"
        "print(sorted({'psycopg', 'pgvector', 'sqlalchemy', 'pytest'} & sys.modules.keys()))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "[]\n"


def test_a_url_of_another_database_is_refused_without_being_shown() -> None:
    with pytest.raises(ConfigError) as raised:
        pgvector_store("mysql://me:secret@host/db")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("none", "none"),
        ("hnsw", "hnsw(m=16,ef_construction=64)"),
        ("hnsw(ef_construction=100)", "hnsw(m=16,ef_construction=100)"),
        ("hnsw(ef_construction=200, m=32)", "hnsw(m=32,ef_construction=200)"),
        ("ivfflat", "ivfflat(lists=auto)"),
        ("ivfflat(lists=auto)", "ivfflat(lists=auto)"),
        ("ivfflat(lists=100)", "ivfflat(lists=100)"),
    ],
)
def test_a_factory_is_read_and_written_in_one_form(text: str, canonical: str) -> None:
    assert str(Factory.parse(text)) == canonical
    assert Factory.parse(canonical) == Factory.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "Flat", "HNSW32", "", "hnsw(", "hnsw()x", "hnsw(m=)", "hnsw(m=x)", "hnsw(lists=3)",
        "ivfflat(m=3)", "none(m=3)", "hnsw(m=1000)", "ivfflat(lists=0)", "hnsw(lists=auto)",
    ],
)  # fmt: skip
def test_any_other_factory_is_refused(vector_database: str, schema: str, text: str) -> None:
    with pytest.raises(ValueError, match="expected none, hnsw"):
        Factory.parse(text)
    with pytest.raises(ConfigError, match="expected none, hnsw"):
        pgvector_store(vector_database, schema=schema).create(manifest(factory=text))


@pytest.mark.parametrize(
    ("rows", "lists"), [(0, 1), (999, 1), (50_000, 50), (1_000_000, 1000), (4_000_000, 2000)]
)
def test_the_lists_of_ivfflat_follow_the_rows(rows: int, lists: int) -> None:
    assert Factory.parse("ivfflat").lists_for(rows) == lists
    assert Factory.parse("ivfflat(lists=7)").lists_for(rows) == 7


@pytest.mark.parametrize(
    ("index", "dimensions"), [("hnsw", 4001), ("ivfflat", 4001), ("none", 16_001)]
)
def test_more_dimensions_than_pgvector_has_are_refused(
    vector_database: str, schema: str, index: str, dimensions: int
) -> None:
    store = pgvector_store(vector_database, index, schema=schema)
    with pytest.raises(ConfigError, match="dimensions"):
        store.create(manifest(factory=store.factory, dimensions=dimensions))


# -- names ------------------------------------------------------------------------------------


def test_no_two_indexes_share_a_table() -> None:
    names = ["a", "A", "a-b", "a_b", "a.b", "a@b", "x" * 55, "x" * 56, "x" * 57, "x" * 128]
    tables = {table_name(name) for name in names}
    assert len(tables) == len(names)
    assert all(len(table) <= 63 for table in tables)


@pytest.mark.parametrize("id", ["a", "", "\x00", "\x01", "\x00\x01\x02", "\x01\x01", "ä\x01\x00"])
def test_an_id_is_found_again_in_what_is_stored(id: str) -> None:
    assert document_id(stored_id(id)) == id
    assert "\x00" not in stored_id(id)


def test_an_index_with_a_long_name_is_an_index_like_any_other(
    vector_database: str, schema: str
) -> None:
    store = pgvector_store(vector_database, "hnsw", schema=schema)
    long = ["n" * 120 + "-1", "n" * 120 + "-2"]
    for name in long:
        make_index(store, manifest(name, factory=store.factory), rows([1]), vectors(1), build=True)
    assert [found.index for found in store.manifests()] == long
    store.drop(long[0])
    with closing(store.reader(long[1])) as reader:
        assert reader.statistics().vectors == 1


# -- the server -------------------------------------------------------------------------------


def test_a_database_without_pgvector_is_a_matter_of_configuration(
    postgres_server: PostgresServer,
) -> None:
    with postgres_server.database() as name, postgres_server.connect(name) as connection:
        connection.execute("DROP EXTENSION vector")
        store = pgvector_store(postgres_server.url(name))
        for attempt in (store.check_writable, lambda: store.create(manifest(factory="none"))):
            with pytest.raises(ConfigError, match="CREATE EXTENSION vector"):
                attempt()
        assert list(store.manifests()) == []


def test_pgvector_may_lie_in_any_schema(postgres_server: PostgresServer) -> None:
    with postgres_server.database() as name, postgres_server.connect(name) as connection:
        connection.execute('DROP EXTENSION vector; CREATE SCHEMA "Ext\'s"')
        connection.execute('CREATE EXTENSION vector SCHEMA "Ext\'s"')
        for kind in ("hnsw", "ivfflat"):
            store = pgvector_store(postgres_server.url(name), kind)
            about = manifest(kind, factory=store.factory)
            index = make_index(store, about, rows(range(50)), vectors(50), build=True)
            with closing(store.reader(index)) as reader:
                assert len(reader.search(vectors(2), 10, {"number": [1, 2]})[0]) == 2
                assert reader.search(vectors(2), 10) == reader.search(vectors(2), 10, exact=True)
                assert reader.problems() == []


def test_a_role_that_may_not_make_tables_is_told_what_it_lacks(
    postgres_server: PostgresServer, vector_database: str, schema: str
) -> None:
    role = f"role_{schema}"
    with psycopg.connect(vector_database, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN")
        url = vector_database.replace("postgres@", f"{role}@")
        store = pgvector_store(url, "hnsw", schema=schema)
        for attempt in (store.check_writable, lambda: store.create(manifest(factory="none"))):
            with pytest.raises(ConfigError, match=f"CREATE SCHEMA {schema} AUTHORIZATION"):
                attempt()
        connection.execute(f"CREATE SCHEMA {schema} AUTHORIZATION {role}")
        store.check_writable()
        index = make_index(
            store, manifest(factory=store.factory), rows(range(9)), vectors(9), build=True
        )
        store.drop(index)


def test_a_standby_cannot_be_written(vector_database: str, schema: str) -> None:
    read_only = vector_database + "&options=-c%20default_transaction_read_only%3Don"
    with pytest.raises(StorageUnavailable, match="the primary server"):
        pgvector_store(read_only, schema=schema).check_writable()


def test_every_connection_says_whose_it_is(postgres: str) -> None:
    store = pgvector_store(postgres)
    index = make_index(store, manifest(factory="none"), [], vectors(0))
    others = (
        "SELECT DISTINCT application_name FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with (
        psycopg.connect(postgres) as psql,
        closing(store.reader(index)),
        closing(store.writer(index, epoch=1, run="r")),
    ):
        assert psql.execute(others).fetchall() == [("embedmigrate",)]


def test_an_index_of_a_newer_program_is_left_alone(
    vector_database: str, schema: str, psql: psycopg.Connection[tuple[Any, ...]]
) -> None:
    store = pgvector_store(vector_database, schema=schema)
    index = make_index(store, manifest(factory="none"), [], vectors(0))
    psql.execute(f"UPDATE {schema}.store_index SET layout = 2")
    with pytest.raises(UnknownCatalog, match="newer"):
        store.reader(index)
    psql.execute(f"UPDATE {schema}.store_index SET layout = 1")
    psql.execute(f'DROP TABLE {schema}."vectors_{index}"')
    with pytest.raises(DamagedIndex, match="its table is missing"):
        store.writer(index, epoch=1, run="r")


def test_several_may_make_the_first_index_at_once(vector_database: str, schema: str) -> None:
    with ThreadPoolExecutor(6) as threads:
        stores = [pgvector_store(vector_database, schema=schema) for _ in range(6)]
        made = [
            threads.submit(it.create, manifest(f"i{n % 3}", factory="none"))
            for n, it in enumerate(stores)
        ]
        for one in made:
            one.result()
    assert [found.index for found in stores[0].manifests()] == ["i0", "i1", "i2"]


# -- dropping ---------------------------------------------------------------------------------


def test_dropping_gives_up_behind_an_open_transaction_and_holds_no_reader_up(
    vector_database: str,
    schema: str,
    psql: psycopg.Connection[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("embedmigrate.stores.pgvector.tables._LOCK_MILLISECONDS", 300)
    monkeypatch.setattr("embedmigrate.stores.pgvector.tables._ATTEMPTS", 2)
    store = pgvector_store(vector_database, schema=schema)
    index = make_index(store, manifest(factory="none"), rows([1]), vectors(1))
    with closing(store.reader(index)) as reader, ThreadPoolExecutor(1) as threads:
        with psql.transaction():
            psql.execute(f'SELECT FROM {schema}."vectors_{index}"')
            dropping = threads.submit(store.drop, index)
            longest = 0.0
            while not dropping.done():
                began = time.monotonic()
                assert len(reader.search(vectors(1), 5)[0]) == 1
                longest = max(longest, time.monotonic() - began)
            with pytest.raises(StorageUnavailable, match="cannot be used now"):
                dropping.result()
            assert 0.1 < longest < 0.8, "it waited behind the drop, and no longer"
        assert [found.index for found in store.manifests()] == [index]
        store.drop(index)
        assert list(store.manifests()) == []


def test_dropping_forgets_the_tombstones(
    vector_database: str, schema: str, psql: psycopg.Connection[tuple[Any, ...]]
) -> None:
    store = pgvector_store(vector_database, schema=schema)
    for name in ("one", "two"):
        make_index(store, manifest(name, factory="none"), [], vectors(0))
        with closing(store.writer(name, epoch=1, run="r")) as writer:
            writer.delete([("a", 5)])
    store.drop("one")
    left = psql.execute(f"SELECT index, id, seq FROM {schema}.store_tombstone").fetchall()
    assert left == [("two", "a", 5)]


def test_what_somebody_built_on_an_index_is_not_torn_down(
    vector_database: str, schema: str, psql: psycopg.Connection[tuple[Any, ...]]
) -> None:
    store = pgvector_store(vector_database, schema=schema)
    index = make_index(store, manifest(factory="none"), rows([1]), vectors(1))
    psql.execute(f'CREATE VIEW {schema}.mine AS SELECT id FROM {schema}."vectors_{index}"')
    with pytest.raises(Refused, match="something depends"):
        store.drop(index)
    with closing(store.reader(index)) as reader:
        assert reader.statistics().vectors == 1


# -- building ---------------------------------------------------------------------------------


def ann_indexes(psql: psycopg.Connection[tuple[Any, ...]], schema: str) -> list[str]:
    """The definitions of the ANN indexes in a schema."""
    found = psql.execute(
        "SELECT indexdef FROM pg_indexes WHERE schemaname = %s"
        " AND (indexdef LIKE '%%hnsw%%' OR indexdef LIKE '%%ivfflat%%')",
        (schema,),
    ).fetchall()
    return [definition for (definition,) in found]


@pytest.mark.parametrize("kind", ["hnsw", "ivfflat"])
def test_building_again_does_nothing_and_an_empty_index_needs_nothing(
    vector_database: str, schema: str, psql: psycopg.Connection[tuple[Any, ...]], kind: str
) -> None:
    store = pgvector_store(vector_database, kind, schema=schema)
    index = make_index(store, manifest(factory=store.factory), [], vectors(0), build=True)
    assert ann_indexes(psql, schema) == []
    with closing(store.writer(index, epoch=1, run="r")) as writer:
        writer.write(rows(range(10)), vectors(10), space=SPACE)
        writer.build()
        built = psql.execute("SELECT max(oid) FROM pg_class").fetchone()
        writer.build()
        assert psql.execute("SELECT max(oid) FROM pg_class").fetchone() == built
    assert len(ann_indexes(psql, schema)) == 1


def test_the_options_of_the_configuration_reach_the_server(
    vector_database: str, schema: str, psql: psycopg.Connection[tuple[Any, ...]]
) -> None:
    store = pgvector_store(
        vector_database, "hnsw", schema=schema, m=8, ef_construction=40,
        maintenance_work_mem="80MB", build_workers=0,
    )  # fmt: skip
    about = manifest(factory=store.factory, metric="inner_product")
    make_index(store, about, rows(range(10)), vectors(10), build=True)
    (definition,) = ann_indexes(psql, schema)
    assert "vector_ip_ops" in definition
    assert "m='8', ef_construction='40'" in definition


def test_ivfflat_is_built_anew_when_the_rows_have_more_than_doubled(
    vector_database: str, schema: str, psql: psycopg.Connection[tuple[Any, ...]]
) -> None:
    store = pgvector_store(vector_database, "ivfflat", schema=schema)
    index = make_index(
        store, manifest(factory=store.factory), rows(range(1000)), vectors(1000), build=True
    )
    with closing(store.writer(index, epoch=1, run="r")) as writer:
        writer.write(rows(range(1000, 2000)), vectors(1000), space=SPACE)
        writer.build()
        assert ["lists='1'" in it for it in ann_indexes(psql, schema)] == [True]
        writer.write(rows(range(2000, 2001)), vectors(1), space=SPACE)
        writer.build()
        assert ["lists='2'" in it for it in ann_indexes(psql, schema)] == [True]
    with closing(store.reader(index)) as reader:
        assert reader.statistics().ann_through == 2001


def test_an_index_that_was_made_by_hand_is_used(
    vector_database: str, schema: str, psql: psycopg.Connection[tuple[Any, ...]]
) -> None:
    store = pgvector_store(vector_database, "hnsw", schema=schema)
    index = make_index(store, manifest(factory=store.factory), rows(range(9)), vectors(9))
    psql.execute(
        f'CREATE INDEX CONCURRENTLY ON {schema}."vectors_{index}"'
        " USING hnsw (embedding vector_cosine_ops)"
    )
    with closing(store.writer(index, epoch=1, run="r")) as writer:
        writer.build()
    assert len(ann_indexes(psql, schema)) == 1
    with closing(store.reader(index)) as reader:
        assert reader.statistics().ann_through == 9


def slow_index(vector_database: str, schema: str, count: int) -> tuple[PgvectorStore, str]:
    """An index that takes some seconds to build."""
    store = pgvector_store(
        vector_database, "hnsw", schema=schema, m=100, ef_construction=1000, build_workers=0
    )
    about = manifest(factory=store.factory, dimensions=64)
    return store, make_index(
        store, about, rows(range(count)), vectors(count, dimensions=64), batch=1000
    )


def wait_until_it_builds(psql: psycopg.Connection[tuple[Any, ...]]) -> None:
    for _ in range(2000):
        if psql.execute("SELECT FROM pg_stat_progress_create_index").fetchone() is not None:
            return
        time.sleep(0.005)
    raise AssertionError("nothing is built")


def test_whoever_takes_over_ends_the_build_of_the_one_before(
    vector_database: str, schema: str, psql: psycopg.Connection[tuple[Any, ...]]
) -> None:
    """A process that was killed leaves its backend building, and nobody could write meanwhile."""
    store, index = slow_index(vector_database, schema, 4000)
    with closing(store.writer(index, epoch=1, run="r")) as zombie, ThreadPoolExecutor(1) as threads:
        building = threads.submit(zombie.build)
        wait_until_it_builds(psql)
        began = time.monotonic()
        with closing(store.writer(index, epoch=2, run="r")) as owner:
            owner.write(rows(range(9000, 9003)), vectors(3, dimensions=64), space=SPACE)
            assert time.monotonic() - began < 1
            with pytest.raises(StorageUnavailable):
                building.result()
            assert ann_indexes(psql, schema) == [], "a build that is killed leaves nothing"
            with pytest.raises(FencedOut):
                zombie.build()


def test_a_build_that_another_writer_took_over_meanwhile_is_not_committed(
    vector_database: str, schema: str, psql: psycopg.Connection[tuple[Any, ...]]
) -> None:
    """Where the backend cannot be ended, as for another role, its work is thrown away."""
    store, index = slow_index(vector_database, schema, 300)
    with closing(store.writer(index, epoch=1, run="r")) as zombie, ThreadPoolExecutor(1) as threads:
        building = threads.submit(zombie.build)
        wait_until_it_builds(psql)
        psql.execute(f"UPDATE {schema}.store_index SET owner_epoch = 2, owner_token = 'other'")
        with pytest.raises(FencedOut):
            building.result()
    assert ann_indexes(psql, schema) == []


def test_a_build_without_shared_memory_for_its_workers_is_done_by_one_process(
    postgres: str,
) -> None:
    """As in a container with a small /dev/shm, where the server says 53100."""
    store = pgvector_store(postgres, "hnsw")
    index = make_index(store, manifest(factory=store.factory), rows(range(9)), vectors(9))
    with psycopg.connect(postgres, autocommit=True) as psql:
        psql.execute(
            """
            CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
                IF current_setting('max_parallel_maintenance_workers') <> '0' THEN
                    RAISE 'could not resize shared memory segment' USING ERRCODE = '53100';
                END IF;
            END $$;
            CREATE EVENT TRIGGER refuses ON ddl_command_start WHEN TAG IN ('CREATE INDEX')
                EXECUTE FUNCTION refuse();
            """
        )
        with closing(store.writer(index, epoch=1, run="r")) as writer:
            writer.build()
        assert len(ann_indexes(psql, "embedmigrate")) == 1


def test_a_writer_says_how_far_building_is(
    vector_database: str,
    schema: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("embedmigrate.stores.pgvector.ann._POLL_SECONDS", 0.02)
    store, index = slow_index(vector_database, schema, 300)
    seen: list[BuildProgress] = []
    with closing(store.writer(index, epoch=1, run="r")) as writer:
        telling: object = writer
        assert isinstance(telling, TellsProgress)
        telling.on_progress = seen.append
        writer.build()
    assert seen[-1].phase.startswith("building index")
    assert 0 < seen[-1].done <= seen[-1].total
    assert [it.done for it in seen] == sorted(it.done for it in seen)


def test_too_little_memory_for_building_is_said(
    vector_database: str,
    schema: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = pgvector_store(vector_database, "hnsw", schema=schema)
    about = manifest("small", factory=store.factory)
    make_index(store, about, rows(range(10)), vectors(10), build=True)
    assert caplog.records == []
    monkeypatch.setattr("embedmigrate.stores.pgvector.ann.memory_needed", lambda *_: 1 << 20)
    about = manifest("large", factory=store.factory)
    make_index(store, about, rows(range(10)), vectors(10), build=True)
    assert [it.fields for it in caplog.records] == [  # type: ignore[attr-defined]
        {"granted_kb": 64 << 10, "needed_kb": 1 << 20}
    ]
