"""What ids, text fields and metadata fields may hold, and what becomes of it. One rule for all.

- **Ids** are strings, integers or UUIDs, never empty, at most 512 bytes of UTF-8. An integer and
  the string of its digits are one id.
- **Text** is used as it stands. ``true``, numbers, dates, decimals and UUIDs become their text;
  lists, objects and bytes are refused.
- **Metadata** becomes JSON: dates and times in ISO 8601, decimals and UUIDs as strings; bytes are
  refused. A field that a record lacks is ``None``.
- NaN and infinities count as missing, because JSON has no word for them.
- A lone surrogate, which no UTF-8 can hold, becomes U+FFFD before anything is hashed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import date, time
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

from embedmigrate.errors import DuplicateId, Refused
from embedmigrate.models import Recipe
from embedmigrate.sources.base import Document

MAX_ID_BYTES = 512
_PLAIN = frozenset({str, type(None)})


class UnusableRecord(ValueError):
    """A record that cannot be a document. Knows the types it met, never the text."""

    refusal: ClassVar[type[Refused]] = Refused

    def __init__(self, problem: str, *, found: str, expected: str) -> None:
        super().__init__(problem)
        self.problem, self.found, self.expected = problem, found, expected

    def at(self, place: str) -> Refused:
        """The error to raise, once the place (a file and line, a table and key) is known."""
        return self.refusal(
            f"{place}: {self.problem}",
            found=self.found,
            expected=self.expected,
            next_step="correct the record in the source, then run the same command again",
        )


class UnusableId(UnusableRecord):
    """A record whose id is missing or cannot be one."""

    refusal = DuplicateId


def make_id(value: object) -> str:
    """The document id for the value of a record's id field; ``UnusableId`` says what is wrong."""
    if not isinstance(value, str):
        if isinstance(value, bool) or not isinstance(value, int | UUID):
            raise UnusableId(
                "the id cannot be used", found=_type(value), expected="a string or an integer"
            )
        value = str(value)
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise UnusableId(
            "the id cannot be used", found="a lone surrogate", expected="text that is valid UTF-8"
        ) from None
    if not 0 < size <= MAX_ID_BYTES:
        raise UnusableId(
            "the id cannot be used",
            found=f"{size} bytes",
            expected=f"1 to {MAX_ID_BYTES} bytes of UTF-8",
        )
    return value


def valid_text(text: str) -> str:
    """``text`` with every lone surrogate replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def text_value(value: object) -> str | None:
    """The text of one field, None where there is none; ``UnusableRecord`` for what has no text."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, Mapping | list | tuple):
        with suppress(UnusableRecord):
            scalar = json_value(value)
            return None if scalar is None else str(scalar)
    raise UnusableRecord("has no single text", found=_type(value), expected="a string or a number")


def json_value(value: object) -> Any:
    """``value`` as a JSON value; ``UnusableRecord`` where there is none."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {valid_text(key): json_value(item) for key, item in value.items()}
    return _json_scalar(value)


def _json_scalar(value: object) -> str | float | None:
    if isinstance(value, str):
        return valid_text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return str(value) if value.is_finite() else None
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, date | time):
        return value.isoformat()
    raise UnusableRecord(
        "cannot be a JSON value",
        found=_type(value),
        expected="a string, number, boolean, date, UUID, or a list or object of these",
    )


class DocumentMaker:
    """Makes documents of field values, given in the order of ``text`` and ``metadata``."""

    def __init__(self, recipe: Recipe, metadata: Sequence[str]) -> None:
        self.recipe = recipe
        self.text = recipe.text
        self.metadata = tuple(metadata)

    @property
    def fields(self) -> tuple[str, ...]:
        """Every field that is read, each once."""
        return tuple(dict.fromkeys((*self.text, *self.metadata)))

    def content(
        self, texts: Sequence[object], metadata: Sequence[object]
    ) -> tuple[str, dict[str, Any]]:
        """Text and metadata of a document; ``UnusableRecord`` names a field that has no place."""
        if not _PLAIN.issuperset(map(type, texts)):
            texts = self._convert(text_value, self.text, texts)
        text = valid_text(self.recipe.join(texts))
        if not self.metadata:
            return text, {}
        values = self._convert(json_value, self.metadata, metadata)
        return text, dict(zip(self.metadata, values, strict=True))

    def make(self, id: str, texts: Sequence[object], metadata: Sequence[object]) -> Document:
        """One document; raises as ``content`` does."""
        return Document.make(id, *self.content(texts, metadata))

    @staticmethod
    def _convert(
        convert: Callable[[object], Any], names: Sequence[str], values: Sequence[object]
    ) -> list[Any]:
        converted = []
        for name, value in zip(names, values, strict=True):
            try:
                converted.append(convert(value))
            except UnusableRecord as error:
                raise UnusableRecord(
                    f"field {name!r} {error.problem}", found=error.found, expected=error.expected
                ) from None
        return converted


def _type(value: object) -> str:
    return "nothing" if value is None else f"a value of type {type(value).__name__}"
