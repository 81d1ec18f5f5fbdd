"""How a text is made, what an index is built to, and the digests of both.

The golden values are a promise, see ``test_embedding_model.py``. Never update one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from embedmigrate.models import EmbeddingModel, IndexSpec, Recipe
from embedmigrate.models.canonical import canonical_json, digest, sha256_file

MODEL = EmbeddingModel(
    name="plain",
    artifacts={"weights": "sha256:" + "a" * 64, "tokenizer": "sha256:" + "b" * 64},
    dimensions=384,
)
SPEC: dict[str, Any] = {"model": MODEL, "recipe": Recipe(text=("text",)), "store_kind": "faiss"}


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (Recipe(text=("text",)), "4adba4d3c78cfe3e10d0209909a8c386"),
        (Recipe(text=("title", "text")), "e67ef5a2579dc74528598d2c6934f637"),
        (Recipe(text=("title", "text"), joiner="\n"), "97cb4e59d899c7b52509c6f7776cdb80"),
    ],
    ids=["one field", "two fields", "joiner"],
)
def test_golden_recipe_digests_hold_for_ever(recipe: Recipe, expected: str) -> None:
    assert recipe.digest == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "3f32b4626f6e06339d3cf418aed7df08"),
        ({"factory": "IVF1024,Flat", "metric": "l2"}, "55d0203c2982b22d47575fa8459b2f69"),
    ],
    ids=["defaults", "factory and metric"],
)
def test_golden_index_spec_digests_hold_for_ever(changes: dict[str, Any], expected: str) -> None:
    assert IndexSpec(**{**SPEC, **changes}).digest == expected


def test_the_default_joiner_is_left_out_of_the_hash() -> None:
    assert Recipe(text=("a", "b"), joiner=" ").digest == Recipe(text=("a", "b")).digest


@pytest.mark.parametrize(
    "other",
    [
        Recipe(text=("text", "title")),
        Recipe(text=("title",)),
        Recipe(text=("title text",)),
        Recipe(text=("title", "text"), joiner=""),
    ],
)
def test_another_field_order_or_joiner_is_another_recipe(other: Recipe) -> None:
    assert other.digest != Recipe(text=("title", "text")).digest


@pytest.mark.parametrize(
    "change",
    [
        {"model": EmbeddingModel(name="plain", artifacts=MODEL.artifacts, dimensions=383)},
        {"recipe": Recipe(text=("title",))},
        {"store_kind": "pgvector"},
        {"factory": "HNSW32"},
        {"metric": "l2"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_part_of_an_index_spec_makes_another_index(change: dict[str, Any]) -> None:
    assert IndexSpec(**{**SPEC, **change}).digest != IndexSpec(**SPEC).digest


def test_name_and_query_prompt_of_the_model_do_not_make_another_index() -> None:
    fields = {**MODEL.model_dump(), "name": "renamed", "query_prompt": "query: "}
    renamed = EmbeddingModel.model_validate(fields)
    assert IndexSpec(**{**SPEC, "model": renamed}).digest == IndexSpec(**SPEC).digest


def test_an_index_spec_survives_json() -> None:
    spec = IndexSpec(**SPEC)
    assert IndexSpec.model_validate(spec.model_dump(mode="json")).digest == spec.digest


def test_a_recipe_drops_empty_fields_and_keeps_the_others_as_they_stand() -> None:
    recipe = Recipe(text=("title", "text", "note"))

    assert recipe.make_text({"title": " A ", "text": "b", "note": ""}) == " A  b"
    assert recipe.make_text({"title": None, "text": " \n\t", "note": 7}) == "7"
    assert recipe.make_text({"title": "only"}) == "only"
    assert recipe.make_text({}) == ""


def test_one_field_may_be_given_without_a_list_and_none_at_all_is_refused() -> None:
    assert Recipe(text="body") == Recipe(text=("body",))
    with pytest.raises(ValidationError, match="at least one"):
        Recipe(text=())


def test_canonical_json_depends_on_nothing_but_the_value() -> None:
    assert canonical_json({"b": 1, "a": ["é", True, None, 1.5]}) == (
        '{"a":["\\u00e9",true,null,1.5],"b":1}'
    )
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


def test_two_kinds_of_thing_with_the_same_fields_never_share_a_digest() -> None:
    assert digest("space/1", {"a": 1}) != digest("recipe/1", {"a": 1})


def test_the_digest_of_a_file_is_over_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_file(tmp_path / "f") == (
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
