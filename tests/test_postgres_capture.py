"""A PostgreSQL table that records its own changes by a trigger."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embedmigrate.errors import ConfigError, Temporary
from embedmigrate.models import Recipe
from embedmigrate.sources import postgres_capture
from embedmigrate.sources.base import Recording
from embedmigrate.sources.sql import SqlConfig, SqlSource
from tests.postgres_server import PostgresServer
from tests.sources.source_helpers import context
from tests.sources.test_postgres_source import KEYS
from tests.workspace import wait_for

Run = Callable[..., Any]
MakeSource = Callable[..., SqlSource]


@pytest.fixture
def run(postgres: str) -> Iterator[Run]:
    """Runs a statement as the owner of the database, each a transaction of its own."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        yield connection.execute


@pytest.fixture
def make_source(postgres: str, tmp_path: Path) -> Iterator[MakeSource]:
    with ExitStack() as stack:

        def make(**config: Any) -> SqlSource:
            given = {"kind": "sql", "url": postgres, "key": "id", "text": "body"}
            given |= {"table": "articles"} | config
            parsed = SqlConfig.model_validate(given)
            source = SqlSource(parsed, Recipe(text=("body",)), context(tmp_path))
            return stack.enter_context(closing(source))

        yield make


@pytest.fixture
def capture(run: Run, make_source: MakeSource) -> Recording:
    """Of a table with six articles, and a table of comments that go with them."""
    run("CREATE TABLE articles (id text PRIMARY KEY, slug text UNIQUE, body text)")
    run("INSERT INTO articles SELECT 'a' || g, 's' || g, 'text' FROM generate_series(1, 6) g")
    capture = make_source().recording()
    assert capture.token() is None
    assert capture.install()
    return capture


def recorded(capture: Recording, after: int = 0) -> set[tuple[str, str]]:
    return {(it.document_id, it.change) for it in capture.read(after, 1000)}


def ids(capture: Recording, after: int = 0) -> set[str]:
    return {it.document_id for it in capture.read(after, 1000)}


# -- what is recorded ---------------------------------------------------------------------------

CHANGES: dict[str, tuple[str, set[tuple[str, str]]]] = {
    "insert": ("INSERT INTO articles (id) VALUES ('new')", {("new", "changed")}),
    "update": ("UPDATE articles SET body = 'x' WHERE id = 'a1'", {("a1", "changed")}),
    "delete": ("DELETE FROM articles WHERE id = 'a1'", {("a1", "deleted")}),
    "another key": (
        "UPDATE articles SET id = 'A1' WHERE id = 'a1'",
        {("a1", "deleted"), ("A1", "changed")},
    ),
    "upsert": (
        "INSERT INTO articles (id) VALUES ('a1'), ('new')"
        " ON CONFLICT (id) DO UPDATE SET body = 'x'",
        {("a1", "changed"), ("new", "changed")},
    ),
    "merge": (
        "MERGE INTO articles AS a USING (VALUES ('a1'), ('a2'), ('new')) AS v (id) ON v.id = a.id"
        " WHEN MATCHED AND v.id = 'a1' THEN DELETE WHEN MATCHED THEN UPDATE SET body = 'x'"
        " WHEN NOT MATCHED THEN INSERT (id) VALUES (v.id)",
        {("a1", "deleted"), ("a2", "changed"), ("new", "changed")},
    ),
    "one that is deleted and comes back in one statement": (
        "WITH gone AS (DELETE FROM articles WHERE id = 'a1')"
        " INSERT INTO articles (id) VALUES ('new')",
        {("a1", "deleted"), ("new", "changed")},
    ),
    "many times in one transaction": (
        "DO $$ BEGIN FOR n IN 1..9 LOOP UPDATE articles SET body = n WHERE id = 'a1'; END LOOP;"
        " DELETE FROM articles WHERE id = 'a1'; END $$",
        {("a1", "deleted")},
    ),
    "a savepoint that is rolled back": (
        "DO $$ BEGIN UPDATE articles SET body = 'x' WHERE id = 'a1';"
        " BEGIN DELETE FROM articles; RAISE 'no'; EXCEPTION WHEN raise_exception THEN END; END $$",
        {("a1", "changed")},
    ),
    "as a replica": (
        "DO $$ BEGIN SET LOCAL session_replication_role = replica;"
        " DELETE FROM articles WHERE id = 'a1'; END $$",
        {("a1", "deleted")},
    ),
}


@pytest.mark.parametrize(("statement", "wanted"), CHANGES.values(), ids=CHANGES)
def test_every_kind_of_change_is_recorded(
    capture: Recording, run: Run, statement: str, wanted: set[tuple[str, str]]
) -> None:
    run(statement)
    assert recorded(capture) == wanted
    assert len(capture.read(0, 1000)) == len(wanted), "each document once"


def test_copy_is_recorded(capture: Recording, postgres: str) -> None:
    with (
        psycopg.connect(postgres) as connection,
        connection.cursor().copy("COPY articles (id) FROM STDIN") as copy,
    ):
        copy.write("x\ny\n")
    assert ids(capture) == {"x", "y"}


def test_rows_that_a_foreign_key_deletes_are_recorded(run: Run, make_source: MakeSource) -> None:
    run("CREATE TABLE authors (id int PRIMARY KEY)")
    run(
        "CREATE TABLE articles (id int PRIMARY KEY, body text, "
        "author int REFERENCES authors ON DELETE CASCADE)"
    )
    run("INSERT INTO authors VALUES (1)")
    run("INSERT INTO articles VALUES (7, 'a', 1), (8, 'b', NULL)")
    capture = make_source().recording()
    capture.install()
    run("DELETE FROM authors")
    assert recorded(capture) == {("7", "deleted")}


def test_a_transaction_that_is_rolled_back_leaves_no_record(
    capture: Recording, postgres: str
) -> None:
    with psycopg.connect(postgres) as connection:
        connection.execute("DELETE FROM articles")
        connection.rollback()
    assert capture.head() == 0 and capture.read(0, 10) == []


@pytest.mark.parametrize(("kind", "keys", "_ids"), KEYS.values(), ids=KEYS)
def test_the_id_of_a_change_is_the_id_of_the_document(
    run: Run, make_source: MakeSource, kind: str, keys: Sequence[Any], _ids: Any
) -> None:
    run("CREATE TYPE mood AS ENUM ('happy', 'sad')")
    run("CREATE DOMAIN code AS text CHECK (VALUE LIKE 'x-%')")
    run(f"CREATE TABLE articles (id {kind} PRIMARY KEY, body text)")
    source = make_source()
    source.recording().install()
    run("SET timezone = 'Asia/Tokyo'; SET datestyle = 'German'")
    for key in keys:
        run("INSERT INTO articles VALUES (%s, 'x')", (str(key),))
    run("RESET datestyle")
    assert ids(source.recording()) == {document.id for document in source.scan()}


def test_composite_keys_and_odd_names_are_recorded(run: Run, make_source: MakeSource) -> None:
    run('CREATE SCHEMA "My App"')
    table = '"My App"."50% ""of"" it; %s $record$"'
    run(f'CREATE TABLE {table} ("a\'b" int, "Order %s" text, body text)')
    source = make_source(table='My App.50% "of" it; %s $record$', key=["a'b", "Order %s"])
    source.recording().install()
    run(f"INSERT INTO {table} VALUES (1, 'x/y', 't'), (2, NULL, 't')")
    assert recorded(source.recording()) == {("1/x%2Fy", "changed")}, "NULL makes no key"
    run(f"UPDATE {table} SET \"Order %s\" = 'z'")
    assert ids(source.recording(), 1) == {"1/x%2Fy", "1/z", "2/z"}


# -- the order of the commits -------------------------------------------------------------------


def test_a_change_that_is_committed_late_gets_a_greater_number(
    capture: Recording, postgres: str, run: Run
) -> None:
    with psycopg.connect(postgres) as early:
        early.execute("UPDATE articles SET body = 'first' WHERE id = 'a1'")
        run("UPDATE articles SET body = 'second' WHERE id = 'a2'")
        (first,) = capture.read(0, 10)
        assert (first.number, first.document_id) == (1, "a2"), "and nothing waits for the other"
        for number in range(3):
            run("UPDATE articles SET body = %s WHERE id = 'a3'", (number,))
            assert capture.head() == 2 + number
        early.commit()
    assert [(it.number, it.document_id) for it in capture.read(4, 10)] == [(5, "a1")]


def test_numbers_have_no_gaps_and_tags_do_not_repeat(capture: Recording, run: Run) -> None:
    for number in range(5):
        run("UPDATE articles SET body = %s WHERE id = 'a1'", (number,))
        assert capture.head() == number + 1
    page = capture.read(2, 2)
    assert [(it.number, it.document_id) for it in page] == [(3, "a1"), (4, "a1")]
    assert len({it.tag for it in capture.read(0, 10)}) == 5
    capture.forget(5)
    capture.forget(3)
    assert [it.number for it in capture.read(0, 10)] == [5] and capture.head() == 5
    run("DELETE FROM articles WHERE id = 'a2'")
    assert [it.number for it in capture.read(4, 10)] == [5, 6]


WRITERS, EACH = 8, 25


def test_no_change_of_writers_that_commit_out_of_order_is_lost(
    capture: Recording, postgres: str, run: Run
) -> None:
    """With a control in the same workload: numbers that are taken by the writers lose changes."""
    run("CREATE TABLE control (number bigserial PRIMARY KEY, id text)")
    run("INSERT INTO articles SELECT 'w' || g, 't' || g FROM generate_series(0, 99) g")
    last = capture.head()
    committed: set[str] = set()
    rolled_back: set[str] = set()

    def write(writer: int) -> None:
        chance = random.Random(writer)
        with psycopg.connect(postgres) as connection:
            for number in range(EACH):
                name = f"{writer}-{number}"
                known = sorted(chance.sample(range(100), 2))  # in order: no deadlocks
                connection.execute("INSERT INTO articles (id) VALUES (%s)", (name,))
                connection.execute("INSERT INTO control (id) VALUES (%s)", (name,))
                time.sleep(chance.random() * 0.01)
                for it in known:
                    connection.execute(
                        "UPDATE articles SET body = %s WHERE id = %s", (name, f"w{it}")
                    )
                time.sleep(chance.random() * 0.01)
                if chance.random() < 0.2:
                    connection.rollback()
                    rolled_back.add(name)
                else:
                    connection.commit()
                    committed.update((name, *(f"w{it}" for it in known)))

    seen: set[str] = set()
    control_seen: set[str] = set()
    control_last = 0

    def read(capture: Recording) -> None:
        nonlocal last, control_last
        numbers = []
        for change in capture.read(last, 7):
            numbers.append(change.number)
            seen.add(change.document_id)
        assert numbers == list(range(last + 1, last + 1 + len(numbers)))
        last += len(numbers)
        capture.forget(last)
        for number, name in run(
            "SELECT number, id FROM control WHERE number > %s ORDER BY number", (control_last,)
        ).fetchall():
            control_last = number
            control_seen.add(name)

    threads = [threading.Thread(target=write, args=(it,)) for it in range(WRITERS)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        read(capture)
    for thread in threads:
        thread.join()
    while last < capture.head():
        read(capture)
    assert committed - seen == set()
    assert not seen & rolled_back
    control_missing = {it for it in committed if not it.startswith("w")} - control_seen
    assert control_missing, "the workload did not hit the window"


def test_readers_at_once_see_the_same_numbers(
    capture: Recording, make_source: MakeSource, postgres: str
) -> None:
    readers = [capture, *(make_source().recording() for _ in range(3))]
    found: list[list[Any]] = [[] for _ in readers]
    done = threading.Event()

    def follow(of: Recording, into: list[Any]) -> None:
        while True:
            ended = done.is_set()
            page = of.read(len(into), 1000)
            into += page
            if ended and not page:
                return

    threads = [threading.Thread(target=follow, args=it) for it in zip(readers, found, strict=True)]
    for thread in threads:
        thread.start()
    with psycopg.connect(postgres, autocommit=True) as connection:
        for number in range(500):
            connection.execute("INSERT INTO articles (id) VALUES (%s)", (f"n{number}",))
    done.set()
    for thread in threads:
        thread.join()
    assert len(found[0]) == 500
    assert all(it == found[0] for it in found)


def test_a_server_that_is_killed_loses_no_change_that_was_acknowledged(
    capture: Recording, postgres: str, postgres_server: PostgresServer
) -> None:
    acknowledged: list[str] = []

    def write() -> None:
        with psycopg.connect(postgres, autocommit=True) as connection:
            while True:
                name = f"n{len(acknowledged)}"
                connection.execute("INSERT INTO articles (id) VALUES (%s)", (name,))
                acknowledged.append(name)

    def quietly() -> None:
        with pytest.raises(psycopg.OperationalError):
            write()

    writer = threading.Thread(target=quietly)
    writer.start()
    seen: list[Any] = []
    for moment in range(40):
        seen += capture.read(len(seen), 1000)
        time.sleep(0.005)
        if moment == 35:
            postgres_server.kill()
            break
    writer.join()
    postgres_server.start()
    seen += capture.read(len(seen), 100_000)
    assert set(acknowledged) <= {it.document_id for it in seen}
    assert [it.number for it in seen] == list(range(1, len(seen) + 1))


# -- what no trigger sees -----------------------------------------------------------------------

PARTITIONED = (
    "CREATE TABLE articles (id int, body text) PARTITION BY RANGE (id)",
    "CREATE TABLE a0 PARTITION OF articles FOR VALUES FROM (0) TO (10)",
    "CREATE TABLE a1 PARTITION OF articles FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id)",
    "CREATE TABLE a10 PARTITION OF a1 FOR VALUES FROM (10) TO (15)",
    "CREATE TABLE spare (id int, body text)",
    "INSERT INTO articles SELECT g, 'x' FROM generate_series(0, 14) g",
    "INSERT INTO spare VALUES (25, 'x')",
)


@pytest.fixture
def partitioned(run: Run, make_source: MakeSource) -> Recording:
    for statement in PARTITIONED:
        run(statement)
    capture = make_source().recording()
    capture.install()
    return capture


def test_rows_of_partitions_are_recorded_by_whatever_name_they_are_written(
    partitioned: Recording, run: Run
) -> None:
    run("UPDATE articles SET body = 'y' WHERE id = 1")
    run("UPDATE a0 SET body = 'y' WHERE id = 2")
    run("DELETE FROM a10 WHERE id = 10")
    run("UPDATE articles SET id = 12 WHERE id = 3")
    run("UPDATE a1 SET body = 'y' WHERE id = 11")
    assert recorded(partitioned) >= {
        ("1", "changed"),
        ("2", "changed"),
        ("10", "deleted"),
        ("3", "deleted"),
        ("12", "changed"),
        ("11", "changed"),
    }


def test_a_partition_that_is_new_records_from_its_first_row_on(
    partitioned: Recording, run: Run
) -> None:
    before = partitioned.token()
    run("CREATE TABLE a2 PARTITION OF articles FOR VALUES FROM (20) TO (30)")
    assert partitioned.token() not in (None, before)
    run("INSERT INTO a2 VALUES (20, 'x')")
    assert recorded(partitioned) == {("20", "changed")}


UNSEEN: dict[str, Sequence[str]] = {
    "truncate": ["TRUNCATE articles"],
    "truncate of a partition": ["TRUNCATE a10"],
    "truncate as a replica": ["SET session_replication_role = replica; TRUNCATE a10"],
    "attach": ["ALTER TABLE articles ATTACH PARTITION spare FOR VALUES FROM (20) TO (30)"],
    "detach": ["ALTER TABLE articles DETACH PARTITION a0"],
    "detach of a part of a part": ["ALTER TABLE a1 DETACH PARTITION a10"],
    "drop of a partition": ["DROP TABLE a10"],
    "detach, delete, attach": [
        "ALTER TABLE articles DETACH PARTITION a0",
        "DELETE FROM a0",
        "ALTER TABLE articles ATTACH PARTITION a0 FOR VALUES FROM (0) TO (10)",
    ],
    "a rewrite": ["ALTER TABLE articles ALTER body TYPE varchar(9) USING left(body, 1)"],
    "triggers off, delete, on": [
        "ALTER TABLE a0 DISABLE TRIGGER ALL",
        "DELETE FROM a0",
        "ALTER TABLE a0 ENABLE ALWAYS TRIGGER embedmigrate_articles",
    ],
}


@pytest.mark.parametrize("statements", UNSEEN.values(), ids=UNSEEN)
def test_what_fires_no_trigger_makes_it_another_recording(
    partitioned: Recording, run: Run, statements: Sequence[str]
) -> None:
    before = partitioned.token()
    assert before == partitioned.token() is not None
    for statement in statements:
        run(statement)
    assert partitioned.token() not in (None, before)
    run("RESET session_replication_role")


BROKEN = {
    "disabled": "ALTER TABLE articles DISABLE TRIGGER USER",
    "not for replication": "ALTER TABLE articles ENABLE TRIGGER embedmigrate_articles",
    "off in one partition": "ALTER TABLE a10 DISABLE TRIGGER embedmigrate_articles",
    "dropped": "DROP TRIGGER embedmigrate_articles ON articles",
    "function replaced": "CREATE OR REPLACE FUNCTION embedmigrate.capture_record_articles()"
    " RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN RETURN NULL; END'",
    "function no more its owner": "ALTER FUNCTION embedmigrate.capture_record_articles()"
    " SECURITY INVOKER",
}


@pytest.mark.parametrize("statement", BROKEN.values(), ids=BROKEN)
def test_a_recording_that_misses_something_is_none_until_it_is_installed_again(
    partitioned: Recording, run: Run, statement: str
) -> None:
    before = partitioned.token()
    run(statement)
    assert partitioned.token() is None
    assert partitioned.install()
    assert partitioned.token() not in (None, before)
    run("DELETE FROM a10 WHERE id = 11")
    assert recorded(partitioned) == {("11", "deleted")}


def test_vacuum_and_analyze_change_nothing(partitioned: Recording, run: Run) -> None:
    before = partitioned.token()
    run("VACUUM ANALYZE articles")
    run("VACUUM pg_catalog.pg_trigger")
    run("ALTER TABLE articles ADD COLUMN more text")
    run("CREATE INDEX ON articles (body)")
    assert partitioned.token() == before
    assert not partitioned.install()


def test_heirs_are_recorded_and_one_that_is_new_is_missed_by_nobody(
    run: Run, make_source: MakeSource
) -> None:
    run("CREATE TABLE articles (id int, body text)")
    run("CREATE TABLE drafts () INHERITS (articles)")
    capture = make_source().recording()
    capture.install()
    run("INSERT INTO drafts VALUES (1, 'x')")
    run("UPDATE articles SET body = 'y'")
    assert recorded(capture) == {("1", "changed")}
    run("CREATE TABLE notes () INHERITS (articles)")
    assert capture.token() is None
    capture.install()
    run("INSERT INTO notes VALUES (2, 'x')")
    assert recorded(capture) == {("2", "changed")}


def test_a_table_that_becomes_a_partition_is_recorded_through_the_whole(
    run: Run, make_source: MakeSource
) -> None:
    run("CREATE TABLE articles (id int, body text)")
    capture = make_source().recording()
    capture.install()
    run("CREATE TABLE everything (id int, body text) PARTITION BY LIST (id)")
    run("ALTER TABLE everything ATTACH PARTITION articles DEFAULT")
    assert capture.token() is not None
    run("INSERT INTO everything VALUES (1, 'x')")
    assert ids(capture) == {"1"}


# -- putting it there, and away -----------------------------------------------------------------


def everything_of(run: Run) -> set[tuple[Any, ...]]:
    """Whatever is in the database that is not the server's own."""
    found: list[tuple[Any, ...]] = []
    for catalog, name in (
        ("pg_class", "relname"),
        ("pg_proc", "proname"),
        ("pg_trigger", "tgname"),
        ("pg_namespace", "nspname"),
        ("pg_type", "typname"),
    ):
        query = f"SELECT '{catalog}', oid, {name}::text FROM {catalog} WHERE oid >= 16384"
        found += run(query).fetchall()
    return {(*it[:2],) for it in found if "toast" not in it[2]}


def test_removing_leaves_no_trace(run: Run, make_source: MakeSource) -> None:
    for statement in PARTITIONED:
        run(statement)
    before = everything_of(run)
    capture = make_source().recording()
    assert not capture.remove()
    capture.install()
    run("DELETE FROM articles WHERE id = 1")
    capture.head()
    assert everything_of(run) > before
    assert capture.remove()
    assert everything_of(run) == before
    assert not capture.remove()
    run("DELETE FROM articles")


def test_a_schema_that_others_made_or_use_is_left(
    capture: Recording, run: Run, make_source: MakeSource
) -> None:
    run("CREATE TABLE embedmigrate.index_of_somebody (id int)")
    assert capture.remove()
    assert run("SELECT count(*) FROM embedmigrate.index_of_somebody").fetchone() == (0,)
    run("DROP SCHEMA embedmigrate CASCADE")
    run("CREATE SCHEMA embedmigrate")
    assert capture.install() and capture.remove()
    assert run("SELECT to_regnamespace('embedmigrate') IS NULL").fetchone() == (False,)


def test_a_collection_that_reads_another_table_leaves_no_trigger_behind(
    capture: Recording, run: Run, make_source: MakeSource
) -> None:
    run("CREATE TABLE news (id int PRIMARY KEY, body text)")
    other = make_source(table="news").recording()
    assert other.token() is None
    assert other.install()
    assert capture.token() is None
    run("DELETE FROM articles")
    run("INSERT INTO news VALUES (1, 'x')")
    assert recorded(other) == {("1", "changed")}


def test_the_statements_can_be_run_by_somebody_else_for_a_role_with_few_rights(
    capture: Recording, run: Run, make_source: MakeSource, postgres: str
) -> None:
    capture.remove()
    run("CREATE ROLE embedder LOGIN; CREATE ROLE application LOGIN")
    try:
        run("GRANT SELECT ON articles TO embedder")
        run("GRANT SELECT, INSERT, UPDATE, DELETE ON articles TO application")
        theirs = make_source(url=postgres.replace("postgres@", "embedder@")).recording()
        with pytest.raises(ConfigError) as refused:
            theirs.install()
        assert refused.value.exit_code == 78
        script = ";\n".join(theirs.ddl())
        assert "lock_timeout" in script and script.startswith("BEGIN")
        with psycopg.connect(postgres, autocommit=True) as owner:
            for statement in theirs.ddl():
                owner.execute(statement.encode())
        assert not theirs.install()
        with psycopg.connect(
            postgres.replace("postgres@", "application@"), autocommit=True
        ) as application:
            application.execute("DELETE FROM articles WHERE id = 'a1'")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                application.execute("SELECT * FROM embedmigrate.capture")
        assert recorded(theirs) == {("a1", "deleted")}
        theirs.forget(1)
        assert theirs.head() == 1
        with psycopg.connect(postgres, autocommit=True) as owner:
            for statement in theirs.removal():
                owner.execute(statement.encode())
        assert theirs.token() is None
    finally:
        run("DROP OWNED BY embedder, application; DROP ROLE embedder, application")


def test_a_role_that_may_not_read_the_recording_is_told_so(
    capture: Recording, run: Run, make_source: MakeSource, postgres: str
) -> None:
    run("CREATE ROLE embedder LOGIN; GRANT SELECT ON articles TO embedder")
    try:
        theirs = make_source(url=postgres.replace("postgres@", "embedder@")).recording()
        with pytest.raises(ConfigError, match="may not do this"):
            theirs.token()
    finally:
        run("DROP OWNED BY embedder; DROP ROLE embedder")


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("CREATE VIEW shown AS SELECT 1 AS id, 'x' AS body", "a view"),
        ("CREATE MATERIALIZED VIEW shown AS SELECT 1 AS id, 'x' AS body", "a materialized view"),
        ("CREATE UNLOGGED TABLE shown (id int, body text)", "not logged"),
    ],
)
def test_what_changes_without_a_trigger_is_refused(
    run: Run, make_source: MakeSource, statement: str, found: str
) -> None:
    run(statement)
    source = make_source(table="shown")
    with pytest.raises(ConfigError) as refused:
        source.recording().install()
    assert found in str(refused.value.found)
    assert source.capture is not None and source.capture.token() is None


def test_whoever_owns_the_table_can_make_partitions_without_a_grant(
    run: Run, make_source: MakeSource, postgres: str
) -> None:
    run(
        "CREATE ROLE application LOGIN;"
        " ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON ROUTINES FROM PUBLIC"
    )
    try:
        run("GRANT CREATE ON SCHEMA public TO application")
        with psycopg.connect(
            postgres.replace("postgres@", "application@"), autocommit=True
        ) as application:
            application.execute(PARTITIONED[0])
            capture = make_source().recording()
            capture.install()
            application.execute(PARTITIONED[1])
            application.execute("INSERT INTO a0 VALUES (1, 'x')")
        assert capture.token() is not None
        assert recorded(capture) == {("1", "changed")}
    finally:
        run("DROP OWNED BY application; DROP ROLE application")


def test_a_publication_of_all_tables_is_not_in_the_way(capture: Recording, run: Run) -> None:
    run("ALTER TABLE articles REPLICA IDENTITY FULL")
    run("CREATE PUBLICATION everything FOR ALL TABLES")
    run("DELETE FROM articles WHERE id = 'a1'")
    run("DELETE FROM articles WHERE id = 'a2'")
    assert capture.head() == 2
    capture.forget(2)
    assert recorded(capture) == {("a2", "deleted")}


def test_a_table_that_is_renamed_is_recorded_on_and_a_key_that_is_renamed_when_installed_again(
    capture: Recording, run: Run, make_source: MakeSource
) -> None:
    before = capture.token()
    run("ALTER TABLE articles RENAME TO papers")
    renamed = make_source(table="papers").recording()
    assert renamed.token() == before
    run("ALTER TABLE papers RENAME id TO uid")
    with pytest.raises(psycopg.errors.UndefinedColumn):
        run("DELETE FROM papers WHERE uid = 'a1'")
    again = make_source(table="papers", key="uid").recording()
    assert again.token() is None and again.install()
    run("DELETE FROM papers WHERE uid = 'a1'")
    assert recorded(again) == {("a1", "deleted")}


# -- beside those who write ---------------------------------------------------------------------


@contextmanager
def in_thread(work: Callable[[], Any]) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield thread
    finally:
        thread.join()


def test_an_installation_waits_for_whoever_has_written_and_overlooks_nobody(
    run: Run, make_source: MakeSource, postgres: str
) -> None:
    run("CREATE TABLE articles (id int PRIMARY KEY, body text)")
    source = make_source()
    capture = source.recording()
    with psycopg.connect(postgres) as writer:
        writer.execute("INSERT INTO articles VALUES (1, 'before')")
        with in_thread(capture.install) as installing:
            installing.join(0.3)
            assert installing.is_alive(), "it did not wait"
            writer.execute("INSERT INTO articles VALUES (2, 'before')")
            writer.commit()
    assert capture.token() is not None
    assert capture.head() == 0
    assert set(source.get(["1", "2"])) == {"1", "2"}, "what is not recorded can be read"
    run("INSERT INTO articles VALUES (3, 'after')")
    assert ids(capture) == {"3"}


def test_a_transaction_that_began_before_and_writes_after_is_recorded(
    run: Run, make_source: MakeSource, postgres: str
) -> None:
    run("CREATE TABLE articles (id int PRIMARY KEY, body text)")
    capture = make_source().recording()
    with psycopg.connect(postgres) as writer:
        writer.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        writer.execute("SELECT 1")
        capture.install()
        writer.execute("INSERT INTO articles VALUES (1, 'x')")
    assert ids(capture) == {"1"}


@pytest.mark.parametrize("verb", ["install", "remove"])
def test_one_transaction_that_stays_open_ends_it_and_blocks_nobody_for_long(
    run: Run,
    make_source: MakeSource,
    postgres: str,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
) -> None:
    monkeypatch.setattr(postgres_capture, "LOCK_SECONDS", 0.2)
    monkeypatch.setattr(postgres_capture, "_PAUSES", (0.1, 0.1))
    run("CREATE TABLE articles (id int PRIMARY KEY, body text)")
    run("INSERT INTO articles VALUES (1, 'x'), (2, 'x')")
    capture = make_source().recording()
    if verb == "remove":
        capture.install()
    token, stalls = capture.token(), []
    with psycopg.connect(postgres) as idle:
        idle.execute("UPDATE articles SET body = 'y' WHERE id = 1")
        failed: list[Temporary] = []

        def change() -> None:
            with pytest.raises(Temporary) as caught:
                getattr(capture, verb)()
            failed.append(caught.value)

        with in_thread(change) as changing:
            while changing.is_alive():
                started = time.monotonic()
                run("UPDATE articles SET body = 'y' WHERE id = 2")
                stalls.append(time.monotonic() - started)
        assert failed[0].exit_code == 75 and str(idle.info.backend_pid) in str(failed[0].found)
    assert max(stalls) > 0.1, "nobody was in the way of anybody"
    assert max(stalls) < 1.5
    assert capture.token() == token, "all of it or nothing"
    assert getattr(capture, verb)()


def test_two_installations_at_once_make_one_recording(run: Run, make_source: MakeSource) -> None:
    run("CREATE TABLE articles (id int PRIMARY KEY, body text)")
    recordings = [make_source().recording() for _ in range(4)]
    threads = [threading.Thread(target=it.install) for it in recordings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({it.token() for it in recordings}) == 1 and recordings[0].token() is not None
    triggers = "SELECT count(*) FROM pg_trigger WHERE tgname = 'embedmigrate_articles'"
    assert run(triggers).fetchone() == (1,)


def test_what_was_numbered_long_ago_is_not_looked_at_again(
    run: Run, make_source: MakeSource, postgres: str
) -> None:
    """Not even while somebody keeps VACUUM from removing it."""
    run("CREATE TABLE articles (id text PRIMARY KEY, body text)")
    run("INSERT INTO articles VALUES ('a1', 'x')")

    def rows_looked_at() -> int:
        # a backend tells its figures when it ends
        wait_for(lambda: run(_OTHERS).fetchone()[0], lambda others: others == 1)
        return int(run(_LOOKED_AT).fetchone()[0])

    def follow(changes: int) -> None:
        source = make_source()
        for _ in range(changes):
            run("INSERT INTO articles SELECT gen_random_uuid() FROM generate_series(1, 2500)")
            run("DELETE FROM articles WHERE length(id) > 9")
            source.recording().forget(source.recording().head())
        run("UPDATE articles SET body = body || 'x' WHERE id = 'a1'")
        capture = source.recording()
        assert capture.read(capture.head() - 1, 1)[0].document_id == "a1"
        source.close()

    with closing(make_source()) as source:
        source.recording().install()
    with psycopg.connect(postgres) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM articles")
        follow(4)
        before = rows_looked_at()
        assert before > 20_000, "these are figures of something else"
        follow(0)
        assert rows_looked_at() - before < 100


_OTHERS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
    "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)
_LOOKED_AT = (
    "SELECT sum(coalesce(seq_tup_read, 0)) + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes "
    "WHERE relname = 'capture_incoming_articles') FROM pg_stat_user_tables "
    "WHERE relname = 'capture_incoming_articles'"
)
