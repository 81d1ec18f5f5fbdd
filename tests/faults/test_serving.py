"""What may go wrong while a reader follows the route."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from embedmigrate import Collection, command
from embedmigrate.catalog import routes
from embedmigrate.embedders.hashing import HashingEmbedder
from embedmigrate.errors import StorageUnavailable
from tests.faults.conftest import QUERY
from tests.faults.project import Faulty
from tests.workspace import wait_for


@pytest.fixture
def articles(project: Faulty) -> Iterator[Collection]:
    with Collection.open("articles", project.settings) as articles:
        yield articles


def test_a_switch_is_noticed_although_the_catalog_was_busy_then(
    project: Faulty, articles: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = articles._server._watcher
    watcher.route()
    project.upgrade()

    def busy(*_: object) -> None:
        raise StorageUnavailable("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(routes, "get", busy)
        with pytest.raises(StorageUnavailable):
            watcher.route()

    assert watcher.route().generation == 2


def test_a_route_that_was_read_before_a_switch_does_not_take_a_reader_back(
    project: Faulty, articles: Collection
) -> None:
    server = articles._server
    old = server._watcher.route()
    project.upgrade()
    command.rollback(project.settings, "articles")
    wait_for(lambda: articles.search(QUERY).generation, lambda generation: generation == 3)

    server._move_to(old)  # what a thread does that slept since it had read the route

    pair = server._pair
    assert pair is not None and pair.generation == 3


def test_the_next_index_is_opened_although_its_model_failed_at_first(
    project: Faulty, articles: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = HashingEmbedder.load
    attempts = 0

    def failing(*args: object) -> HashingEmbedder:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise RuntimeError("out of memory")
        return load(*args)  # type: ignore[arg-type]

    project.upgrade(until_ready=True)
    with monkeypatch.context() as patch:
        patch.setattr(HashingEmbedder, "load", failing)
        wait_for(lambda: len(articles._server._open), lambda opened: opened == 2)
    assert attempts >= 2
