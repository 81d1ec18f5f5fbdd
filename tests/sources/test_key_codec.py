"""Keys as ids: injective, readable, and back."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedmigrate.sources.keys import KeyCodec, cut
from embedmigrate.sources.values import UnusableId

NOTHING = UUID(int=0)

texts = st.text(st.characters(codec="utf-8"), max_size=20)
awkward = st.text("/%2F5a ", max_size=8)
parts = {
    int: st.integers(),
    str: st.one_of(texts, awkward),
    UUID: st.uuids(allow_nil=True),
}


@st.composite
def two_keys_of_one_table(draw: st.DrawFn) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    kinds = draw(st.lists(st.sampled_from([int, str, UUID]), min_size=1, max_size=4))
    column = [parts[kind] for kind in kinds]
    if len(kinds) == 1 and kinds[0] is str:
        column = [column[0].filter(bool)]
    return draw(st.tuples(*column)), draw(st.tuples(*column))


@settings(deadline=None)
@given(two_keys_of_one_table())
def test_ids_lead_back_to_their_keys_and_no_two_keys_share_one(
    keys: tuple[tuple[Any, ...], tuple[Any, ...]],
) -> None:
    codec = KeyCodec.of(keys[0])
    ids = [codec.encode(key) for key in keys]
    assert [codec.decode(id) for id in ids] == list(keys)
    assert (ids[0] == ids[1]) == (keys[0] == keys[1])


@settings(deadline=None)
@given(st.lists(st.sampled_from([int, str, UUID]), min_size=1, max_size=3), st.text(max_size=30))
def test_a_decoded_id_is_the_id_of_its_key_whatever_text_it_was(kinds: list[type], id: str) -> None:
    codec = KeyCodec(tuple(kinds))
    key = codec.decode(id)
    if key is not None:
        assert codec.encode(key) == id


@pytest.mark.parametrize(
    ("key", "id"),
    [
        ((-7,), "-7"),
        (("a/b%",), "a/b%"),
        ((UUID("AD5F0E2C-0000-4000-8000-00000000000F"),), "ad5f0e2c-0000-4000-8000-00000000000f"),
        (("eu", 7), "eu/7"),
        (("a/b", "c"), "a%2Fb/c"),
        (("a", "b/c"), "a/b%2Fc"),
        (("a%2Fb", ""), "a%252Fb/"),
        (("", ""), "/"),
    ],
)
def test_ids_are_readable(key: tuple[Any, ...], id: str) -> None:
    codec = KeyCodec.of(key)
    assert codec.encode(key) == id
    assert codec.decode(id) == key


@pytest.mark.parametrize(
    "id", ["007", "+7", " 7", "7 ", "1_0", "7.0", "-0", "٧", "abc", "", "9" * 5000]
)
def test_no_integer_key_is_written_like_that(id: str) -> None:
    assert KeyCodec((int,)).decode(id) is None


@pytest.mark.parametrize("id", [NOTHING.hex, f"{{{NOTHING}}}", str(UUID(int=10)).upper(), ""])
def test_no_uuid_key_is_written_like_that(id: str) -> None:
    assert KeyCodec((UUID,)).decode(id) is None


@pytest.mark.parametrize("id", ["eu", "eu/7/8", "eu/07", "%65u/7", "eu%2f/7", "\ud800/7"])
def test_no_composite_key_is_written_like_that(id: str) -> None:
    assert KeyCodec((str, int)).decode(id) is None


@pytest.mark.parametrize("value", [None, 1.5, True, b"x", [1]])
def test_other_types_are_no_keys(value: object) -> None:
    with pytest.raises(UnusableId):
        KeyCodec.of((value,))


def test_a_column_of_several_types_is_no_key() -> None:
    # 7 and "7" would share an id
    with pytest.raises(UnusableId, match="several types"):
        KeyCodec((int,)).encode(("7",))


@settings(deadline=None)
@given(st.lists(st.text(), unique=True), st.integers(1, 9))
def test_ranges_follow_each_other_without_a_gap(ids: list[str], size: int) -> None:
    ranges = list(cut(ids, size))
    assert [part.after for part in ranges] == [None, *(part.until for part in ranges)][
        :-1
    ] or not ids
    assert [part.until for part in ranges] == [*ids[size - 1 :: size], *ids[-1:]][: len(ranges)]
    assert sum(part.documents for part in ranges) == len(ids)
