"""A SQL source on a real PostgreSQL server: its types, and what becomes of a server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from embedmigrate.errors import ConfigError, DuplicateId, Refused, ServerAway, Temporary
from embedmigrate.models import Recipe
from embedmigrate.sources.keys import KeyCodec
from embedmigrate.sources.sql import SqlConfig, SqlSource
from tests.postgres_server import PostgresServer
from tests.sources.source_helpers import check_that_every_way_of_reading_agrees, context, texts

MakeSource = Callable[..., SqlSource]


@pytest.fixture
def make_source(postgres: str, tmp_path: Path) -> Iterator[MakeSource]:
    """Sources over an empty database; closed in the end."""
    made = []

    def make(text: Sequence[str] = ("body",), **config: Any) -> SqlSource:
        given = {"kind": "sql", "url": postgres, "key": "id", "text": text, **config}
        if "query" not in given:
            given.setdefault("table", "articles")
        parsed = SqlConfig.model_validate(given)
        made.append(SqlSource(parsed, Recipe(text=tuple(text)), context(tmp_path)))
        return made[-1]

    yield make
    for source in made:
        source.close()


@pytest.fixture
def run(postgres: str) -> Iterator[Callable[..., Any]]:
    """Runs a statement as the owner of the database."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        yield connection.execute


def statements_of(source: SqlSource) -> list[str]:
    """What the source asks the server from now on."""
    asked: list[str] = []
    sa.event.listen(
        source._database.engine,
        "before_cursor_execute",
        lambda _c, _u, statement, *_: asked.append(statement),
    )
    return asked


# -- keys ---------------------------------------------------------------------------------------

WORDS = [
    "b",
    "B",
    "a",
    "A",
    "ä",
    "Z",
    "z",
    "a b",
    "a/b",
    "a%2Fb",
    "\U0001f600",
    "e\u0301",
    "é",
    "9",
]
KEYS: dict[str, tuple[str, list[Any], list[str] | None]] = {
    "smallint": ("smallint", [3, -1, 20], ["-1", "3", "20"]),
    "bigint": ("bigint", [5, 2**63 - 1, -(2**63), 10, 9], None),
    "text": ("text", WORDS, None),
    'text COLLATE "C"': ('text COLLATE "C"', WORDS, sorted(WORDS, key=str.encode)),
    "text COLLATE pg_unicode_fast": ("text COLLATE pg_unicode_fast", WORDS, None),
    "text COLLATE ucs_basic": ("varchar(40) COLLATE ucs_basic", WORDS, None),
    "char(3)": ("char(3)", ["a", "b ", "abc"], ["a  ", "abc", "b  "]),
    "uuid": ("uuid", [f"{n:08x}-0000-4000-8000-{n:012x}" for n in (9, 255, 16)], None),
    "numeric": ("numeric", ["1.50", "-3", "10", "0.00000001"], ["-3", "0.00000001", "1.50", "10"]),
    "date": ("date", ["2026-02-01", "0001-01-01"], ["0001-01-01", "2026-02-01"]),
    "timestamp": (
        "timestamp",
        ["2026-02-01 10:00:00.5", "2026-02-01"],
        ["2026-02-01T00:00:00", "2026-02-01T10:00:00.500000"],
    ),
    "timestamptz": (
        "timestamptz",
        ["2026-02-01 10:00:00+02", "2026-02-01 07:00:00Z"],
        ["2026-02-01T07:00:00+00:00", "2026-02-01T08:00:00+00:00"],
    ),
    "enumeration": ("mood", ["sad", "happy"], ["happy", "sad"]),
    "domain": ("code", ["x-2", "x-1"], ["x-1", "x-2"]),
}


@pytest.mark.parametrize(("kind", "keys", "ids"), KEYS.values(), ids=KEYS)
def test_keys_of_every_type_are_read_in_order_of_their_column(
    run: Any, make_source: MakeSource, kind: str, keys: list[Any], ids: list[str] | None
) -> None:
    run("CREATE TYPE mood AS ENUM ('happy', 'sad')")
    run("CREATE DOMAIN code AS text CHECK (VALUE LIKE 'x-%')")
    run("SET timezone = 'Asia/Tokyo'")
    run(f"CREATE TABLE articles (id {kind} PRIMARY KEY, body text)")
    for key in keys:
        run("INSERT INTO articles VALUES (%s, %s)", (key, str(key)))
    source = make_source()
    source._page_rows = 2
    documents = check_that_every_way_of_reading_agrees(source, 2)
    found = [document.id for document in documents]
    assert found == ids if ids is not None else set(found) == set(map(str, keys))
    assert source.get(["nothing like it", "", "\0", "7777777", "2026-02-30", "1e3"]) == {}


def test_a_key_that_became_possible_only_now_is_found(run: Any, make_source: MakeSource) -> None:
    run("CREATE TYPE mood AS ENUM ('happy', 'sad')")
    run("CREATE TABLE articles (id mood PRIMARY KEY, body text)")
    run("INSERT INTO articles VALUES ('sad', 'a')")
    source = make_source()
    assert source.prepare() == 1
    run("ALTER TYPE mood ADD VALUE 'calm' BEFORE 'sad'")
    run("INSERT INTO articles VALUES ('calm', 'b')")
    assert set(source.get(["calm", "sad", "angry"])) == {"calm", "sad"}


@pytest.mark.parametrize("kind", ["bytea", "double precision", "boolean", "inet", "int[]"])
def test_a_key_that_has_no_one_text_is_refused(
    run: Any, make_source: MakeSource, kind: str
) -> None:
    run(f"CREATE TABLE articles (id {kind}, body text)")
    value = {"boolean": "t", "inet": "::1", "int[]": "{1}"}.get(kind, "1.5")
    run("INSERT INTO articles VALUES (%s, 'SECRET')", (value,))
    with pytest.raises(DuplicateId, match="'id' of articles"):
        make_source().prepare()


def test_a_composite_key_is_compared_as_a_row_and_looked_up_by_one_query(
    run: Any, make_source: MakeSource
) -> None:
    run(
        "CREATE TABLE articles "
        "(part uuid, n numeric, shop text, body text, PRIMARY KEY (shop, n, part))"
    )
    run(
        "INSERT INTO articles SELECT CAST(lpad(to_hex(p), 32, '0') AS uuid), n, s, 'x' "
        "FROM generate_series(1, 3) p, generate_series(-2, 2) n, unnest('{a/b,a,B%}'::text[]) s"
    )
    source = make_source(key=["shop", "n", "part"])
    source._page_rows = 4
    documents = check_that_every_way_of_reading_agrees(source, 7)
    assert documents[0].id == "B%25/-2/00000000-0000-0000-0000-000000000001"
    asked = statements_of(source)
    assert len(source.get([document.id for document in documents])) == 45
    assert len(asked) == 1


# -- tables -------------------------------------------------------------------------------------

TABLES: dict[str, tuple[list[str], str]] = {
    "a schema": (["CREATE SCHEMA app", "CREATE TABLE app.articles (id int, body text)"], ""),
    "odd names": (
        ['CREATE SCHEMA "My App"', 'CREATE TABLE "My App"."50% ""Art.icles""" (id int, body text)'],
        'My App.50% "Art.icles"',
    ),
    "a partitioned table": (
        [
            "CREATE SCHEMA app",
            "CREATE TABLE app.articles (id int, body text) PARTITION BY RANGE (id)",
            "CREATE TABLE app.a0 PARTITION OF app.articles FOR VALUES FROM (0) TO (3)",
            "CREATE TABLE app.a1 PARTITION OF app.articles DEFAULT",
        ],
        "",
    ),
    "a view": (
        [
            "CREATE SCHEMA app",
            "CREATE TABLE app.a (id int, body text)",
            "CREATE VIEW app.articles AS SELECT * FROM app.a",
        ],
        "",
    ),
}


@pytest.mark.parametrize(("statements", "name"), TABLES.values(), ids=TABLES)
def test_a_table_is_found_by_its_name_and_schema(
    run: Any, make_source: MakeSource, statements: list[str], name: str
) -> None:
    for statement in statements:
        run(statement)
    name = name or "app.articles"
    schema, _, table = name.partition(".")
    target = psycopg.sql.Identifier(schema, table).as_string()
    run(psycopg.sql.SQL(f"INSERT INTO {target} SELECT g, 't' || g FROM generate_series(1, 5) g"))
    documents = check_that_every_way_of_reading_agrees(make_source(table=name), 2)
    assert [document.id for document in documents] == ["1", "2", "3", "4", "5"]


def test_rows_of_heirs_are_rows_of_the_table_and_one_key_is_one_row(
    run: Any, make_source: MakeSource
) -> None:
    run("CREATE TABLE articles (id int, body text)")
    run("CREATE TABLE drafts () INHERITS (articles)")
    run("INSERT INTO articles VALUES (1, 'a')")
    run("INSERT INTO drafts VALUES (2, 'b')")
    assert texts(make_source()) == {"1": "a", "2": "b"}
    run("INSERT INTO drafts VALUES (1, 'again')")
    with pytest.raises(DuplicateId, match="more than once"):
        make_source().prepare()


def test_null_and_megabyte_texts_are_read(run: Any, make_source: MakeSource) -> None:
    run("CREATE TABLE articles (id int PRIMARY KEY, body text)")
    run("ALTER TABLE articles ALTER body SET STORAGE EXTERNAL")
    run("INSERT INTO articles VALUES (1, NULL), (2, ''), (3, repeat('é ', 1000000))")
    documents = check_that_every_way_of_reading_agrees(make_source(), 2)
    assert [len(document.text) for document in documents] == [0, 0, 2_000_000]


def test_metadata_of_every_type_is_json_that_does_not_depend_on_the_session(
    run: Any, make_source: MakeSource, postgres: str
) -> None:
    values = {
        "j": ("jsonb", '{"a": [1, 2.5, null]}', {"a": [1, 2.5, None]}),
        "k": ("json", "[true]", [True]),
        "l": ("text[]", "{a,NULL}", ["a", None]),
        "n": ("numeric", "1.10", "1.10"),
        "nan": ("numeric", "NaN", None),
        "f": ("real", "-Infinity", None),
        "d": ("date", "2026-02-01", "2026-02-01"),
        "never": ("date", "infinity", None),
        "long_ago": ("date", "0044-03-15 BC", "0044-03-15 BC"),
        "t": ("timestamptz", "2026-02-01 01:00+09", "2026-01-31T16:00:00+00:00"),
        "always": ("timestamptz", "-infinity", None),
        "plain": ("timestamp", "2026-02-01 01:00", "2026-02-01T01:00:00"),
        "u": ("uuid", "9" * 32, "99999999-9999-9999-9999-999999999999"),
        "b": ("boolean", "t", True),
        "i": ("bigint", "9223372036854775807", 2**63 - 1),
    }
    columns = ", ".join(f"{name} {kind}" for name, (kind, _, _) in values.items())
    run(f"CREATE TABLE articles (id int PRIMARY KEY, body text, {columns})")
    marks = ", ".join("%s" for _ in values)
    run(f"INSERT INTO articles VALUES (1, 'a', {marks})", [it[1] for it in values.values()])
    (here,) = make_source(metadata=list(values)).scan()
    assert here.metadata == {name: wanted for name, (_, _, wanted) in values.items()}
    run("ALTER ROLE CURRENT_USER SET timezone = 'Asia/Kolkata'")
    try:
        (there,) = make_source(metadata=list(values)).scan()
    finally:
        run("ALTER ROLE CURRENT_USER RESET timezone")
    assert there == here


def test_bytes_are_refused_and_not_shown(run: Any, make_source: MakeSource) -> None:
    run("CREATE TABLE articles (id int PRIMARY KEY, body bytea)")
    run("INSERT INTO articles VALUES (1, 'SECRET')")
    with pytest.raises(Refused, match="articles, key '1': field 'body'") as caught:
        list(make_source().scan())
    assert "SECRET" not in str(caught.value)


# -- what it costs, and what it may ---------------------------------------------------------------


def test_a_batch_is_read_by_one_query_and_looked_up_by_one(
    run: Any, make_source: MakeSource
) -> None:
    run("CREATE TABLE articles (id int PRIMARY KEY, body text)")
    run("INSERT INTO articles SELECT g, repeat('word ', 1000) FROM generate_series(1, 1600) g")
    source = make_source()
    source.prepare()
    ranges = list(source.partition(512))
    asked = statements_of(source)
    for part in ranges:
        before = len(asked)
        ids = [document.id for document in source.scan(part.after, part.until)]
        assert len(ids) == part.documents and len(asked) - before == 1
        assert len(source.get(ids)) == len(ids) and len(asked) - before == 2


def test_a_role_that_may_only_select_can_read_everything(
    run: Any, make_source: MakeSource, postgres: str
) -> None:
    run("CREATE TABLE articles (id int PRIMARY KEY, body text, other text)")
    run("INSERT INTO articles VALUES (1, 'a', 'b')")
    run("DROP ROLE IF EXISTS reader")
    run("CREATE ROLE reader LOGIN")
    try:
        url = postgres.replace("postgres@", "reader@")
        with pytest.raises(ConfigError) as refused:
            make_source(url=url).prepare()
        assert "permission denied for table articles" in str(refused.value)
        run("GRANT SELECT ON articles TO reader")
        check_that_every_way_of_reading_agrees(make_source(url=url), 2)
        assert make_source(url=url).capture.token() is None  # type: ignore[union-attr]
    finally:
        run("DROP OWNED BY reader; DROP ROLE reader")


def test_the_source_cannot_write(run: Any, make_source: MakeSource) -> None:
    run("CREATE TABLE articles (id int PRIMARY KEY, body text)")
    run("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'DELETE FROM articles; SELECT 1'")
    run("INSERT INTO articles VALUES (1, 'a')")
    with pytest.raises((ConfigError, Temporary)):
        list(make_source(query="SELECT id, body FROM articles WHERE f() = 1").scan())
    assert run("SELECT count(*) FROM articles").fetchone() == (1,)


# -- a server that ends -------------------------------------------------------------------------


def test_a_server_that_was_restarted_between_two_batches_is_asked_again(
    run: Any, make_source: MakeSource, postgres_server: PostgresServer
) -> None:
    run("CREATE TABLE articles (id int PRIMARY KEY, body text)")
    run("INSERT INTO articles SELECT g, 'x' FROM generate_series(1, 6) g")
    source = make_source()
    source._page_rows = 2
    found = source.scan()
    first = [next(found).id, next(found).id]
    postgres_server.restart()
    assert first + [document.id for document in found] == ["1", "2", "3", "4", "5", "6"]


def test_a_server_that_is_away_is_temporary_and_the_same_source_goes_on(
    run: Any, make_source: MakeSource, postgres_server: PostgresServer
) -> None:
    run("CREATE TABLE articles (id int PRIMARY KEY, body text)")
    run("INSERT INTO articles SELECT g, 'x' FROM generate_series(1, 6) g")
    source = make_source()
    ranges = list(source.partition(3))
    postgres_server.kill()
    try:
        with pytest.raises(ServerAway) as away:
            list(source.scan(*ranges[1][:2]))
        assert away.value.exit_code == 75
    finally:
        postgres_server.start()
    assert [document.id for document in source.scan(*ranges[1][:2])] == ["4", "5", "6"]


def test_a_statement_that_takes_too_long_or_is_cut_off_is_temporary(
    run: Any, make_source: MakeSource, postgres: str
) -> None:
    run("CREATE TABLE articles (id int PRIMARY KEY, body text)")
    run("INSERT INTO articles VALUES (1, 'SECRET')")
    slow = "SELECT id, body FROM articles WHERE pg_sleep(20) IS NOT NULL"
    with pytest.raises(Temporary):
        list(make_source(query=slow, url=f"{postgres}&options=-c statement_timeout=50ms").scan())

    def cut_off() -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with psycopg.connect(postgres, autocommit=True) as other:
                if other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE "
                    "'%pg_sleep%' AND state = 'active' AND pid <> pg_backend_pid()"
                ).fetchall():
                    return
            time.sleep(0.02)

    source = make_source(query=slow)
    source._codec = KeyCodec.of([1])
    thread = threading.Thread(target=cut_off)
    thread.start()
    with pytest.raises(ServerAway) as caught:
        list(source.scan())
    thread.join()
    assert "SECRET" not in str(caught.value)


def test_a_value_that_does_not_convert_is_no_part_of_the_error(
    run: Any, make_source: MakeSource
) -> None:
    run("CREATE TABLE articles (id int PRIMARY KEY, body text)")
    run("INSERT INTO articles VALUES (1, 'SECRET')")
    source = make_source(query="SELECT id, CAST(body AS int) AS body FROM articles")
    with pytest.raises(ConfigError) as caught:
        list(source.scan())
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "error"),
    [(("postgres@", "nobody:pa55word@"), Temporary), (("postgresql:", "postgres:"), None)],
)
def test_no_error_shows_a_password_and_both_names_of_the_scheme_are_known(
    run: Any, make_source: MakeSource, postgres: str, change: tuple[str, str], error: Any
) -> None:
    run("CREATE TABLE articles (id int PRIMARY KEY, body text)")
    source = make_source(url=postgres.replace(*change))
    if error is None:
        assert source.prepare() == 0
        return
    with pytest.raises((error, ConfigError)) as caught:
        source.prepare()
    assert "pa55word" not in str(caught.value)


def test_a_time_of_the_last_edit_is_a_watermark(run: Any, make_source: MakeSource) -> None:
    run("CREATE TABLE articles (id int PRIMARY KEY, body text, edited timestamptz)")
    run("INSERT INTO articles VALUES (1, 'a', '2026-02-01 00:00Z'), (2, 'b', NULL)")
    source = make_source(updated_at="edited")
    with closing(source):
        assert source.changed_since is not None
        _, mark = source.changed_since(None)
        run("UPDATE articles SET edited = '2026-02-02 00:00Z' WHERE id = 2")
        ids, later = source.changed_since(mark)
        assert set(ids) == {"1", "2"}
        assert later == {"datetime": datetime(2026, 2, 2, tzinfo=UTC).isoformat()}
