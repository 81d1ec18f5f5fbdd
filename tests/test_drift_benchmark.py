"""The benchmark of drift measures what it says: checked without torch, on a stand-in of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.changed_embedders import Posing, Shifted
from benchmarks.drift import Remembering
from benchmarks.known_items import WORDS, Distance, Search, best, known_items, read_texts
from benchmarks.model_variants import MINILM, VARIANTS, Variant, open_model, variant
from benchmarks.unchanged import SIZES, THREADS, InCompany, schedule
from benchmarks.witnessing import compare, record, verdict_of
from embedmigrate.embedders.base import Embedder, Vectors
from embedmigrate.registry import adapter
from tests.workspace import documents

TEXTS = [str(document["text"]) for document in documents(30)]


@pytest.fixture
def embedder(tmp_path: Path) -> Embedder:
    return hashing(tmp_path)


def hashing(root: Path, **settings: object) -> Embedder:
    table = {"provider": "hashing-not-a-model", "dimensions": 64, **settings}
    return open_model(Variant("hashing", "", table), root)


# -- the variants -------------------------------------------------------------------------------


@pytest.mark.parametrize("one", VARIANTS, ids=lambda one: one.label)
def test_a_variant_is_a_table_of_its_provider_and_a_change_of_another(one: Variant) -> None:
    adapter("embedders", one.model["provider"]).Config(**one.model)
    assert variant(one.label) is one, "labels are unique"
    assert one.label == "base" or replace(one, label="", change="") != variant(one.against)


def test_everything_is_a_change_of_the_base_unless_it_says_so() -> None:
    assert variant("base").model == MINILM
    others = {one.label: one.against for one in VARIANTS if one.against != "base"}
    assert others == {
        "int8-dynamic-batched": "int8-dynamic",
        "prompts-lost": "prompts-added",
        "instruction-lost": "instruction-added",
    }


# -- changed vectors ----------------------------------------------------------------------------


@pytest.mark.parametrize("distance", [0.05, 0.15])
def test_a_shift_turns_every_vector_by_one_angle_and_keeps_its_norm(
    embedder: Embedder, distance: float
) -> None:
    shifted = Shifted(embedder, distance)
    for side in ("embed_documents", "embed_queries"):
        measured = Distance.between(getattr(embedder, side)(TEXTS), getattr(shifted, side)(TEXTS))
        assert measured is not None
        assert measured.median == pytest.approx(distance, abs=1e-6)
        assert measured.greatest == pytest.approx(distance, abs=1e-6)
        assert measured.norm < 1e-6


def test_a_lost_normalisation_shows_in_the_norm_alone(embedder: Embedder) -> None:
    vectors = embedder.embed_documents(TEXTS)
    measured = Distance.between(vectors, vectors * np.float32(3))
    assert measured is not None
    assert measured.greatest < 1e-12
    assert measured.norm == pytest.approx(2)


def test_vectors_of_other_dimensions_have_no_distance(embedder: Embedder) -> None:
    vectors = embedder.embed_documents(TEXTS)
    assert Distance.between(vectors, vectors[:, :32]) is None


# -- known items --------------------------------------------------------------------------------


def test_a_query_is_a_part_of_the_one_document_that_it_looks_for() -> None:
    items = known_items(TEXTS, 10)
    assert items == known_items(TEXTS, 10)
    assert len({item.row for item in items}) == 10
    for query, row in items:
        assert len(query.split()) == WORDS
        assert query in " ".join(TEXTS[row].split())


def test_searches_are_compared_by_their_lists(embedder: Embedder) -> None:
    vectors = embedder.embed_documents(TEXTS)
    items = [item._replace(query=TEXTS[item.row]) for item in known_items(TEXTS, 10)]
    rows = [item.row for item in items]
    found = best(vectors[rows], vectors)
    assert found[:, 0].tolist() == rows
    assert Search.compared(found, found, items) == Search(1.0, 0.0, 1.0)
    others = np.setdiff1d(np.arange(len(TEXTS)), found[0])[np.newaxis, :10]
    assert Search.compared(found[:1], others, items[:1]) == Search(0.0, 1.0, 0.0)


def test_a_text_that_occurs_twice_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    lines = ['{"_id": "1", "title": "A", "text": "b\\u2028c"}', '{"_id": 2, "text": "d"}']
    path.write_text("\n".join([*lines, lines[1], ""]), "utf-8")
    assert read_texts(path) == [("1", "A b\u2028c"), ("2", "d")]
    assert read_texts(path, 1) == [("1", "A b\u2028c")]


# -- the ways in which an unchanged model is run ------------------------------------------------


class Counting(Posing):
    """Notes how many texts each call brings."""

    def __init__(self, inner: Embedder) -> None:
        super().__init__(inner, inner.model)
        self.calls: list[int] = []

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(len(texts))
        return super().embed_documents(texts)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_texts_in_company_keep_their_vectors_and_every_batch_is_full(
    embedder: Embedder, size: int
) -> None:
    counting = Counting(embedder)
    company = InCompany(counting, TEXTS, size, seed=3)
    for text in TEXTS:
        np.testing.assert_array_equal(
            company.embed_documents([text]), embedder.embed_documents([text])
        )
    assert counting.calls == [size] * -(-len(TEXTS) // size)


def test_a_text_that_was_not_announced_is_refused(embedder: Embedder) -> None:
    with pytest.raises(LookupError):
        InCompany(embedder, TEXTS, 4, seed=0).embed_queries(["another"])


def test_two_hundred_runs_see_every_size_with_every_number_of_threads() -> None:
    runs = schedule(200)
    assert len(set(runs)) == 200
    assert {(run.size, run.threads) for run in runs} == {
        (size, threads) for size in SIZES for threads in THREADS
    }


def test_what_was_embedded_is_remembered_by_model_and_side(
    embedder: Embedder, tmp_path: Path
) -> None:
    counting = Counting(embedder)
    for _ in range(2):
        found = Remembering(counting, tmp_path / "vectors").embed_documents(TEXTS)
        np.testing.assert_array_equal(found, embedder.embed_documents(TEXTS))
    assert counting.calls == [len(TEXTS)]
    other = Counting(hashing(tmp_path, seed=1))
    np.testing.assert_array_equal(
        Remembering(other, tmp_path / "vectors").embed_documents(TEXTS),
        other.embed_documents(TEXTS),
    )


# -- the verdict --------------------------------------------------------------------------------


def test_a_verdict_tells_a_changed_model_from_the_same(embedder: Embedder, tmp_path: Path) -> None:
    assert verdict_of(embedder, hashing(tmp_path)).verdict == "OK"
    assert verdict_of(embedder, Shifted(embedder, 0.05)).alarm
    assert verdict_of(embedder, hashing(tmp_path, dimensions=32)).alarm
    assert not compare(record(embedder), embedder).alarm
