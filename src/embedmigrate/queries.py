"""What callers ask, checked before anything is searched."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from embedmigrate.embedders.base import Vectors
from embedmigrate.errors import UsageError


def as_text(query: object) -> str:
    """A query that is a text and says something; ``UsageError`` for any other."""
    if not isinstance(query, str):
        raise UsageError(
            "the query is not a text",
            found=type(query).__name__,
            expected="str",
            next_step="pass the text to search for; search_vector takes vectors",
        )
    if not query.strip():
        raise UsageError(
            "the query is empty",
            expected="a text with more than white space",
            next_step="pass the text to search for",
        )
    return query


def require_filter(filter: object) -> None:
    """``UsageError`` for a filter that is no mapping."""
    if filter is not None and not isinstance(filter, Mapping):
        raise UsageError(
            "the filter is not a mapping",
            found=type(filter).__name__,
            expected="field -> value or list of accepted values",
            next_step='write it as {"field": "value"}',
        )


def as_queries(vector: Vectors) -> Vectors:
    """One query vector as readers take it: float32 ``(1, dimensions)``."""
    return np.ascontiguousarray(vector, dtype=np.float32).reshape(1, -1)
