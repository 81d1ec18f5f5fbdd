"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

# Several processes share few cores: threads that spin while they wait take them from the others.
for _pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_pool, "1")

import pytest

from tests.postgres_server import PostgresServer
from tests.workspace import ARTICLES, Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A project with forty documents and two pinned real models; no scripts yet."""
    return Workspace.make(tmp_path / "project")


@pytest.fixture
def migrated(workspace: Workspace) -> Workspace:
    """The same with `wordllama` live and a revision to `wordllama-64` pending."""
    workspace.revision("wordllama", "first index")
    workspace.upgrade()
    workspace.revision("wordllama-64", "shorter vectors")
    return workspace


@pytest.fixture
def faking(tmp_path: Path) -> Workspace:
    """`fake-a` live, a revision to `fake-b` pending."""
    workspace = Workspace.make(
        tmp_path / "project",
        collections=ARTICLES.replace('"wordllama"', '"fake-a"'),
        pin=("fake-a", "fake-b"),
    )
    workspace.revision("fake-a")
    workspace.upgrade()
    workspace.revision("fake-b")
    return workspace


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A server for all tests of this process. Who kills it starts it again."""
    with closing(PostgresServer()) as server:
        yield server


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty database that has pgvector, as its owner."""
    with postgres_server.database() as name:
        yield postgres_server.url(name)
