"""What field values become."""

from __future__ import annotations

import math
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from embedmigrate.models import Recipe
from embedmigrate.sources.values import (
    DocumentMaker,
    UnusableRecord,
    json_value,
    make_id,
    text_value,
    valid_text,
)

KEY = UUID("ad5f0e2c-0000-4000-8000-00000000000f")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        (None, None),
        (7, "7"),
        (1.5, "1.5"),
        (True, "true"),
        (False, "false"),
        (math.nan, None),
        (math.inf, None),
        (Decimal("1.50"), "1.50"),
        (Decimal("NaN"), None),
        (KEY, str(KEY)),
        (date(2024, 2, 29), "2024-02-29"),
    ],
)
def test_the_text_of_a_field(value: object, text: str | None) -> None:
    assert text_value(value) == text


@pytest.mark.parametrize("value", [["a"], {"a": "b"}, b"a", ("a",), timedelta(1), object()])
def test_values_that_have_no_text(value: object) -> None:
    with pytest.raises(UnusableRecord):
        text_value(value)


@pytest.mark.parametrize(
    ("value", "json"),
    [
        (None, None),
        (True, True),
        (2**70, 2**70),
        ("a\ud800", "a\ufffd"),
        ([math.nan, -math.inf, 1.5], [None, None, 1.5]),
        ({"a\ud800": (1, "x")}, {"a\ufffd": [1, "x"]}),
        (Decimal("1.50"), "1.50"),
        (KEY, str(KEY)),
        (datetime(2024, 2, 29, 1, 2, 3, 4), "2024-02-29T01:02:03.000004"),
        (datetime(2024, 2, 29, tzinfo=timezone(timedelta(hours=2))), "2024-02-29T00:00:00+02:00"),
        (date(2024, 2, 29), "2024-02-29"),
        (time(1, 2), "01:02:00"),
    ],
)
def test_the_json_value_of_a_field(value: object, json: Any) -> None:
    assert json_value(value) == json


@pytest.mark.parametrize("value", [b"a", [b"a"], {1: "a"}, {"a": {1, 2}}, timedelta(1)])
def test_values_that_are_no_json(value: object) -> None:
    with pytest.raises(UnusableRecord):
        json_value(value)


def test_an_integer_and_its_digits_are_one_id() -> None:
    assert make_id(7) == make_id("7") == "7"
    assert make_id(KEY) == str(KEY)


def test_lone_surrogates_are_replaced_one_by_one_and_pairs_are_kept() -> None:
    assert valid_text("\ud800a\udfff\ud800") == "\ufffda\ufffd\ufffd"
    assert valid_text("\U0001f600") == "\U0001f600"


def test_an_error_names_the_field_and_the_type_and_never_the_value() -> None:
    maker = DocumentMaker(Recipe(text=("title", "body")), ["year"])
    with pytest.raises(UnusableRecord, match="'body'") as caught:
        maker.make("1", ["a", ["SECRET"]], [None])
    error = caught.value.at("line 1")
    assert error.found == "a value of type list"
    assert "SECRET" not in str(error)


@pytest.mark.parametrize("value", [b"SECRET", timedelta(1), ["SECRET"], {"a": "SECRET"}])
def test_a_text_field_without_text_is_told_what_a_text_may_be(value: object) -> None:
    with pytest.raises(UnusableRecord, match="has no single text") as caught:
        text_value(value)
    assert caught.value.expected == "a string or a number"
    assert "SECRET" not in caught.value.found
