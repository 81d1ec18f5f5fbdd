"""Identity of an embedding model: what its fingerprint covers, and what it leaves out.

The golden values are a promise: indexes, scripts and pin files in use carry them. A change that
breaks one of these tests makes every existing index unreadable. Never update a golden value.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from pydantic import ValidationError

from embedmigrate.models import EmbeddingModel, parse_reference

WEIGHTS, TOKENIZER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
ARTIFACTS = {"weights": WEIGHTS, "tokenizer": TOKENIZER}

PLAIN: dict[str, Any] = {"name": "plain", "artifacts": ARTIFACTS, "dimensions": 384}
FULL: dict[str, Any] = {
    "name": "full",
    "artifacts": ARTIFACTS,
    "dimensions": 256,
    "pooling": "cls",
    "normalize": True,
    "max_tokens": 256,
    "special_tokens": False,
    "document_prompt": "passage: ",
    "query_prompt": "запрос: ",
}


@pytest.mark.parametrize(
    ("fields", "fingerprint", "query_side"),
    [
        (PLAIN, "0d9ad631f6e1f5617349af46d8048f0f", "431f6d4b99c68a2ade76fc7d9d60186d"),
        (FULL, "3a4fd7f59453b8820672157c23e883c3", "dc867573f082129d48ef0f32d66e6da2"),
    ],
    ids=["defaults", "every field"],
)
def test_golden_fingerprints_hold_for_ever(
    fields: dict[str, Any], fingerprint: str, query_side: str
) -> None:
    model = EmbeddingModel(**fields)

    assert (model.fingerprint, model.query_side) == (fingerprint, query_side)


def test_the_fingerprint_is_the_sha256_of_a_text_that_anybody_can_write_down() -> None:
    text = (
        "embedmigrate/space/1\n"
        f'{{"artifacts":{{"tokenizer":"{TOKENIZER}","weights":"{WEIGHTS}"}},"dimensions":384}}'
    )

    expected = hashlib.sha256(text.encode("ascii")).hexdigest()[:32]

    assert EmbeddingModel(**PLAIN).fingerprint == expected


def test_fields_at_their_default_are_left_out_of_the_hash() -> None:
    assert EmbeddingModel(**PLAIN).space().keys() == {"artifacts", "dimensions"}
    spelt_out = EmbeddingModel(
        **PLAIN,
        pooling="mean",
        normalize=False,
        max_tokens=None,
        special_tokens=True,
        document_prompt="",
        query_prompt="",
        quantization="float32",
    )
    assert spelt_out.fingerprint == EmbeddingModel(**PLAIN).fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"artifacts": {**ARTIFACTS, "weights": "sha256:" + "c" * 64}},
        {"artifacts": {**ARTIFACTS, "tokenizer": "sha256:" + "c" * 64}},
        {"artifacts": {"weights": WEIGHTS}},
        {"artifacts": {"encoder": WEIGHTS, "tokenizer": TOKENIZER}},
        {"dimensions": 128},
        {"pooling": "cls"},
        {"normalize": True},
        {"max_tokens": 256},
        {"special_tokens": False},
        {"document_prompt": "passage: "},
    ],
    ids=str,
)
def test_whatever_moves_a_document_vector_is_another_space(change: dict[str, Any]) -> None:
    assert EmbeddingModel(**{**PLAIN, **change}).fingerprint != EmbeddingModel(**PLAIN).fingerprint


def test_no_two_of_these_changes_make_the_same_space() -> None:
    variants: list[dict[str, Any]] = [
        {},
        {"pooling": "cls"},
        {"pooling": "max"},
        {"pooling": "last"},
        {"normalize": True},
        {"max_tokens": 1},
        {"special_tokens": False},
        {"document_prompt": "a"},
        {"document_prompt": "a "},
        {"dimensions": 1},
    ]
    fingerprints = {EmbeddingModel(**{**PLAIN, **variant}).fingerprint for variant in variants}
    assert len(fingerprints) == len(variants)


def test_the_query_prompt_changes_the_query_side_alone() -> None:
    bare, asking = EmbeddingModel(**PLAIN), EmbeddingModel(**PLAIN, query_prompt="query: ")

    assert asking.fingerprint == bare.fingerprint
    assert asking.query_side != bare.query_side


def test_models_of_different_spaces_have_different_query_sides() -> None:
    assert (
        EmbeddingModel(**PLAIN).query_side
        != EmbeddingModel(**{**PLAIN, "dimensions": 128}).query_side
    )


def test_the_name_is_for_people_and_is_not_hashed() -> None:
    renamed = EmbeddingModel(**{**PLAIN, "name": "mirror/plain-v1.5"})

    assert renamed.fingerprint == EmbeddingModel(**PLAIN).fingerprint
    assert renamed.query_side == EmbeddingModel(**PLAIN).query_side
    assert renamed.reference == f"mirror/plain-v1.5@{renamed.fingerprint}"


@pytest.mark.parametrize("place", ["provider", "package", "path", "weights", "host"])
def test_an_identity_has_no_room_for_a_place(place: str) -> None:
    with pytest.raises(ValidationError, match=place):
        EmbeddingModel(**PLAIN, **{place: "anywhere"})


def test_the_order_of_artifacts_does_not_matter() -> None:
    backwards = EmbeddingModel(**{**PLAIN, "artifacts": dict(reversed(ARTIFACTS.items()))})
    assert backwards.fingerprint == EmbeddingModel(**PLAIN).fingerprint


def test_the_right_fingerprint_may_be_stated_and_a_wrong_one_is_refused() -> None:
    right = EmbeddingModel(**PLAIN).fingerprint
    assert EmbeddingModel(**PLAIN, fingerprint=right).fingerprint == right

    wrong = "0" * 32
    with pytest.raises(ValueError, match=right) as refusal:
        EmbeddingModel(**PLAIN, fingerprint=wrong)
    assert wrong in str(refusal.value)


@pytest.mark.parametrize(
    "artifacts",
    [
        {},
        {"weights": "latest"},
        {"weights": "main"},
        {"weights": "a" * 64},
        {"weights": "sha256:" + "a" * 63},
        {"weights": "sha256:" + "A" * 64},
        {"weights": "sha256:" + "a" * 64 + "\n"},
        {**ARTIFACTS, "tokenizer": "https://example.org/tokenizer.json"},
    ],
    ids=str,
)
def test_an_artifact_that_is_not_a_digest_is_refused(artifacts: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="sha256"):
        EmbeddingModel(**{**PLAIN, "artifacts": artifacts})


@pytest.mark.parametrize("name", ["", "../x", "a b", "-x", "x" * 129, "naïve", "x\n"])
def test_a_name_that_would_confuse_a_file_or_a_line_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        EmbeddingModel(**{**PLAIN, "name": name})


def test_an_identity_cannot_be_changed() -> None:
    model = EmbeddingModel(**PLAIN)
    with pytest.raises(ValidationError, match="frozen"):
        model.dimensions = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        model.artifacts["weights"] = TOKENIZER  # type: ignore[index]


def test_an_identity_survives_json() -> None:
    model = EmbeddingModel(**FULL)
    again = EmbeddingModel.model_validate_json(model.model_dump_json())
    assert again == model and hash(again) == hash(model)


@pytest.mark.parametrize(
    "reference",
    ["wordllama", "wordllama@", "wordllama@main", "@" + "a" * 32, "w@" + "a" * 31, "w@" + "A" * 32],
)
def test_a_reference_without_the_whole_fingerprint_pins_nothing(reference: str) -> None:
    with pytest.raises(ValueError, match="does not pin"):
        parse_reference(reference)


def test_a_reference_leads_back_to_name_and_fingerprint() -> None:
    model = EmbeddingModel(**PLAIN)
    assert parse_reference(model.reference) == ("plain", model.fingerprint)
    assert parse_reference("a@b@" + "0" * 32) == ("a@b", "0" * 32)
