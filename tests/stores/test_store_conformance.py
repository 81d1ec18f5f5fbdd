"""Our stores, one factory each, through the suite that every store passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedmigrate.stores.base import Store
from embedmigrate.testing.conformance import StoreConformance
from tests.stores.store_helpers import faiss_store, pgvector_store


class TestFaiss(StoreConformance):
    @pytest.fixture(params=["Flat", "IVF16,Flat", "HNSW16"])
    def store(self, request: pytest.FixtureRequest, tmp_path: Path) -> Store:
        return faiss_store(tmp_path, request.param)


class TestPgvector(StoreConformance):
    @pytest.fixture(params=["none", pytest.param("ivfflat", marks=pytest.mark.slow), "hnsw"])
    def store(self, request: pytest.FixtureRequest, vector_database: str, schema: str) -> Store:
        return pgvector_store(vector_database, request.param, lists=16, schema=schema)
