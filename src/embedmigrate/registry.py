"""Adapters by name: the built-in ones, and those that other packages offer by entry point.

An entry point lives in the group ``embedmigrate.sources``, ``embedmigrate.stores`` or
``embedmigrate.embedders``; its name is the ``kind`` or ``provider`` of the configuration and its
value the adapter class. Nothing is imported before it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from embedmigrate.errors import ConfigError

BUILT_IN: dict[str, dict[str, str]] = {
    "sources": {
        "managed": "embedmigrate.sources.managed:ManagedSource",
        "jsonl": "embedmigrate.sources.jsonl:JsonlSource",
        "parquet": "embedmigrate.sources.parquet:ParquetSource",
        "sql": "embedmigrate.sources.sql:SqlSource",
    },
    "stores": {
        "faiss": "embedmigrate.stores.faiss.store:FaissStore",
        "pgvector": "embedmigrate.stores.pgvector.store:PgvectorStore",
    },
    "embedders": {
        "static": "embedmigrate.embedders.static:StaticEmbedder",
        "onnx": "embedmigrate.embedders.onnx:OnnxEmbedder",
        "sentence-transformers": (
            "embedmigrate.embedders.sentence_transformers:SentenceTransformersEmbedder"
        ),
        "openai": "embedmigrate.embedders.openai:OpenAIEmbedder",
        "hashing-not-a-model": "embedmigrate.embedders.hashing:HashingEmbedder",
        "misbehaving-not-a-model": "embedmigrate.testing.embedders:MisbehavingEmbedder",
    },
}


def adapter(group: str, name: str) -> Any:
    """The adapter class ``name`` of ``group``; ``ConfigError`` lists what there is."""
    target = BUILT_IN[group].get(name)
    if target is not None:
        module, _, attribute = target.partition(":")
        return getattr(import_module(module), attribute)
    offered = {point.name: point for point in entry_points(group=f"embedmigrate.{group}")}
    if name in offered:
        return offered[name].load()
    raise ConfigError(
        f"there is no {group.removesuffix('s')} called {name!r}",
        found=name,
        expected=", ".join(sorted({*BUILT_IN[group], *offered})),
        next_step="correct the name in the configuration, or install the package that offers it",
    )
