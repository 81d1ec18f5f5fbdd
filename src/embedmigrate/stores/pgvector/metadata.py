"""Metadata as it is stored: once to be searched, and once more where JSONB would change it.

JSONB keeps numbers as decimals and knows neither U+0000 nor half of a surrogate pair: 1e23 comes
back as an integer, -0.0 loses its sign. What is written has to come back, because its hash says so.
So metadata with anything of that kind is kept a second time, as JSON text in ASCII.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_compact = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_ascii = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_CHANGES = re.compile(r"\\u0000|[\ud800-\udfff]|-0\.0|\de[+-]?\d")
"""In compact JSON; where a string merely looks like it, the second copy is only superfluous."""
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")


def stored_metadata(metadata: Mapping[str, Any]) -> tuple[str, str | None]:
    """JSON for the column that is searched, and the exact text where that one is not enough.

    ``ValueError`` for what is no JSON value.
    """
    if not metadata:
        return "{}", None
    text = _compact(dict(metadata))
    if not _CHANGES.search(text):
        return text, None
    if "\\u0000" not in text and not _UNSTORABLE.search(text):
        return text, _ascii(dict(metadata))
    searched = {
        key: searched_value(value) for key, value in metadata.items() if not _UNSTORABLE.search(key)
    }
    return _compact(searched), _ascii(dict(metadata))


def searched_value(value: Any) -> Any:
    """What a filter is compared with in place of ``value``: itself, unless JSONB cannot hold it.

    A string that it cannot hold becomes an object, so that no other string is taken for it.
    """
    if isinstance(value, str):
        return {"text": _ascii(value)} if _UNSTORABLE.search(value) else value
    if isinstance(value, Mapping | list | tuple):  # never equal to what a filter can ask for
        text = _compact(value)
        if "\\u0000" in text or _UNSTORABLE.search(text):
            return {"json": _ascii(value)}
    return value
