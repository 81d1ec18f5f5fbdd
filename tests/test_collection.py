"""What applications import: one consistent (index, model, generation) at a time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from embedmigrate import Collection, command
from embedmigrate.errors import IndexGone, ModelMismatch, UnknownCatalog, UsageError
from tests.workspace import Workspace, wait_for

QUERY = "a night with a telescope"


@pytest.fixture
def live(migrated: Workspace) -> Workspace:
    """`wordllama` live, `wordllama-64` pending."""
    return migrated


def test_hits_come_best_first_with_metadata_and_say_where_from(live: Workspace) -> None:
    with Collection.open("articles", live.settings) as articles:
        result = articles.search(QUERY, k=5)
    assert [hit.score for hit in result.hits] == sorted(
        (hit.score for hit in result.hits), reverse=True
    )
    assert (result.model, result.generation, result.index) == ("wordllama", 1, "articles-0001")
    assert {hit.metadata["topic"] for hit in result.hits} == {"astronomy"}


def test_a_filter_restricts_the_hits(live: Workspace) -> None:
    with Collection.open("articles", live.settings) as articles:
        (result,) = articles.search_many([QUERY], k=40, filter={"topic": ["law", "sailing"]})
    assert len(result.hits) == 20
    assert {hit.metadata["topic"] for hit in result.hits} == {"law", "sailing"}


def test_many_queries_are_answered_from_one_generation(live: Workspace) -> None:
    with Collection.open("articles", live.settings) as articles:
        results = articles.search_many(["bread and yeast", "the jury"], k=1)
        assert [result.hits[0].metadata["topic"] for result in results] == ["baking", "law"]
        with pytest.raises(UsageError):
            articles.search_many("not a list")


def test_a_vector_of_another_space_is_refused_whatever_its_dimension(live: Workspace) -> None:
    with Collection.open("articles", live.settings) as articles:
        with articles.route() as route:
            vector = route.embed_query(QUERY)
            space = route.model.fingerprint
            expected = route.search_vector(vector, k=3)
        assert articles.search_vector(vector, space, k=3).hits == expected
        assert articles.search_vector(vector, route.model.reference, k=3).hits == expected
        with pytest.raises(ModelMismatch, match="another space"):
            articles.search_vector(vector, "0" * 32)
        with pytest.raises(ModelMismatch):
            articles.search_vector(np.ones(256, dtype=np.float32), "")


def test_a_route_stays_consistent_through_a_cut_over(live: Workspace) -> None:
    with Collection.open("articles", live.settings) as articles:
        with articles.route() as route:
            before = route.search_vector(route.embed_query(QUERY), k=3)
            live.upgrade()
            wait_for(lambda: articles.search(QUERY).generation, lambda found: found == 2)
            assert route.generation == 1
            assert route.search_vector(route.embed_query(QUERY), k=3) == before
        assert articles.search(QUERY).model == "wordllama-64"


def test_the_candidate_is_open_before_the_cut_over(live: Workspace) -> None:
    with Collection.open("articles", live.settings) as articles:
        live.upgrade(until_ready=True)
        opened = articles._server._open
        wait_for(lambda: set(opened), lambda names: names == {"articles-0001", "articles-0002"})
        command.cutover(live.settings)
        assert articles.search(QUERY).generation == 2, "the first request after it sees it"
        wait_for(lambda: set(opened), lambda names: names == {"articles-0002"})


def test_an_index_dropped_under_a_reader_makes_it_resolve_once_more(live: Workspace) -> None:
    with Collection.open("articles", live.settings) as articles:
        live.upgrade()
        live.let_grace_pass()
        command.contract(live.settings)
        wait_for(lambda: articles.search(QUERY).generation, lambda found: found == 2)


def test_many_threads_get_the_same_answers(live: Workspace) -> None:
    with Collection.open("articles", live.settings) as articles:
        expected = articles.search(QUERY).hits
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: articles.search(QUERY).hits, range(200)))
    assert all(answer == expected for answer in answers)


def test_closing_ends_every_thread_and_refuses_further_use(live: Workspace) -> None:
    before = threading.active_count()
    articles = Collection.open("articles", live.settings)
    articles.close()
    articles.close()
    assert threading.active_count() == before
    with pytest.raises(IndexGone, match="closed"):
        articles.search(QUERY)


def test_opening_says_what_is_missing(workspace: Workspace) -> None:
    with pytest.raises(UnknownCatalog, match="no catalog"):
        Collection.open("articles", workspace.settings)
    command.ensure_version(workspace.settings)
    with pytest.raises(IndexGone, match="no live index"):
        Collection.open("articles", workspace.settings)


def test_an_application_configured_for_another_model_does_not_start(live: Workspace) -> None:
    live.edit_config(
        'model = "wordllama"\nalso_accept = ["wordllama", "wordllama-64"]', 'model = "wordllama-64"'
    )
    with pytest.raises(ModelMismatch) as refusal:
        Collection.open("articles", live.settings)
    assert "wordllama@" in str(refusal.value) and "wordllama-64@" in str(refusal.value)

    live.upgrade(until_ready=True)
    with Collection.open("articles", live.settings) as articles:
        assert articles.search(QUERY).model == "wordllama", "a transition under way is served"


@pytest.mark.parametrize("query", ["", " \n", None, 7, b"bytes"])
def test_a_query_that_is_no_text_or_has_none_is_a_usage_error(live: Workspace, query: Any) -> None:
    with Collection.open("articles", live.settings) as articles:
        for ask in (articles.search, lambda text: articles.search_many([QUERY, text])):
            with pytest.raises(UsageError, match="the query is") as refusal:
                ask(query)
            assert refusal.value.expected and refusal.value.next_step
        with articles.route() as route, pytest.raises(UsageError, match="the query is"):
            route.embed_query(query)


@pytest.mark.parametrize("wrong", ["topic=law", ["topic"], 7])
def test_a_filter_that_is_no_mapping_is_a_usage_error(live: Workspace, wrong: Any) -> None:
    with Collection.open("articles", live.settings) as articles, articles.route() as route:
        vector = route.embed_query(QUERY)
        for ask in (
            lambda: articles.search(QUERY, filter=wrong),
            lambda: articles.search_vector(vector, route.model.fingerprint, filter=wrong),
            lambda: route.search_vector(vector, filter=wrong),
        ):
            with pytest.raises(UsageError, match="not a mapping") as refusal:
                ask()
            assert refusal.value.found == type(wrong).__name__
