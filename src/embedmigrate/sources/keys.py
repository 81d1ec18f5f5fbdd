"""Keys of database rows as document ids, and back: injective, readable, never guessed.

A key of one column is its text: a number in decimal, a UUID in its canonical form, a date or time
in ISO 8601 (in UTC, where it has a time zone), text as it is. The parts of a composite key are
joined by ``/``, with ``%`` and ``/`` inside a part escaped as ``%25`` and ``%2F``: the number of
columns is fixed, so no two keys share an id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

from embedmigrate.sources.base import KeyRange
from embedmigrate.sources.values import UnusableId, make_id

Part = int | str | UUID | Decimal | datetime | date
_KINDS: tuple[type[Part], ...] = (int, str, UUID, Decimal, datetime, date)  # a datetime is a date


@dataclass(frozen=True)
class KeyCodec:
    """Turns keys into ids and ids into keys, for columns whose values are of these ``kinds``."""

    kinds: tuple[type[Part], ...]

    @classmethod
    def of(cls, key: Sequence[object]) -> KeyCodec:
        """The codec for a table of which ``key`` is one key; ``UnusableId`` for other types."""
        return cls(tuple(_kind(value) for value in key))

    def encode(self, key: Sequence[object]) -> str:
        """The id of a key; ``UnusableId`` when a value is not of its column's kind."""
        for value, kind in zip(key, self.kinds, strict=True):
            if _kind(value) is not kind:
                raise UnusableId(
                    "the key column holds values of several types",
                    found=f"{_kind(value).__name__} after {kind.__name__}",
                    expected="one type",
                )
        return id_of(key)

    def decode(self, id: str) -> tuple[Part, ...] | None:
        """The key of an id; None when no key has this id."""
        parts = [id] if len(self.kinds) == 1 else [_unescape(part) for part in id.split("/")]
        if len(parts) != len(self.kinds):
            return None
        try:
            key = tuple(_parse(kind, part) for kind, part in zip(self.kinds, parts, strict=True))
            # "007" and "{uuid}" parse, but no key is ever written like that
            return key if self.encode(key) == id else None
        except (ValueError, ArithmeticError):
            return None


def id_of(key: Sequence[object]) -> str:
    """The id of a key, of which each part is of one of the kinds; ``UnusableId`` for another."""
    if len(key) == 1:
        return make_id(_text(key[0]))
    return make_id("/".join(_escape(str(_text(part))) for part in key))


def cut(ids: Iterable[str], size: int) -> Iterator[KeyRange]:
    """Ranges of ``size`` documents, the last one of what is left, from all ids in order."""
    after, until, documents = None, None, 0
    for until in ids:
        documents += 1
        if documents == size:
            yield KeyRange(after, until, documents)
            after, documents = until, 0
    if documents:
        yield KeyRange(after, until, documents)


def _kind(value: object) -> type[Part]:
    if not isinstance(value, bool):
        for kind in _KINDS:
            if isinstance(value, kind):
                return kind
    raise UnusableId(
        "the key column cannot be used",
        found=f"values of type {type(value).__name__}",
        expected="integers, decimals, text, UUIDs, dates or times",
    )


def _text(value: object) -> object:
    """The text of what ``make_id`` does not know."""
    if isinstance(value, Decimal):
        if value.is_finite():
            return format(value, "f")
        raise UnusableId(
            "the key column cannot be used", found=f"{value} as a number", expected="finite ones"
        )
    if isinstance(value, datetime):
        return (value if value.tzinfo is None else value.astimezone(UTC)).isoformat()
    return value.isoformat() if isinstance(value, date) else value


def _parse(kind: type[Part], part: str) -> Part:
    if issubclass(kind, date):
        return kind.fromisoformat(part)
    return kind(part)


def _escape(part: str) -> str:
    return part.replace("%", "%25").replace("/", "%2F")


def _unescape(part: str) -> str:
    return part.replace("%2F", "/").replace("%25", "%")
