"""Documents that embedmigrate owns: in an SQLite file and in PostgreSQL, alike."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import ValidationError

from embedmigrate.errors import ConfigError, Refused, UsageError
from embedmigrate.models import Recipe
from embedmigrate.sources.managed import ManagedConfig, ManagedSource
from tests.sources.source_helpers import check_that_every_way_of_reading_agrees, context

MakeSource = Callable[..., ManagedSource]


@pytest.fixture(params=["sqlite", "postgresql"])
def make_source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeSource]:
    """Sources over one place."""
    given: dict[str, Any] = {"kind": "managed", "text": "body", "metadata": ["topic"]}
    if request.param == "postgresql":
        given["url"] = request.getfixturevalue("postgres")
    with ExitStack() as stack:

        def make(**config: Any) -> ManagedSource:
            parsed = ManagedConfig.model_validate(given | config)
            source = ManagedSource(parsed, Recipe(text=("body",)), context(tmp_path))
            return stack.enter_context(closing(source))

        yield make


IDS = ["b", "B", "é", "e\u0301", "\U0001f600", "a/b", "a%2Fb", "10", "9", "\uffff", "a'b"]


def test_documents_come_in_the_order_of_the_bytes_of_their_ids(make_source: MakeSource) -> None:
    source = make_source()
    assert check_that_every_way_of_reading_agrees(source, 3) == []
    documents = [{"id": id, "body": f"text\0 {id}", "topic": {"a": [1, None]}} for id in IDS]
    assert source.upsert(documents) == len(IDS)
    found = check_that_every_way_of_reading_agrees(source, 3)
    assert [document.id for document in found] == sorted(IDS, key=str.encode)
    assert found[0].text.startswith("text\0") and found[0].metadata == {"topic": {"a": [1, None]}}
    assert source.get(["never", "\0", "\ud800", ""]) == {}


def test_each_write_is_recorded_with_the_documents_or_not_at_all(make_source: MakeSource) -> None:
    source = make_source()
    source.upsert([{"id": "a", "body": "1"}, {"id": "b", "body": "1"}])
    source.upsert([{"id": "a", "body": "2"}, {"id": "a", "body": "3"}])
    assert source.delete(["b", "never", "b"]) == 1
    last = {it.document_id: it.change for it in source.read(0, 10)}
    assert last == {"a": "changed", "b": "deleted"}
    assert source.get(["a", "b"]).keys() == {"a"}
    head = source.head()
    with pytest.raises(Refused):
        source.upsert([{"id": "c", "body": "1"}, {"id": "d", "body": ["no text"]}])
    assert source.head() == head and source.prepare() == 1
    source.forget(head)
    assert [it.number for it in source.read(0, 10)] == [head]
    assert source.token() == make_source().token() is not None


def test_writers_at_once_lose_nothing_and_wait_for_each_other(make_source: MakeSource) -> None:
    sources = [make_source() for _ in range(4)]
    ids = [f"n{number:02d}" for number in range(20)]

    def write(number: int) -> None:
        for round in range(5):
            order = ids[::-1] if number % 2 else ids
            sources[number].upsert([{"id": id, "body": f"{number} {round}"} for id in order])
            sources[number].upsert([{"id": f"{number}-{round}", "body": "x"}])

    threads = [threading.Thread(target=write, args=(it,)) for it in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sources[0].prepare() == 40
    assert {it.document_id for it in sources[0].read(0, 1000)} >= set(ids)
    assert len({it.token() for it in sources}) == 1


def test_one_id_instead_of_a_list_is_refused(make_source: MakeSource) -> None:
    with pytest.raises(UsageError):
        make_source().delete("abc")


def test_an_id_that_the_database_cannot_hold_is_refused(postgres: str, tmp_path: Path) -> None:
    config = ManagedConfig.model_validate({"kind": "managed", "text": "body", "url": postgres})
    with closing(ManagedSource(config, Recipe(text=("body",)), context(tmp_path))) as source:
        with pytest.raises(Refused, match="an id"):
            source.upsert([{"id": "a\0b", "body": "x"}])
        assert source.prepare() == 0


def test_two_collections_share_a_database_and_everything_is_in_our_schema(
    postgres: str, tmp_path: Path
) -> None:
    config = ManagedConfig.model_validate({"kind": "managed", "text": "body", "url": postgres})
    for number, name in enumerate(("articles", "notes-2")):
        place = context(tmp_path)
        place = type(place)(place.root, place.work_dir, name)
        with closing(ManagedSource(config, Recipe(text=("body",)), place)) as source:
            source.upsert([{"id": str(it), "body": "x"} for it in range(number + 1)])
            assert (source.prepare(), source.head()) == (number + 1, number + 1)
    with psycopg.connect(postgres) as connection:
        query = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        assert connection.execute(query).fetchone() == (0,)


def test_a_place_is_a_file_or_a_database() -> None:
    given = {"kind": "managed", "text": "body", "url": "postgresql:///db"}
    with pytest.raises(ValidationError, match="either `path` or `url`"):
        ManagedConfig.model_validate(given | {"path": "documents.db"})
    assert "pa55word" not in repr(ManagedConfig.model_validate(given | {"url": "x:pa55word@y"}))


def test_a_database_of_another_kind_is_refused(tmp_path: Path) -> None:
    given = {"kind": "managed", "text": "body", "url": "sqlite://"}
    config = ManagedConfig.model_validate(given)
    with pytest.raises(ConfigError, match="not one of a PostgreSQL"):
        ManagedSource(config, Recipe(text=("body",)), context(tmp_path))
