"""An SQLite source that records its own changes by triggers."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from docs import generate_cli
from embedmigrate import command
from embedmigrate.errors import ConfigError, Refused
from embedmigrate.models import Recipe
from embedmigrate.sources.sql import SqlSource
from tests.command_line import run
from tests.library import COLLECTION, Library


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library.of(tmp_path / "project", 6)


def recorded(library: Library, after: int = 0) -> list[tuple[str, str]]:
    source = library.settings.open_source("articles", Recipe(text=("title",)))
    with closing(source):
        assert source.capture is not None
        return [(it.document_id, it.change) for it in source.capture.read(after, 100)]


CHANGES: dict[str, tuple[str, set[tuple[str, str]]]] = {
    "insert": (
        "INSERT INTO articles (id, title) VALUES ('new', 'n')",
        {("new", "changed")},
    ),
    "update": (
        "UPDATE articles SET text = 'other' WHERE id = 'doc-000001'",
        {("doc-000001", "changed")},
    ),
    "delete": ("DELETE FROM articles WHERE id = 'doc-000001'", {("doc-000001", "deleted")}),
    "another key": (
        "UPDATE articles SET id = 'moved' WHERE id = 'doc-000001'",
        {("doc-000001", "deleted"), ("moved", "changed")},
    ),
    "upsert": (
        "INSERT INTO articles (id, title) VALUES ('doc-000001', 'n')"
        " ON CONFLICT (id) DO UPDATE SET title = excluded.title",
        {("doc-000001", "changed")},
    ),
    "replace of the key": (
        "REPLACE INTO articles (id, title) VALUES ('doc-000001', 'n')",
        {("doc-000001", "changed")},
    ),
    "replace that removes another row": (
        "REPLACE INTO articles (id, slug) VALUES ('new', 'slug of doc-000001')",
        {("doc-000001", "deleted"), ("new", "changed")},
    ),
    "update or replace that removes another row": (
        "UPDATE OR REPLACE articles SET slug = 'slug of doc-000001' WHERE id = 'doc-000002'",
        {("doc-000001", "deleted"), ("doc-000002", "changed")},
    ),
    "a change that fails": (
        "INSERT OR IGNORE INTO articles (id, slug) VALUES ('new', 'slug of doc-000001')",
        {("doc-000001", "deleted")},
    ),
    "delete of all": (
        "DELETE FROM articles",
        {(f"doc-{number:06d}", "deleted") for number in range(6)},
    ),
}


@pytest.mark.parametrize(("statement", "wanted"), CHANGES.values(), ids=CHANGES)
def test_every_kind_of_change_is_recorded(
    library: Library, statement: str, wanted: set[tuple[str, str]]
) -> None:
    command.capture_install(library.settings, "articles")
    library.sql(statement)
    assert set(recorded(library)) == wanted


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE articles SET id = 'DOC-000001' WHERE id = 'doc-000001'",
        "REPLACE INTO articles (id, title) VALUES ('DOC-000001', 'n')",
        "UPDATE OR REPLACE articles SET id = 'DOC-000001' WHERE id = 'doc-000001'",
    ],
)
def test_ids_that_a_collation_holds_for_the_same_are_two(library: Library, statement: str) -> None:
    library.sql("ALTER TABLE articles RENAME TO before")
    library.sql("CREATE TABLE articles (id TEXT PRIMARY KEY COLLATE NOCASE, title, text, topic)")
    library.sql("INSERT INTO articles SELECT id, title, text, topic FROM before")
    command.capture_install(library.settings, "articles")
    library.sql(statement)
    assert set(recorded(library)) == {("doc-000001", "deleted"), ("DOC-000001", "changed")}


@pytest.mark.parametrize(
    ("index", "statement"),
    [
        (
            "slug COLLATE NOCASE",
            "REPLACE INTO articles (id, slug) VALUES ('new', 'SLUG OF doc-000001')",
        ),
        ("id COLLATE NOCASE", "REPLACE INTO articles (id, title) VALUES ('DOC-000001', 'n')"),
    ],
)
def test_a_unique_index_has_a_say_in_what_is_the_same(
    library: Library, index: str, statement: str
) -> None:
    library.sql(f"CREATE UNIQUE INDEX other_rules ON articles ({index})")
    command.capture_install(library.settings, "articles")
    library.sql(statement)
    assert ("doc-000001", "deleted") in recorded(library)
    assert library.sql("SELECT count(*) FROM articles WHERE id = 'doc-000001'") == [(0,)]


def test_two_collections_of_one_table_may_have_like_names(tmp_path: Path) -> None:
    like = COLLECTION.replace("collections.articles", "collections.articles_updated")
    library = Library.of(tmp_path / "project", 6, collections=COLLECTION + like)
    names = ("articles", "articles_updated")
    assert [command.capture_install(library.settings, it)["changed"] for it in names] == [True] * 2
    assert [command.capture_install(library.settings, it)["changed"] for it in names] == [False] * 2


def test_a_transaction_that_is_rolled_back_leaves_no_record(library: Library) -> None:
    command.capture_install(library.settings, "articles")
    with closing(sqlite3.connect(library.root / "library.db")) as connection:
        connection.execute("DELETE FROM articles")
        connection.rollback()
    assert recorded(library) == []


def test_installing_again_changes_nothing_and_another_definition_is_made_anew(
    library: Library,
) -> None:
    def token() -> str | None:
        source = library.settings.open_source("articles", Recipe(text=("title",)))
        with closing(source):
            assert source.capture is not None
            return source.capture.token()

    assert token() is None
    assert command.capture_install(library.settings, "articles")["changed"]
    first = token()
    assert first is not None
    assert not command.capture_install(library.settings, "articles")["changed"]
    assert token() == first

    library.sql("DROP TRIGGER embedmigrate_capture_articles_deleted")
    assert token() is None, "a recording that misses deletes is none"
    assert command.capture_install(library.settings, "articles")["changed"]
    assert token() not in (None, first)


def test_removing_leaves_no_trigger_and_no_record(library: Library) -> None:
    command.capture_install(library.settings, "articles")
    library.sql("DELETE FROM articles")
    assert command.capture_remove(library.settings, "articles")["changed"]
    left = library.sql("SELECT type, name FROM sqlite_master WHERE name LIKE 'embedmigrate%'")
    assert left == [("table", "embedmigrate_capture")]
    assert not command.capture_remove(library.settings, "articles")["changed"]


def test_the_statements_can_be_run_by_somebody_else(library: Library) -> None:
    printed = run(library.root, "capture", "install", "articles", "--sql")
    assert printed.code == 0
    assert library.sql("SELECT count(*) FROM sqlite_master WHERE type = 'trigger'") == [(0,)]
    with closing(sqlite3.connect(library.root / "library.db")) as connection:
        connection.executescript(printed.out)
    assert not command.capture_install(library.settings, "articles")["changed"]

    removal = run(library.root, "capture", "remove", "articles", "--sql")
    with closing(sqlite3.connect(library.root / "library.db")) as connection:
        connection.executescript(removal.out)
    assert library.sql("SELECT count(*) FROM sqlite_master WHERE type = 'trigger'") == [(0,)]


def test_names_that_need_quotes_are_quoted(tmp_path: Path) -> None:
    odd = 'we "select" from; it'
    library = Library.of(
        tmp_path / "project",
        2,
        collections=COLLECTION.replace('table = "articles"', f"table = '{odd}'").replace(
            'key = "id"', 'key = ["a\'b", "order"]'
        ),
    )
    quoted = '"' + odd.replace('"', '""') + '"'
    library.sql(f"""CREATE TABLE {quoted} ("a'b" INT, "order" TEXT, title, text, topic)""")
    library.sql(f"INSERT INTO {quoted} VALUES (1, 'x/y', 't', 't', 't')")
    command.capture_install(library.settings, "articles")
    library.sql(f"UPDATE {quoted} SET title = 'u'")
    assert recorded(library) == [("1/x%2Fy", "changed")]


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ('table = "articles"', 'query = "SELECT * FROM articles"', "`query` in the source"),
        ('table = "articles"', 'table = "shown"', "cannot create"),
    ],
    ids=["a query", "a view"],
)
def test_what_no_trigger_can_be_put_on_is_refused(
    library: Library, old: str, new: str, found: str
) -> None:
    library.sql("CREATE VIEW shown AS SELECT * FROM articles")
    library.edit_config(old, new)
    with pytest.raises(ConfigError) as refused:
        command.capture_install(library.settings, "articles")
    assert found in str(refused.value)


def test_another_kind_of_source_is_refused(workspace: Any) -> None:
    with pytest.raises(ConfigError, match="not captured by triggers"):
        command.capture_install(workspace.settings, "articles")


def test_a_unique_index_over_an_expression_is_named(library: Library) -> None:
    library.sql("CREATE UNIQUE INDEX lower_slug ON articles (lower(slug))")
    answer = run(library.root, "capture", "install", "articles")
    assert answer.code == 0 and "lower_slug" in answer.out


def test_the_command_line_answers_in_the_shape_that_the_reference_shows(library: Library) -> None:
    for name in ("install", "remove"):
        answer = json.loads(run(library.root, "capture", name, "articles", "--json").out)
        assert answer == generate_cli.JSON[f"capture {name}"]


# -- what a migration makes of it ----------------------------------------------------------------


def test_without_a_recording_a_script_has_to_allow_the_lag(library: Library) -> None:
    library.revision("wordllama", "first")
    (script,) = (library.root / "migrations" / "versions").glob("*.py")
    assert "allow_lag=True" in script.read_text("utf-8")
    script.write_text(script.read_text("utf-8").replace("allow_lag=True", "allow_lag=False"))

    with pytest.raises(Refused, match="does not tell of its changes") as refused:
        library.upgrade()
    assert "embedmigrate capture install articles" in str(refused.value)

    command.capture_install(library.settings, "articles")
    assert library.upgrade()[0]["live"]


def test_a_script_says_nothing_of_lag_where_changes_are_recorded(library: Library) -> None:
    command.capture_install(library.settings, "articles")
    library.revision("wordllama", "first")
    (script,) = (library.root / "migrations" / "versions").glob("*.py")
    assert "allow_lag" not in script.read_text("utf-8")
    (planned,) = command.plan(library.settings)["collections"]
    assert planned["changes"] == "capture"


def test_what_is_recorded_is_forgotten_once_the_journal_has_it(library: Library) -> None:
    command.capture_install(library.settings, "articles")
    library.revision("wordllama", "first")
    library.upgrade()
    library.sql("UPDATE articles SET text = 'other' WHERE id = 'doc-000001'")
    library.sql("UPDATE articles SET text = 'other' WHERE id = 'doc-000002'")
    command.sync(library.settings)
    assert recorded(library) == [("doc-000002", "changed")], "the last one, to join on to"


def test_a_source_that_only_the_application_may_write_is_followed_all_the_same(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedmigrate.sources.capture import SqliteCapture

    command.capture_install(library.settings, "articles")
    library.revision("wordllama", "first")
    library.upgrade()

    def refused(self: SqliteCapture, before: int) -> None:
        raise ConfigError("attempt to write a readonly database")

    monkeypatch.setattr(SqliteCapture, "forget", refused)
    library.sql("UPDATE articles SET text = 'other' WHERE id = 'doc-000001'")
    assert command.sync(library.settings)["collections"][0]["written"] == 1
    assert command.sync(library.settings)["collections"][0]["written"] == 0


def test_numbers_come_in_the_order_of_the_commits(library: Library) -> None:
    command.capture_install(library.settings, "articles")
    source = library.settings.open_source("articles", Recipe(text=("title",)))
    assert isinstance(source, SqlSource)
    with closing(source):
        capture = source.recording()
        for number in range(5):
            library.sql("UPDATE articles SET text = ? WHERE id = 'doc-000001'", str(number))
        changes = capture.read(2, 2)
        assert [(it.number, it.document_id) for it in changes] == [
            (3, "doc-000001"),
            (4, "doc-000001"),
        ]
        assert changes[0].tag != changes[1].tag
        assert capture.head() == 5
        capture.forget(5)
        assert [it.number for it in capture.read(0, 10)] == [5] and capture.head() == 5
