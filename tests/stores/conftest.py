"""A database for the tests of a store, which each has a schema in it to itself."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.postgres_server import PostgresServer


@pytest.fixture(scope="session")
def vector_database(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of one database for all tests: making one takes longer than most of them."""
    with postgres_server.database() as name:
        yield postgres_server.url(name)


@pytest.fixture
def schema() -> str:
    """The name of a schema that nobody has."""
    return f"s_{uuid.uuid4().hex[:12]}"
