"""A metadata filter as a condition on the rows of an index."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from embedmigrate.errors import UsageError
from embedmigrate.stores.base import Filter

_NOT_IN_A_PATH = re.compile(r'["\\\x00-\x1f\ud800-\udfff]')


def condition(filter: Filter) -> tuple[str, list[str]]:
    """SQL over the column ``metadata`` of live rows, and its parameters.

    A field must equal the value, or one of a list of values. Types count: ``True`` is not 1 and
    ``"1"`` is not 1, but 1 is 1.0. ``None`` means that the field is null or missing. Raises
    ``UsageError`` for a field or a value that no stored metadata could match in this way.
    """
    clauses, parameters = ["deleted = 0"], []
    for field, accepted in filter.items():
        several = isinstance(accepted, list | tuple | set | frozenset)
        sql, used = _one_of(field, accepted if several else [accepted])
        clauses.append(sql)
        parameters += used
    return " AND ".join(clauses), parameters


def _one_of(field: str, accepted: Iterable[object]) -> tuple[str, list[str]]:
    path = _path(field)
    texts: list[str] = []
    numbers: list[int | float] = []
    types: set[str] = set()
    for value in accepted:
        if value is None:
            types.add("null")
        elif isinstance(value, bool):
            types.add("true" if value else "false")
        elif isinstance(value, str):
            texts.append(value)
        elif isinstance(value, int | float):
            numbers.append(value)
        else:
            raise UsageError(
                f"the filter on {field!r} has a value that cannot be compared",
                found=type(value).__name__,
                expected="a string, a number, a boolean or None, or a list of them",
            )
    alternatives, parameters = [], []
    for kind in sorted(types):
        alternatives.append(f"COALESCE(json_type(metadata, ?), 'null') = '{kind}'")
        parameters.append(path)
    for values, kinds in ((texts, "'text'"), (numbers, "'integer', 'real'")):
        if values:
            # The value first: few rows are left to look at the type of.
            alternatives.append(
                "(json_extract(metadata, ?) IN (SELECT value FROM json_each(?))"
                f" AND json_type(metadata, ?) IN ({kinds}))"
            )
            parameters += [path, _json_list(field, values), path]
    return f"({' OR '.join(alternatives) or '0'})", parameters


def _path(field: str) -> str:
    """The JSON path of one top-level field; SQLite has no way to escape inside the quotes."""
    if not isinstance(field, str) or not field or _NOT_IN_A_PATH.search(field):
        raise UsageError(
            "a filter names a field that cannot be searched",
            found=repr(field),
            expected="a name without quotes, backslashes and control characters",
        )
    return f'$."{field}"'


def _json_list(field: str, values: Sequence[object]) -> str:
    try:
        return json.dumps(values, allow_nan=False)
    except ValueError:
        raise UsageError(
            f"the filter on {field!r} has a number that is not finite", expected="finite numbers"
        ) from None
