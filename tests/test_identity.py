"""A migration that changes nothing changes nothing that a query can see, and back is back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from embedmigrate import Collection, command
from embedmigrate.errors import UsageError
from tests.workspace import Workspace, documents

DATA = Path(__file__).parents[1] / "examples" / "data"


@pytest.fixture
def judged(tmp_path: Path) -> Workspace:
    """The shipped abstracts, live with `wordllama`."""
    lines = (DATA / "corpus.jsonl").read_text("utf-8").splitlines()
    corpus = [json.loads(line) for line in lines]
    workspace = Workspace.make(tmp_path / "project", corpus=corpus)
    workspace.edit_config('metadata = ["topic"]', "metadata = []")
    workspace.revision("wordllama", "first index")
    workspace.upgrade()
    return workspace


def known_queries() -> list[str]:
    lines = (DATA / "queries.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def answers(workspace: Workspace, queries: Iterable[str]) -> list[list[tuple[str, float]]]:
    with Collection.open("articles", workspace.settings) as articles:
        found = articles.search_many(list(queries), k=20)
    return [[(hit.id, hit.score) for hit in result.hits] for result in found]


def anew(workspace: Workspace, to: str) -> dict[str, Any]:
    command.revision(workspace.settings, "anew", collection="articles", to=to, rebind=False)
    (entry,) = workspace.upgrade()
    return entry


def test_from_a_model_to_itself_every_known_query_is_answered_identically(
    judged: Workspace,
) -> None:
    before = answers(judged, known_queries())
    assert len(before) > 50 and all(before)

    with pytest.raises(UsageError, match="already moves") as refused:
        judged.revision("wordllama", "nothing changes")
    assert "--no-rebind" in str(refused.value)
    entry = anew(judged, "wordllama")

    assert (entry["index"], entry["generation"], entry["embedded"]) == ("articles-0002", 2, 600)
    assert answers(judged, known_queries()) == before


def test_there_and_back_and_there_again(judged: Workspace) -> None:
    queries = known_queries()
    first = answers(judged, queries)
    judged.revision("wordllama-64", "there")
    judged.upgrade()
    second = answers(judged, queries)
    assert second != first

    judged.revision("wordllama", "back")
    (back,) = judged.upgrade()
    assert (back["index"], back["embedded"]) == ("articles-0001", 0)
    assert answers(judged, queries) == first
    judged.revision("wordllama-64", "there again")
    (again,) = judged.upgrade()
    assert (again["index"], again["embedded"]) == ("articles-0002", 0)
    assert answers(judged, queries) == second


def test_there_and_rolled_back(judged: Workspace) -> None:
    first = answers(judged, known_queries())
    judged.revision("wordllama-64", "there")
    judged.upgrade()
    command.rollback(judged.settings, "articles", reason="worse")
    assert answers(judged, known_queries()) == first


def test_back_after_the_old_index_was_dropped_embeds_it_anew(tmp_path: Path) -> None:
    workspace = Workspace.make(tmp_path / "project", corpus=documents(40))
    workspace.revision("wordllama", "first index")
    workspace.upgrade()
    first = answers(workspace, ["a telescope", "bread"])
    workspace.revision("wordllama-64", "there")
    workspace.upgrade()
    workspace.let_grace_pass()
    assert command.contract(workspace.settings)["collections"][0]["dropped"] == ["articles-0001"]

    workspace.revision("wordllama", "back")
    (back,) = workspace.upgrade()

    assert (back["index"], back["embedded"]) == ("articles-0003", 40)
    assert answers(workspace, ["a telescope", "bread"]) == first
