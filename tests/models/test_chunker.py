"""How a text is cut: the same on every machine, in every Python, for ever.

The golden values are a promise: chunks that came out otherwise would be stale in every index.
"""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from embedmigrate.models import Chunker, Recipe
from embedmigrate.models.chunker import _TOKEN

GOLDEN = {
    "words and signs": (
        "Don't cut me, please: 3.5 km (or more) is_far!",
        [
            "Don't cut me,",
            "cut me, please: 3",
            "please: 3.5 km",
            ".5 km (or more",
            "(or more) is_",
            ") is_far!",
        ],
    ),
    "a short text as it stands": ("  as it\tstands \n", ["  as it\tstands \n"]),
    "no spaces": ("東京都は日本の首都です。", ["東京都は日本", "は日本の首都", "の首都です。"]),
    "pictures": ("a 🚀🚀🚀🚀🚀 b", ["a 🚀🚀🚀🚀🚀", "🚀🚀🚀 b"]),
    "a long word": ("x" * 200, ["x" * 192, "x" * 104]),
    "other letters": (
        "Ёлка, ёлка über naïve ελλάδα क्षत्रिय",
        ["Ёлка, ёлка über naïve ελλάδα", "über naïve ελλάδα क्षत्रिय"],
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_chunks_hold_for_ever(name: str) -> None:
    text, expected = GOLDEN[name]
    assert Chunker(size=6, overlap=3).cut(text) == expected


@pytest.mark.parametrize(
    ("chunker", "expected"),
    [
        (Chunker(size=256, overlap=32), "ada3af848bc288c8475a04b1508ec18b"),
        (Chunker(size=256), "e27ca571deb30e237cb333d0b4682d8e"),
    ],
)
def test_golden_digests_hold_for_ever(chunker: Chunker, expected: str) -> None:
    assert Recipe(text=("text",), chunker=chunker).digest == expected


def test_size_and_overlap_are_part_of_the_recipe_and_no_chunker_is_none() -> None:
    chunkers = [None, Chunker(size=8), Chunker(size=9), Chunker(size=9, overlap=1)]
    assert len({Recipe(text="t", chunker=chunker).digest for chunker in chunkers}) == 4


def test_a_chunker_may_be_given_as_a_dictionary() -> None:
    stated = Recipe.model_validate({"text": "t", "chunker": {"kind": "tokens", "size": 8}})
    assert stated == Recipe(text=("t",), chunker=Chunker(size=8))


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"size": 8, "overlap": 8},
        {"size": 8, "overlap": -1},
        {"overlap": 1},
        {"size": 8, "kind": "sentences"},
        {"size": 8, "step": 2},
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Chunker.model_validate(wrong)


def test_the_text_of_a_hit_is_found_by_its_chunk() -> None:
    recipe = Recipe(text=("title", "text"), chunker=Chunker(size=2))
    assert recipe.make_chunks({"title": "a b", "text": "c"}) == ["a b", "c"]
    assert recipe.make_chunks({}) == [] == recipe.whole.make_chunks({})
    assert recipe.whole.make_chunks({"title": "a b", "text": "c"}) == ["a b c"]


TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from("aé .,\n東🚀")).filter(str.strip)


@given(text=TEXTS, size=st.integers(1, 5), data=st.data())
def test_chunks_cover_every_token_in_order_and_none_is_empty(
    text: str, size: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    tokens = _TOKEN.findall(text)
    chunks = Chunker(size=size, overlap=overlap).cut(text)
    if len(chunks) == 1:
        assert chunks == [text] and len(tokens) <= size
        return
    found: list[str] = []
    for chunk in chunks:
        inside = _TOKEN.findall(chunk)
        assert 0 < len(inside) <= size and chunk in text
        assert chunk == chunk.strip()
        shared = overlap if found else 0
        assert found[len(found) - shared :] == inside[:shared] and len(inside) > shared
        found += inside[shared:]
    assert found == tokens


def test_every_character_is_a_space_or_part_of_a_token() -> None:
    """Also of characters that a newer Unicode adds: none of them is looked up."""
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        assert bool(_TOKEN.fullmatch(character)) != character.isspace(), unicodedata.name(character)
