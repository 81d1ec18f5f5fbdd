"""What changes in a PostgreSQL table is found in what is live."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from embedmigrate import command
from embedmigrate.engine import follow as following
from embedmigrate.errors import ServerAway
from embedmigrate.sources.base import Document
from embedmigrate.sources.sql import SqlSource
from tests.command_line import run
from tests.postgres_library import PostgresLibrary
from tests.postgres_server import PostgresServer


@pytest.fixture
def plain(tmp_path: Path, postgres: str) -> PostgresLibrary:
    """Live, and nothing is recorded."""
    library = PostgresLibrary.of(tmp_path / "project", postgres)
    library.revision("wordllama", "first index")
    library.upgrade()
    return library


@pytest.fixture
def library(tmp_path: Path, postgres: str) -> PostgresLibrary:
    """Live, and its changes are recorded."""
    library = PostgresLibrary.of(tmp_path / "project", postgres)
    command.capture_install(library.settings, "articles")
    library.revision("wordllama", "first index")
    library.upgrade()
    return library


def sync(library: PostgresLibrary) -> dict[str, int]:
    (entry,) = command.sync(library.settings)["collections"]
    return {key: entry[key] for key in ("written", "metadata", "deleted", "embedded")}


def holds(library: PostgresLibrary) -> bool:
    return bool(command.verify(library.settings)["holds"])


def change_everything(library: PostgresLibrary) -> None:
    library.sql("UPDATE articles SET text = 'whales and dolphins' WHERE id = 'doc-000001'")
    library.sql("UPDATE articles SET topic = 'sea' WHERE id = 'doc-000002'")
    library.sql("DELETE FROM articles WHERE id = 'doc-000003'")
    library.insert([{"_id": "new", "title": "squid", "text": "in the deep", "topic": "sea"}])


DONE = {"written": 2, "metadata": 1, "deleted": 1, "embedded": 2}
NOTHING = dict.fromkeys(DONE, 0)


@pytest.fixture
def no_comparison(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    def compared(*_: Any) -> None:
        raise AssertionError("compared")

    monkeypatch.setattr(following, "note_differences", compared)
    return monkeypatch


def test_what_was_recorded_is_applied_without_a_comparison(
    library: PostgresLibrary, request: pytest.FixtureRequest
) -> None:
    sync(library)
    change_everything(library)
    patched = request.getfixturevalue("no_comparison")
    assert sync(library) == DONE
    assert sync(library) == NOTHING
    patched.undo()
    assert holds(library)


def test_what_changed_while_nothing_was_recorded_is_found_by_one_comparison(
    plain: PostgresLibrary,
) -> None:
    change_everything(plain)
    assert command.capture_install(plain.settings, "articles")["changed"]
    assert sync(plain) == DONE
    assert sync(plain) == NOTHING


def test_a_table_that_was_emptied_is_compared(library: PostgresLibrary) -> None:
    sync(library)
    library.sql("TRUNCATE articles")
    library.insert([{"_id": "new", "title": "squid", "text": "in the deep", "topic": "sea"}])
    refused = run(library.root, "sync")
    assert refused.code == 3, "more than a tenth of the index would go"
    command.sync(library.settings, allow_mass_delete=True)
    assert holds(library)


@pytest.mark.parametrize("changes_since", [1, 6, 9])
def test_a_database_that_was_set_back_is_compared(
    library: PostgresLibrary, postgres_server: PostgresServer, changes_since: int
) -> None:
    sync(library)
    library.sql("UPDATE articles SET text = 'kept' WHERE id = 'doc-000001'")
    sync(library)
    name = library.url.partition("@/")[2].partition("?")[0]
    here, backup = sql.Identifier(name), sql.Identifier(f"{name}_backup")
    with postgres_server.connect() as server:
        server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(backup, here))
    library.sql("UPDATE articles SET text = 'lost' WHERE id BETWEEN 'doc-000010' AND 'doc-000014'")
    library.sql("DELETE FROM articles WHERE id = 'doc-000002'")
    sync(library)
    with postgres_server.connect() as server:
        server.execute(sql.SQL("DROP DATABASE {}").format(here))
        server.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(backup, here))
    for number in range(changes_since):
        library.sql("UPDATE articles SET text = 'new' WHERE id = %s", f"doc-{20 + number:06d}")

    assert sync(library)["written"] == 6 + changes_since, "what came back, and what is new"
    assert holds(library)
    library.sql("DELETE FROM articles WHERE id = 'doc-000004'")
    assert sync(library)["deleted"] == 1


def test_a_copy_of_the_tables_on_another_server_is_another_recording(
    library: PostgresLibrary, postgres_server: PostgresServer
) -> None:
    """The ids of transactions that were noted mean nothing there; nothing may hide behind them."""
    sync(library)
    library.sql("UPDATE embedmigrate.capture SET seen = '900000000:900000000:'")
    library.sql("UPDATE articles SET text = 'other' WHERE id = 'doc-000001'")
    assert sync(library)["written"] == 1


def test_the_way_there_and_back_is_that_of_every_source(library: PostgresLibrary) -> None:
    library.revision("wordllama-64", "shorter vectors")
    change_everything(library)
    library.upgrade()
    library.sql("UPDATE articles SET text = 'krill' WHERE id = 'doc-000005'")
    library.sql("DELETE FROM articles WHERE id = 'doc-000006'")
    command.rollback(library.settings, "articles", reason="a test")
    assert holds(library)


def test_the_commands_print_and_say_what_they_do(plain: PostgresLibrary) -> None:
    printed = run(plain.root, "capture", "install", "articles", "--sql")
    assert printed.code == 0
    with psycopg.connect(plain.url, autocommit=True) as owner:
        owner.execute(printed.out.encode())
    said = run(plain.root, "capture", "install", "articles")
    assert said.code == 0 and "as before" in said.out
    removal = run(plain.root, "capture", "remove", "articles", "--sql")
    with psycopg.connect(plain.url, autocommit=True) as owner:
        owner.execute(removal.out.encode())
        count = owner.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'embedmigrate'")
        assert count.fetchone() == (0,)
    assert "as before" in run(plain.root, "capture", "remove", "articles").out


@pytest.mark.parametrize("away", [0, 30], ids=["the command is repeated", "the command waits"])
def test_a_server_that_is_killed_while_its_documents_are_read_costs_no_work(
    tmp_path: Path,
    postgres: str,
    postgres_server: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
    away: int,
) -> None:
    library = PostgresLibrary.of(tmp_path / "project", postgres, count=1200)
    library.edit_config("[embedmigrate]", f"[embedmigrate]\naway_seconds = {away}")
    command.capture_install(library.settings, "articles")
    library.revision("wordllama", "first index")
    scan, scanned = SqlSource.scan, []

    def dying(self: SqlSource, *bounds: Any) -> Iterator[Document]:
        scanned.append(bounds)
        if len(scanned) == 2:
            postgres_server.kill()
            if away:
                threading.Timer(0.5, postgres_server.start).start()
        return scan(self, *bounds)

    monkeypatch.setattr(SqlSource, "scan", dying)
    if away:
        (entry,) = library.upgrade()
    else:
        try:
            with pytest.raises(ServerAway) as caught:
                library.upgrade()
        finally:
            postgres_server.start()
        assert caught.value.exit_code == 75
        (entry,) = library.upgrade()
    assert entry["live"]
    assert scanned.count(scanned[0]) == 1 < scanned.count(scanned[1]), "what was done is done"
    assert holds(library)
