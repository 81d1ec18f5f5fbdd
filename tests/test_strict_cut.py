"""A strict cut: at the switch, the new index holds everything that is committed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embedmigrate import command
from embedmigrate.catalog import routes
from embedmigrate.engine import settle
from embedmigrate.errors import ConfigError, Refused, Temporary
from embedmigrate.sources import standstill
from tests.postgres_library import PostgresLibrary
from tests.workspace import Workspace, documents

STRICT = "strict_cut_seconds = 10\nalso_accept"


@pytest.fixture
def library(tmp_path: Path, postgres: str) -> PostgresLibrary:
    """Changes are recorded, `wordllama` is live, a strict cut to `wordllama-64` is pending."""
    library = PostgresLibrary.of(tmp_path / "project", postgres)
    command.capture_install(library.settings, "articles")
    library.revision("wordllama", "first index")
    library.upgrade()
    library.revision("wordllama-64")
    library.edit_config("also_accept", STRICT)
    return library


@contextmanager
def writing(library: PostgresLibrary) -> Iterator[list[float]]:
    """Somebody writes all the time; yields how long each write took, in seconds."""
    over, took = threading.Event(), list[float]()

    def write() -> None:
        with psycopg.connect(library.url, autocommit=True) as connection:
            while not over.is_set():
                began = time.monotonic()
                connection.execute(
                    "INSERT INTO articles VALUES (gen_random_uuid(), 'new', 'whales', 'sea')"
                )
                took.append(time.monotonic() - began)
                time.sleep(0.005)  # whoever follows must be faster

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield took
    finally:
        over.set()
        writer.join()


@pytest.fixture
def missing(library: PostgresLibrary, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many committed documents the new index lacks at the moment of each switch."""
    found: list[int] = []
    switch = routes.cut_over

    def looked_at(connection: Any, lease: Any, **options: Any) -> Any:
        with psycopg.connect(library.url) as reader:
            there = {row[0] for row in reader.execute("SELECT id FROM articles")}
        store = library.settings.open_store("articles")
        with closing(store.reader(options["index_name"])) as index:
            found.append(len(there - {state.id for state in index.states()}))
        return switch(connection, lease, **options)

    monkeypatch.setattr(routes, "cut_over", looked_at)
    return found


def test_nothing_that_is_committed_is_missing_at_the_switch(
    library: PostgresLibrary, missing: list[int]
) -> None:
    with writing(library) as took:
        library.upgrade()
    assert missing == [0]
    assert library.live() == "wordllama-64"
    assert 0.01 < max(took) < 10, "the writer waited, and went on"
    command.sync(library.settings)
    assert command.verify(library.settings)["holds"]


def test_the_control_without_it_something_is_committed_in_that_moment(
    library: PostgresLibrary, missing: list[int]
) -> None:
    library.edit_config(STRICT, "also_accept")
    with writing(library):
        library.upgrade()
    assert missing[0] > 0
    command.sync(library.settings)
    assert command.verify(library.settings)["holds"], "it follows"


def test_a_transaction_that_stays_open_makes_it_give_up_and_nothing_is_switched(
    library: PostgresLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standstill, "_PAUSES", (0.1,))
    with psycopg.connect(library.url) as writer:
        writer.execute("UPDATE articles SET topic = 'sea' WHERE id = 'doc-000001'")
        with pytest.raises(Temporary, match="stays open") as refusal:
            library.upgrade()
    assert refusal.value.exit_code == 75
    assert library.live() == "wordllama"
    library.upgrade()
    assert library.live() == "wordllama-64"


def test_too_much_work_for_the_moment_lets_the_writers_go_and_switches_nothing(
    library: PostgresLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed = settle.catch_up

    def slowly(*args: Any, **options: Any) -> Any:
        result = followed(*args, **options)
        result.more = options.get("seconds") is not None
        return result

    monkeypatch.setattr(settle, "catch_up", slowly)
    with pytest.raises(Temporary, match="strict_cut_seconds"):
        library.upgrade()
    assert library.live() == "wordllama"
    library.insert([{**documents(1)[0], "_id": "new"}])


def test_a_source_that_records_nothing_is_refused(library: PostgresLibrary) -> None:
    command.capture_remove(library.settings, "articles")
    script = next((library.root / "migrations" / "versions").glob("*move*.py"))
    text = script.read_text("utf-8")
    script.write_text(text.replace("metric=", "allow_lag=True, metric="), "utf-8")
    with pytest.raises(Refused, match="recorded"):
        library.upgrade()
    assert library.live() == "wordllama"


def test_a_source_that_cannot_stand_still_is_an_error_of_the_configuration(
    migrated: Workspace,
) -> None:
    migrated.edit_config("also_accept", STRICT)
    with pytest.raises(ConfigError, match="held off"):
        migrated.upgrade()
    assert migrated.live() == "wordllama"
