"""A catalog that an earlier version made is brought up to date when it is opened."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing

import pytest

from embedmigrate import Collection, command
from embedmigrate.catalog import schema
from embedmigrate.engine.job import StopSignal
from embedmigrate.errors import Stopped, UnknownCatalog
from tests.workspace import Workspace


def make_schema_2(workspace: Workspace) -> None:
    """Take out what schema 3 added to schema 2."""
    with closing(sqlite3.connect(workspace.root / "catalog.db")) as catalog, catalog:
        catalog.execute("DROP TABLE embedmigrate_request")
        catalog.execute("ALTER TABLE embedmigrate_run DROP COLUMN waiting")
        catalog.execute("UPDATE embedmigrate_catalog SET schema_version = 2")


def make_schema_1(workspace: Workspace) -> None:
    """Take out what schema 2 added to schema 1, besides."""
    make_schema_2(workspace)
    with closing(sqlite3.connect(workspace.root / "catalog.db")) as catalog, catalog:
        catalog.execute("DROP TABLE embedmigrate_witness")
        catalog.execute("DROP TABLE embedmigrate_proof")
        catalog.execute("ALTER TABLE embedmigrate_batch DROP COLUMN confirmed_at")
        for column in ("container", "adopted"):
            catalog.execute(f"ALTER TABLE embedmigrate_index DROP COLUMN {column}")
        catalog.execute("UPDATE embedmigrate_catalog SET schema_version = 1")


def make_it_version_2(workspace: Workspace) -> None:
    """Take out what schema 3 added to schema 2."""
    with closing(sqlite3.connect(workspace.root / "catalog.db")) as catalog, catalog:
        catalog.execute("DROP TABLE embedmigrate_dead_letter")
        catalog.execute("ALTER TABLE embedmigrate_batch DROP COLUMN failed")
        catalog.execute("UPDATE embedmigrate_catalog SET schema_version = 2")


def version(workspace: Workspace) -> int:
    with closing(sqlite3.connect(workspace.root / "catalog.db")) as catalog:
        return int(catalog.execute("SELECT schema_version FROM embedmigrate_catalog").fetchone()[0])


@pytest.mark.parametrize("make_older", [make_schema_1, make_schema_2])
def test_an_application_and_a_migration_go_on_with_an_older_catalog(
    migrated: Workspace, make_older: Callable[[Workspace], None]
) -> None:
    make_older(migrated)
    with Collection.open("articles", migrated.settings) as articles:
        assert articles.search("the stars").hits
    assert version(migrated) == schema.SCHEMA_VERSION

    migrated.upgrade()
    command.rollback(migrated.settings, "articles")

    assert migrated.live() == "wordllama"


def test_a_migration_that_began_with_version_2_goes_on(migrated: Workspace) -> None:
    stop = StopSignal()
    stop.set("a test")
    with pytest.raises(Stopped):
        migrated.upgrade(stop=stop)
    make_it_version_2(migrated)

    (entry,) = migrated.upgrade()

    assert version(migrated) == schema.SCHEMA_VERSION
    assert entry["live"] and entry["done"] == 40 and entry["failed"] == 0
    assert migrated.status()["dead_letters"] == []


def test_a_catalog_that_is_up_to_date_is_not_written_to(migrated: Workspace) -> None:
    command.status(migrated.settings)
    before = migrated.snapshot()
    command.status(migrated.settings)
    assert migrated.snapshot() == before


def test_a_newer_catalog_is_refused(migrated: Workspace) -> None:
    with closing(sqlite3.connect(migrated.root / "catalog.db")) as catalog, catalog:
        catalog.execute("UPDATE embedmigrate_catalog SET schema_version = 99")
    with pytest.raises(UnknownCatalog, match="newer"):
        command.status(migrated.settings)
