"""A metadata filter as a condition on the rows of an index."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from psycopg import sql

from embedmigrate.errors import UsageError
from embedmigrate.stores.base import Filter
from embedmigrate.stores.pgvector.metadata import searched_value

_NOT_IN_A_NAME = re.compile(r'["\\\x00-\x1f\ud800-\udfff]')
_CLAUSE = sql.SQL("COALESCE(metadata -> {field}::text, 'null') = ANY ({values}::jsonb[])")


def condition(filter: Filter) -> tuple[sql.Composable, dict[str, Any]]:
    """SQL over the column ``metadata``, and its parameters.

    A field must equal the value, or one of a list of values. Types count: ``True`` is not 1 and
    ``"1"`` is not 1, but 1 is 1.0. ``None`` means that the field is null or missing. Raises
    ``UsageError`` for a field or a value that no stored metadata could match in this way.
    """
    clauses: list[sql.Composable] = [sql.SQL("true")]
    parameters: dict[str, Any] = {}
    for number, (field, accepted) in enumerate(filter.items()):
        several = isinstance(accepted, list | tuple | set | frozenset)
        name, values = f"field_{number}", f"values_{number}"
        parameters[name] = _checked_name(field)
        parameters[values] = [_json(field, it) for it in (accepted if several else [accepted])]
        clauses.append(_CLAUSE.format(field=sql.Placeholder(name), values=sql.Placeholder(values)))
    return sql.SQL(" AND ").join(clauses), parameters


def _checked_name(field: str) -> str:
    if not isinstance(field, str) or not field or _NOT_IN_A_NAME.search(field):
        raise UsageError(
            "a filter names a field that cannot be searched",
            found=repr(field),
            expected="a name without quotes, backslashes and control characters",
        )
    return field


def _json(field: str, value: object) -> str:
    """One accepted value as the JSON that is compared with the stored one."""
    if value is not None and not isinstance(value, str | int | float):
        raise UsageError(
            f"the filter on {field!r} has a value that cannot be compared",
            found=type(value).__name__,
            expected="a string, a number, a boolean or None, or a list of them",
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(
            f"the filter on {field!r} has a number that is not finite", expected="finite numbers"
        )
    return json.dumps(searched_value(value))
