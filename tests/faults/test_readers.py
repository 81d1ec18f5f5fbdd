"""Readers through cut-overs and rollbacks; `python -m benchmarks.readers` is the full form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from embedmigrate import Collection, collection, command, resolve
from embedmigrate.collection import SearchResult
from embedmigrate.embedders.base import Embedder
from embedmigrate.models import EmbeddingModel
from embedmigrate.serving import Embedders, Pair
from embedmigrate.stores.base import Hit
from tests.faults.project import ROOT, Faulty
from tests.faults.reading import Reader, Seen, Truth, switch
from tests.workspace import wait_for

SWITCHES = 20
MODELS = ("wordllama", "wordllama-prompted")
DATA = ROOT / "examples" / "data"
DOCUMENTS, QUERIES = 300, 20

PROMPTED = """
# the same table and the same width in another space: a mix of the two raises nothing
[models.wordllama-prompted]
provider = "static"
package = "wordllama"
weights = "weights/l2_supercat_256.safetensors"
tokenizer = "tokenizers/l2_supercat_tokenizer_config.json"
normalize = true
document_prompt = "passage about: "
query_prompt = "question about: "
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Faulty:
    """Two real models of one width, both with an index; the first one is live again."""
    root = tmp_path_factory.mktemp("readers") / "template"
    corpus = [{**document, "topic": ""} for document in read("corpus.jsonl")[:DOCUMENTS]]
    project = Faulty.prepared(root, corpus, *MODELS, batch_size=64, more_models=PROMPTED)
    project.upgrade()
    command.rollback(project.settings, "articles")
    return project


@pytest.fixture(scope="module")
def truth(template: Faulty) -> Truth:
    queries = [query["text"] for query in read("queries.jsonl")[:QUERIES]]
    return Truth.of(template.settings, MODELS, queries)


@pytest.fixture
def articles(project: Faulty) -> Iterator[Collection]:
    with Collection.open("articles", project.settings) as articles:
        yield articles


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text("utf-8").splitlines()]


def seen_through(project: Faulty, articles: Collection, truth: Truth, switches: int) -> Seen:
    """What a reader sees while the collection is switched so many times."""
    reader = Reader(articles, truth)
    reader.start()
    try:
        for number in range(1, switches + 1):
            switch(project, number)
        current = project.status()["live"]["generation"]
        wait_for(lambda: reader.seen.generation, lambda seen: seen >= current)
    finally:
        seen = reader.stop()
    return seen


def test_the_two_models_answer_differently(truth: Truth) -> None:
    first, second = (truth.answers[model] for model in truth.models)
    assert all(first[query] != second[query] for query in truth.queries)


def test_a_reader_sees_one_consistent_pair_through_every_switch(
    project: Faulty, articles: Collection, truth: Truth
) -> None:
    seen = seen_through(project, articles, truth, SWITCHES)

    assert seen.faults == 0, seen
    assert seen.searches > 10 * SWITCHES
    assert len(seen.generations) > SWITCHES / 2


def test_an_index_that_is_dropped_under_a_reader_is_no_error(
    project: Faulty, articles: Collection, truth: Truth
) -> None:
    reader = Reader(articles, truth)
    reader.start()
    switch(project, 1)
    project.let_grace_pass()
    command.contract(project.settings)
    wait_for(lambda: reader.seen.generation, lambda generation: generation == 4)

    assert reader.stop().faults == 0, reader.seen


# -- would it be noticed? ---------------------------------------------------------------------


def test_queries_of_the_other_model_are_noticed(
    project: Faulty, truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = project.settings
    other = {
        resolve.pinned(settings, one).fingerprint: resolve.pinned(settings, another)
        for one, another in (MODELS, MODELS[::-1])
    }
    taken = Embedders.taken

    def mixed_up(embedders: Embedders, model: EmbeddingModel) -> AbstractContextManager[Embedder]:
        return taken(embedders, other[model.fingerprint])

    monkeypatch.setattr(Embedders, "taken", mixed_up)
    with Collection.open("articles", settings) as articles:
        seen = seen_through(project, articles, truth, 2)

    assert seen.mismatched == seen.searches > 0
    assert not seen.errors, "nothing else would say so"


def test_a_generation_that_is_not_that_of_the_index_is_noticed(
    project: Faulty, articles: Collection, truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ahead(pair: Pair, hits: list[Hit]) -> SearchResult:
        return result_of(pair._replace(generation=pair.generation + 1), hits)

    result_of = collection._result
    monkeypatch.setattr(collection, "_result", ahead)

    seen = seen_through(project, articles, truth, 1)

    assert seen.mismatched == seen.searches > 0
