"""Configuring the FAISS store."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from embedmigrate.context import AdapterContext
from embedmigrate.errors import MissingExtra
from embedmigrate.registry import adapter
from embedmigrate.stores.faiss.store import FaissConfig, FaissStore
from tests.stores.store_helpers import SPACE, manifest, rows, vectors


def context(root: Path) -> AdapterContext:
    return AdapterContext(root, root / "work", "articles")


def test_a_path_and_a_kind_are_enough(tmp_path: Path) -> None:
    config = FaissConfig.model_validate({"kind": "faiss", "path": "indexes"})
    assert (config.factory, config.metric) == ("Flat", "cosine")
    store = FaissStore(config, context(tmp_path))
    assert store.factory == "Flat"
    store.create(manifest())
    assert (tmp_path / "indexes" / "articles-0001" / "rows.sqlite").is_file()


def test_the_store_is_found_by_its_kind() -> None:
    assert adapter("stores", "faiss") is FaissStore
    assert FaissStore.Config is FaissConfig


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Flat", "Flat"),
        ("IVF1024,Flat", "IVF1024,Flat"),
        ("HNSW32", "HNSW32"),
        ("HNSW32,Flat", "HNSW32"),
    ],
)
def test_a_factory_that_is_supported_has_one_spelling(written: str, meant: str) -> None:
    assert FaissConfig(kind="faiss", factory=written).factory == meant


@pytest.mark.parametrize(
    "factory",
    ["", "flat", "IVF,Flat", "IVF0,Flat", "IVF64", "IVF64,PQ8", "PQ8", "HNSW2", "HNSW999",
     "HNSW32,SQ8", "OPQ16,IVF64,Flat", "Flat; rm", "IVF16,Flat\n"],
)  # fmt: skip
def test_any_other_factory_is_refused_with_what_would_do(factory: str) -> None:
    with pytest.raises(ValidationError, match="is not supported; expected Flat, IVF"):
        FaissConfig(kind="faiss", factory=factory)


@pytest.mark.parametrize("option", [{"nprobe": 0}, {"ef_search": 0}, {"metric": "dot"}, {"x": 1}])
def test_an_option_that_means_nothing_is_refused(option: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        FaissConfig.model_validate({"kind": "faiss", **option})


def test_nprobe_reaches_the_search(tmp_path: Path) -> None:
    """With one list of sixteen looked into, some of the nearest are missed; but never the number
    of hits that was asked for."""
    answers = []
    for nprobe in (1, 16):
        config = FaissConfig(kind="faiss", factory="IVF16,Flat", nprobe=nprobe)
        store = FaissStore(config, context(tmp_path))
        if nprobe == 1:
            store.create(manifest(factory="IVF16,Flat"))
            writer = store.writer("articles-0001", epoch=1, run="run-1")
            writer.write(rows(range(2000)), vectors(2000), space=SPACE)
            writer.build()
            writer.close()
        reader = store.reader("articles-0001")
        hits = reader.search(vectors(20, seed=1), 10)
        exact = reader.search(vectors(20, seed=1), 10, exact=True)
        assert [len(found) for found in reader.search(vectors(2, seed=1), 1500)] == [1500, 1500]
        answers.append(sum(hit in right for a, right in zip(hits, exact, strict=True) for hit in a))
        reader.close()
    assert answers[0] < answers[1] == 200


def test_without_faiss_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtra, match=r"embedmigrate\[faiss\]"):
        FaissStore(FaissConfig(kind="faiss"), context(tmp_path))
