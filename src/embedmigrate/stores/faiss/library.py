"""FAISS itself, imported when it is first needed."""

from __future__ import annotations

from typing import Any

from embedmigrate.errors import MissingExtra


def load_faiss() -> Any:
    """The ``faiss`` module; ``MissingExtra`` when it is not installed."""
    try:
        import faiss
    except ImportError:
        raise MissingExtra("the FAISS store", "faiss") from None
    return faiss
