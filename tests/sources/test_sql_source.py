"""A SQL source on SQLite: keys of every kind, tables and queries, and a database that is used."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from embedmigrate.errors import ConfigError, DuplicateId, Refused, Temporary
from embedmigrate.models import Recipe
from embedmigrate.sources import sql as sql_module
from embedmigrate.sources.sql import SqlConfig, SqlSource
from tests.sources.source_helpers import check_that_every_way_of_reading_agrees, context, texts

MakeSource = Callable[..., SqlSource]


@pytest.fixture
def make_source(tmp_path: Path) -> Iterator[MakeSource]:
    """Sources over ``app.db``; closed in the end."""
    made = []

    def make(
        text: Sequence[str] = ("body",), recipe: Recipe | None = None, **config: Any
    ) -> SqlSource:
        given = {"kind": "sql", "url": "sqlite:///app.db", "key": "id", "text": text, **config}
        if "query" not in given:
            given.setdefault("table", "articles")
        parsed = SqlConfig.model_validate(given)
        made.append(SqlSource(parsed, recipe or Recipe(text=tuple(text)), context(tmp_path)))
        return made[-1]

    yield make
    for source in made:
        source.close()


def run(root: Path, *statements: str) -> None:
    with closing(sqlite3.connect(root / "app.db")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def fill(root: Path, table: str, rows: Sequence[Sequence[Any]]) -> None:
    """Create a table, given as ``name (columns)``, with these rows."""
    run(root, f"CREATE TABLE {table}")
    name = table.partition("(")[0]
    with closing(sqlite3.connect(root / "app.db")) as connection:
        marks = ", ".join("?" * len(rows[0]))
        connection.executemany(f"INSERT INTO {name} VALUES ({marks})", rows)
        connection.commit()


# -- keys ---------------------------------------------------------------------------------------


def test_integer_keys_come_in_order_of_their_number(
    tmp_path: Path, make_source: MakeSource
) -> None:
    keys = [5, -3, 10, 9, 0, 2**63 - 1, -(2**63)]
    fill(tmp_path, "articles (id INTEGER PRIMARY KEY, body TEXT)", [(k, f"b{k}") for k in keys])
    source = make_source()
    assert not source.bytewise
    documents = check_that_every_way_of_reading_agrees(source, 3)
    assert [document.id for document in documents] == [str(key) for key in sorted(keys)]


def test_an_id_that_no_integer_key_has_is_not_found(
    tmp_path: Path, make_source: MakeSource
) -> None:
    fill(tmp_path, "articles (id INTEGER PRIMARY KEY, body TEXT)", [(7, "a")])
    ids = ["7", "007", "abc", "7/8", str(2**63), "\ud800", "", "8"]
    assert set(make_source().get(ids)) == {"7"}


def test_text_keys_are_their_own_ids(tmp_path: Path, make_source: MakeSource) -> None:
    keys = ["a", "B", "a b", "a/b", "a%2Fb", "é", "\U0001f600", 'a"b', "a'b", "10", "9"]
    fill(tmp_path, "articles (id TEXT PRIMARY KEY, body TEXT)", [(key, key) for key in keys])
    documents = check_that_every_way_of_reading_agrees(make_source(), 2)
    assert {document.id: document.text for document in documents} == {key: key for key in keys}


def test_uuid_keys_stored_as_text_are_their_own_ids(
    tmp_path: Path, make_source: MakeSource
) -> None:
    keys = [str(UUID(int=n * 7919**9)) for n in range(1, 9)]
    fill(tmp_path, "articles (id UUID PRIMARY KEY, body TEXT)", [(key, key) for key in keys])
    documents = check_that_every_way_of_reading_agrees(make_source(), 3)
    assert {document.id for document in documents} == set(keys)


@pytest.mark.parametrize("dialect", ["row values", "expanded"])
def test_composite_keys_come_in_order_of_their_columns(
    tmp_path: Path, make_source: MakeSource, dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [
        (shop, n, part) for shop in ("a/b", "a", "é%") for n in (10, 9, -1) for part in ("", "/")
    ]
    fill(
        tmp_path,
        "articles (n INTEGER, part TEXT, shop TEXT, body TEXT, PRIMARY KEY (shop, n, part))",
        [(n, part, shop, f"{shop} {n} {part}") for shop, n, part in keys],
    )
    if dialect == "expanded":
        monkeypatch.setattr("embedmigrate.sources.relation._ROW_VALUES", frozenset())
    monkeypatch.setattr(sql_module, "_KEYS_A_PAGE", 4)
    source = make_source(key=["shop", "n", "part"])
    source._page_rows = 3
    documents = check_that_every_way_of_reading_agrees(source, 5)
    assert [document.text for document in documents] == [f"{a} {b} {c}" for a, b, c in sorted(keys)]
    assert documents[0].id == "a/-1/"


def test_keys_of_a_case_insensitive_column_are_neither_skipped_nor_mixed_up(
    tmp_path: Path, make_source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ["b", "C", "a", "D", "Á", "á", "E", "f"]
    fill(
        tmp_path,
        "articles (id TEXT COLLATE NOCASE PRIMARY KEY, body TEXT)",
        [(key, key) for key in keys],
    )
    monkeypatch.setattr(sql_module, "_KEYS_A_PAGE", 2)
    source = make_source()
    source._page_rows = 1
    documents = check_that_every_way_of_reading_agrees(source, 3)
    assert [document.id for document in documents][:6] == ["a", "b", "C", "D", "E", "f"]
    assert set(source.get(["A", "c", "D"])) == {"D"}


def test_a_key_column_of_several_types_is_refused(tmp_path: Path, make_source: MakeSource) -> None:
    fill(tmp_path, "articles (id PRIMARY KEY, body TEXT)", [(7, "a"), ("7", "b")])
    source = make_source()
    with pytest.raises(DuplicateId, match="several types"):
        list(source.scan())


@pytest.mark.parametrize("key", [b"x", 1.5])
def test_a_key_of_another_type_is_refused_by_prepare(
    tmp_path: Path, make_source: MakeSource, key: object
) -> None:
    fill(tmp_path, "articles (id PRIMARY KEY, body TEXT)", [(key, "a")])
    with pytest.raises(DuplicateId, match="'id' of articles"):
        make_source().prepare()


@pytest.mark.parametrize("key", ["", "é" * 257])
def test_a_text_key_that_is_empty_or_too_long_is_refused(
    tmp_path: Path, make_source: MakeSource, key: str
) -> None:
    fill(tmp_path, "articles (id TEXT PRIMARY KEY, body TEXT)", [("a", "a"), (key, "b")])
    with pytest.raises(DuplicateId, match="'id' of articles"):
        list(make_source().partition(10))


def test_rows_without_a_key_are_counted_and_refused(
    tmp_path: Path, make_source: MakeSource
) -> None:
    fill(
        tmp_path,
        "articles (id TEXT PRIMARY KEY, body TEXT)",
        [("a", "a"), (None, "b"), (None, "c")],
    )
    with pytest.raises(DuplicateId, match=r"2 row\(s\) without a key"):
        make_source().prepare()
    assert make_source(where="id IS NOT NULL").prepare() == 1


def test_a_key_that_occurs_twice_is_refused_with_an_example(
    tmp_path: Path, make_source: MakeSource
) -> None:
    run(tmp_path, "CREATE TABLE articles (shop TEXT, id INTEGER, body TEXT)")
    run(tmp_path, *["INSERT INTO articles VALUES ('eu', 7, 'a'), ('us', 7, 'b')"] * 2)
    with pytest.raises(DuplicateId, match=r"2 key\(s\) more than once") as caught:
        make_source(key=["shop", "id"]).prepare()
    assert "/7'" in str(caught.value.found)
    with pytest.raises(DuplicateId):
        make_source(query="SELECT id, body FROM articles").prepare()
    assert make_source(where="rowid = 1").prepare() == 1


def test_keys_that_differ_in_case_alone_are_one_key_where_the_column_says_so(
    tmp_path: Path, make_source: MakeSource
) -> None:
    fill(tmp_path, "articles (id TEXT COLLATE NOCASE, body TEXT)", [("a", "1"), ("A", "2")])
    with pytest.raises(DuplicateId):
        make_source().prepare()


def test_a_primary_key_is_not_counted_for_duplicates(
    tmp_path: Path, make_source: MakeSource
) -> None:
    fill(tmp_path, "articles (id INTEGER PRIMARY KEY, body TEXT)", [(1, "a")])
    source = make_source()
    asked: list[str] = []
    sa.event.listen(
        source._database.engine,
        "before_cursor_execute",
        lambda _c, _u, statement, *_: asked.append(statement),
    )
    source.prepare()
    assert not [statement for statement in asked if "GROUP BY" in statement]


# -- tables, queries, fields --------------------------------------------------------------------


def test_a_query_with_a_filter_a_comment_and_colons_is_used_as_it_stands(
    tmp_path: Path, make_source: MakeSource
) -> None:
    fill(tmp_path, "a (id INTEGER PRIMARY KEY, t TEXT)", [(n, f"{n}:x") for n in range(10)])
    fill(tmp_path, "b (a_id INTEGER, u TEXT)", [(n, f":y {n}") for n in range(10)])
    source = make_source(
        query="SELECT a.id AS id, a.t || ' :z%' AS body, b.u FROM a JOIN b ON b.a_id = a.id -- :c",
        metadata=["u"],
        where="body <> '3: x' AND u LIKE ':y%' AND id < 8 -- why",
    )
    documents = check_that_every_way_of_reading_agrees(source, 3)
    assert [document.text for document in documents] == [f"{n}:x :z%" for n in range(8)]
    assert documents[1].metadata == {"u": ":y 1"}


def test_names_that_need_quoting_are_quoted(tmp_path: Path, make_source: MakeSource) -> None:
    fill(
        tmp_path,
        '"a.b ""c""" ("order" INTEGER PRIMARY KEY, "select ""x""" TEXT, "50%:y" TEXT, "Mixed")',
        [(1, "a", "b", "c"), (2, "d", "e", "f")],
    )
    source = make_source(
        table='a.b "c"', key="order", text=['select "x"', "50%:y"], metadata=["Mixed", "order"]
    )
    first, _ = check_that_every_way_of_reading_agrees(source, 1)
    assert first.text == "a b"
    assert first.metadata == {"Mixed": "c", "order": 1}


def test_a_view_and_a_table_with_its_schema_are_tables(
    tmp_path: Path, make_source: MakeSource
) -> None:
    fill(tmp_path, "articles (id INTEGER PRIMARY KEY, body TEXT)", [(1, "a"), (2, "b")])
    run(tmp_path, "CREATE VIEW recent AS SELECT * FROM articles WHERE id > 1")
    assert texts(make_source(table="recent")) == {"2": "b"}
    assert make_source(table="recent").prepare() == 1
    assert texts(make_source(table="main.articles")) == {"1": "a", "2": "b"}


def test_null_and_empty_texts_are_yielded_as_empty(tmp_path: Path, make_source: MakeSource) -> None:
    fill(
        tmp_path,
        "articles (id INTEGER PRIMARY KEY, title TEXT, body TEXT)",
        [(1, None, None), (2, "", " "), (3, None, "b"), (4, "a", "b")],
    )
    found = texts(make_source(text=["title", "body"]))
    assert found == {"1": "", "2": "", "3": "b", "4": "a b"}


def test_the_recipe_decides_what_is_read(tmp_path: Path, make_source: MakeSource) -> None:
    fill(tmp_path, "articles (id INTEGER PRIMARY KEY, title TEXT, body TEXT)", [(1, "T", "B")])
    assert texts(make_source(text=["body"], recipe=Recipe(text=("title",)))) == {"1": "T"}
    with pytest.raises(ConfigError, match="'gone'"):
        make_source(recipe=Recipe(text=("gone",))).prepare()


@pytest.mark.parametrize("fields", [{"text": ["body"]}, {"text": ["id"], "metadata": ["body"]}])
def test_bytes_are_refused_with_field_and_key(
    tmp_path: Path, make_source: MakeSource, fields: dict[str, Any]
) -> None:
    fill(tmp_path, "articles (id INTEGER PRIMARY KEY, body)", [(1, b"SECRET")])
    with pytest.raises(Refused, match="articles, key '1': field 'body'") as caught:
        list(make_source(**fields).states())
    assert "SECRET" not in str(caught.value)


def test_a_table_of_unknown_column_types_is_read_without_a_warning(
    tmp_path: Path, make_source: MakeSource, recwarn: pytest.WarningsRecorder
) -> None:
    fill(tmp_path, "articles (id INTEGER PRIMARY KEY, body TEXT, e vector(3))", [(1, "a", "[1]")])
    assert make_source(metadata=["e"]).prepare() == 1
    assert list(recwarn) == []


def test_an_empty_table_has_no_documents_until_it_has(
    tmp_path: Path, make_source: MakeSource
) -> None:
    run(tmp_path, "CREATE TABLE articles (id TEXT PRIMARY KEY, body TEXT)")
    source = make_source()
    assert check_that_every_way_of_reading_agrees(source, 3) == []
    assert source.get(["a"]) == {}
    assert list(source.scan(after="a", until="b")) == []
    run(tmp_path, "INSERT INTO articles VALUES ('a', 'b')")
    assert source.get(["a"])["a"].text == "b"


# -- what is wrong with a configuration ---------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"table": "a", "query": "SELECT 1"},
        {"table": None, "query": None},
        {"key": []},
        {"key": ["id", "id"]},
        {"text": []},
    ],
)
def test_a_contradictory_configuration_is_invalid(wrong: dict[str, Any]) -> None:
    given = {"kind": "sql", "url": "sqlite://", "table": "a", "key": "id", "text": ["b"]}
    with pytest.raises(ValidationError):
        SqlConfig.model_validate(given | wrong)


@pytest.mark.parametrize(
    ("wrong", "name", "listed"),
    [
        ({"table": "article"}, "'article'", "articles"),
        ({"table": "nowhere.articles"}, "tables of sqlite", "nowhere"),
        ({"table": "main.article"}, "'main.article'", "articles"),
        ({"key": "uid"}, "'uid'", "'id', 'body'"),
        ({"key": ["id", "part"]}, "'part'", "'id', 'body'"),
        ({"text": ["text"]}, "'text'", "'id', 'body'"),
        ({"metadata": ["*"]}, r"'\*'", "'id', 'body'"),
        ({"updated_at": "changed"}, "'changed'", "'id', 'body'"),
        ({"query": "SELECT id FROM articles"}, "'body'", "'id'"),
        ({"query": "SELECT id, body FROM nowhere"}, "`query`", "nowhere"),
        ({"where": "year > 2000"}, "`where`", "year"),
        ({"where": "id > "}, "`where`", "syntax"),
        ({"where": "id > 1) OR (1 = 1; DROP TABLE articles"}, "`where`", "syntax"),
    ],
)
def test_what_does_not_exist_is_named_and_what_exists_is_listed(
    tmp_path: Path, make_source: MakeSource, wrong: dict[str, Any], name: str, listed: str
) -> None:
    fill(tmp_path, "articles (id INTEGER PRIMARY KEY, body TEXT)", [(1, "SECRET")])
    with pytest.raises(ConfigError, match=name) as caught:
        make_source(**wrong).prepare()
    assert listed in str(caught.value.found)
    assert "SECRET" not in str(caught.value)


def test_a_missing_sqlite_file_is_an_error_and_is_not_made(
    tmp_path: Path, make_source: MakeSource
) -> None:
    with pytest.raises(ConfigError, match=r"app\.db does not exist"):
        make_source()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_said_so(tmp_path: Path, make_source: MakeSource) -> None:
    (tmp_path / "app.db").write_text("SECRET " * 200)
    with pytest.raises(ConfigError, match="cannot be looked up") as caught:
        make_source().prepare()
    assert caught.value.found == "file is not a database"


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("no url pa55word", ConfigError),
        ("nosuchdialect://user:pa55word@host/db", ConfigError),
        ("sqlite+nosuchdriver:///app.db?password=pa55word", ConfigError),
        ("postgresql+psycopg://user:pa55word@127.0.0.1:1/db?x=pa55word", (ConfigError, Temporary)),
    ],
)
def test_no_error_shows_a_password(
    tmp_path: Path, make_source: MakeSource, url: str, error: type[Exception]
) -> None:
    run(tmp_path, "CREATE TABLE articles (id INTEGER PRIMARY KEY, body TEXT)")
    with pytest.raises(error) as caught:
        make_source(url=url).prepare()
    assert "pa55word" not in str(caught.value)
    assert "pa55word" not in repr(SqlConfig(kind="sql", url=url, table="a", key="b", text=["c"]))


def test_a_driver_that_quotes_a_part_of_the_url_that_may_be_secret_is_masked(
    tmp_path: Path, make_source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, "CREATE TABLE articles (id INTEGER PRIMARY KEY, body TEXT)")

    def refuse(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("login with 31337 failed\nat line 2")

    source = make_source(url="sqlite:///app.db?timeout=31337")
    monkeypatch.setattr(source._database.engine.dialect, "connect", refuse)
    with pytest.raises(Temporary) as caught:
        source.prepare()
    assert caught.value.found == "login with *** failed"


def test_a_secret_of_one_letter_leaves_the_other_words_of_a_message(
    tmp_path: Path, make_source: MakeSource
) -> None:
    run(tmp_path, "CREATE TABLE articles (id INTEGER PRIMARY KEY, body TEXT)")
    database = make_source(url="sqlite:///app.db?timeout=5&isolation_level=e")._database
    database._secrets = ["e", "pa55.word"]
    message = database._message(OSError("e:pa55.word@here: refused"))
    assert message == "***:***@here: refused"


def test_a_parameter_that_the_driver_does_not_know_is_a_configuration_error(
    tmp_path: Path, make_source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, "CREATE TABLE articles (id INTEGER PRIMARY KEY, body TEXT)")
    source = make_source(url="sqlite:///app.db?timeout=31337")

    def connect(*_: object, **__: object) -> None:
        raise TypeError("unexpected keyword argument 'bogus' with 31337")

    monkeypatch.setattr(source._database.engine.dialect, "connect", connect)
    with pytest.raises(ConfigError, match="`url` of the SQL source cannot be used") as caught:
        source.prepare()
    assert caught.value.found == "unexpected keyword argument 'bogus' with ***"


# -- a database that is used --------------------------------------------------------------------


def test_the_source_cannot_write(tmp_path: Path, make_source: MakeSource) -> None:
    fill(tmp_path, "articles (id INTEGER PRIMARY KEY, body TEXT)", [(1, "a")])
    source = make_source()
    with source._database.engine.connect() as connection, pytest.raises(sa.exc.OperationalError):
        connection.execute(sa.text("DELETE FROM articles"))


def test_another_connection_can_write_between_any_two_documents(
    tmp_path: Path, make_source: MakeSource
) -> None:
    fill(
        tmp_path,
        "articles (id INTEGER PRIMARY KEY, body TEXT)",
        [(n, f"text {n}") for n in range(0, 2000, 2)],
    )
    source = make_source()
    source._page_rows = 7
    seen = []
    with closing(sqlite3.connect(tmp_path / "app.db", timeout=0)) as application:
        application.execute("PRAGMA synchronous = OFF")
        for document in source.scan():
            seen.append(int(document.id))
            if seen[-1] < 1000:
                # delete the row behind, insert one behind and one ahead
                application.execute("DELETE FROM articles WHERE id = ?", [seen[-1]])
                application.execute("INSERT INTO articles VALUES (?, 'new')", [-seen[-1] - 1])
                application.execute("INSERT INTO articles VALUES (?, 'new')", [10_000 + seen[-1]])
                application.commit()
    assert seen == sorted(set(seen))
    assert set(range(0, 2000, 2)) <= set(seen)


def test_rows_that_change_are_read_as_they_are_now(tmp_path: Path, make_source: MakeSource) -> None:
    fill(tmp_path, "articles (id INTEGER PRIMARY KEY, body TEXT)", [(1, "old"), (2, "gone")])
    source = make_source()
    before = list(source.states())
    run(
        tmp_path,
        "UPDATE articles SET body = 'new' WHERE id = 1",
        "DELETE FROM articles WHERE id = 2",
    )
    assert {id: document.text for id, document in source.get(["1", "2"]).items()} == {"1": "new"}
    assert next(source.states()).content_hash != before[0].content_hash
    assert source.prepare() == 1


def test_a_locked_database_is_temporary(tmp_path: Path, make_source: MakeSource) -> None:
    fill(tmp_path, "articles (id INTEGER PRIMARY KEY, body TEXT)", [(1, "a")])
    source = make_source(url="sqlite:///app.db?timeout=0.01")
    with closing(sqlite3.connect(tmp_path / "app.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Temporary):
            source.prepare()


def test_text_that_is_no_utf8_is_not_temporary_and_is_not_shown(
    tmp_path: Path, make_source: MakeSource
) -> None:
    run(
        tmp_path,
        "CREATE TABLE articles (id INTEGER PRIMARY KEY, body TEXT)",
        "INSERT INTO articles VALUES (1, CAST(x'534543524554ff' AS TEXT))",
    )
    with pytest.raises(ConfigError) as caught:
        list(make_source().scan())
    assert "SECRET" not in str(caught.value)


def test_large_rows_are_read_a_few_at_a_time(
    tmp_path: Path, make_source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(
        tmp_path,
        "articles (id INTEGER PRIMARY KEY, body TEXT)",
        [(n, "x" * 100_000) for n in range(250)] + [(n, "x") for n in range(250, 12_000)],
    )
    source = make_source()
    assert sum(1 for _ in source.scan(until="249")) == 250
    assert source._page_rows == 39
    assert sum(1 for _ in source.scan()) == 12_000
    assert source._page_rows == 4096
