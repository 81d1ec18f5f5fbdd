"""Small sources in a temporary folder, and what must hold for every source."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from embedmigrate.context import AdapterContext
from embedmigrate.models import Recipe
from embedmigrate.sources.base import Document, Source
from embedmigrate.sources.jsonl import JsonlConfig, JsonlSource


def context(root: Path) -> AdapterContext:
    return AdapterContext(root=root, work_dir=root / ".embedmigrate", collection="articles")


def jsonl_source(
    root: Path,
    path: str = "corpus.jsonl",
    text: Sequence[str] = ("text",),
    metadata: Sequence[str] = (),
    recipe: Recipe | None = None,
) -> JsonlSource:
    config = JsonlConfig.model_validate(
        {"kind": "jsonl", "path": path, "id": "_id", "text": text, "metadata": metadata}
    )
    return JsonlSource(config, recipe or Recipe(text=tuple(text)), context(root))


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    path.write_bytes(b"".join(json.dumps(record).encode() + b"\n" for record in records))
    return path


def settle(path: Path, seconds: float = 10.0) -> Path:
    """Let a file look as if it was modified some time ago, so that its time stamp is trusted."""
    modified = path.stat().st_mtime - seconds
    os.utime(path, (modified, modified))
    return path


def texts(source: Source) -> dict[str, str]:
    return {document.id: document.text for document in source.scan()}


def check_that_every_way_of_reading_agrees(source: Source, size: int) -> list[Document]:
    """The laws of the Protocol; returns the documents."""
    count = source.prepare()
    documents = list(source.scan())
    ids = [document.id for document in documents]
    assert len(ids) == len(set(ids)) == count
    ranges = list(source.partition(size))
    assert [part.documents for part in ranges[:-1]] == [size] * (len(ranges) - 1)
    assert sum(part.documents for part in ranges) == count
    by_range = [list(source.scan(part.after, part.until)) for part in ranges]
    assert [len(part) for part in by_range] == [part.documents for part in ranges]
    assert [document for part in by_range for document in part] == documents
    assert source.get(ids) == {document.id: document for document in documents}
    assert list(source.states()) == [document.state for document in documents]
    for document in documents:
        assert document == Document.make(document.id, document.text, document.metadata)
    if source.bytewise:
        assert ids == sorted(ids, key=str.encode)
    return documents
