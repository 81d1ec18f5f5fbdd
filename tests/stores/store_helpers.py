"""Stores to try, and what the conformance suite tries them with."""

from __future__ import annotations

from pathlib import Path

from embedmigrate.context import AdapterContext
from embedmigrate.stores.faiss.store import FaissConfig, FaissStore
from embedmigrate.stores.pgvector.store import PgvectorConfig, PgvectorStore
from embedmigrate.testing.conformance.examples import (
    DIMENSIONS,
    ENOUGH,
    SPACE,
    brute_force,
    hits_of,
    ids,
    make_index,
    manifest,
    row,
    rows,
    vectors,
)

__all__ = [
    "DIMENSIONS",
    "ENOUGH",
    "SPACE",
    "brute_force",
    "faiss_store",
    "hits_of",
    "ids",
    "make_index",
    "manifest",
    "pgvector_store",
    "row",
    "rows",
    "vectors",
]


def faiss_store(root: Path, factory: str = "Flat") -> FaissStore:
    """A store that searches HNSW hard enough to be compared with exact results."""
    config = FaissConfig(kind="faiss", path="indexes", factory=factory, ef_search=1000)
    return FaissStore(config, AdapterContext(root, root / "work", "articles"))


def pgvector_store(url: str, index: str = "none", **options: object) -> PgvectorStore:
    """A store that searches HNSW hard enough to be compared with exact results."""
    config = PgvectorConfig.model_validate(
        {"kind": "pgvector", "url": url, "index": index, "ef_search": 1000, **options}
    )
    return PgvectorStore(config, AdapterContext(Path(), Path(), "articles"))
