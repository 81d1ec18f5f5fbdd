"""Separate roles: each can do its part, no other, and needs every grant that the manual names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from embedmigrate import Collection, command, resolve
from embedmigrate.errors import ConfigError, EmbedMigrateError
from tests.postgres_server import PostgresServer
from tests.workspace import GENERAL, Workspace, documents

MANUAL = (Path(__file__).parents[1] / "docs" / "postgresql.md").read_text("utf-8")
BLOCK = re.sub(r"--.*", "", re.findall(r"```sql\n(.*?)```", MANUAL, re.DOTALL)[0])
GRANTS = [statement.strip() for statement in BLOCK.split(";") if statement.strip()]
ROLES = ("em_source", "em_writer", "em_router", "em_reader")
SEARCH = "SELECT id FROM embedmigrate.search('articles', %s, %s::vector, 3)"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One of its own: roles belong to a server."""
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture
def database(server: PostgresServer) -> Iterator[str]:
    with server.database() as name:
        yield name
        with server.connect(name) as connection:
            connection.execute("DROP SCHEMA IF EXISTS embedmigrate CASCADE")
            for role in ROLES:
                if connection.execute("SELECT to_regrole(%s)", (role,)).fetchone() != (None,):
                    connection.execute(f"DROP OWNED BY {role} CASCADE".encode())
    with server.connect() as connection:
        for role in ROLES:
            connection.execute(f"DROP ROLE IF EXISTS {role}".encode())


def as_role(server: PostgresServer, database: str, role: str) -> psycopg.Connection[Any]:
    return psycopg.connect(server.url(database, role), autocommit=True)


def prepare(server: PostgresServer, database: str, leaving_out: str | None = None) -> None:
    """The application's table, and the grants of the manual."""
    with server.connect(database) as owner:
        owner.execute("CREATE TABLE articles (id text PRIMARY KEY, title text, text text)")
        for it in documents(20):
            row = (it["_id"], it["title"], it["text"])
            owner.execute("INSERT INTO articles VALUES (%s, %s, %s)", row)
        for statement in GRANTS:
            if statement != leaving_out:
                owner.execute(statement.encode())


def project_of(root: Path, server: PostgresServer, database: str) -> Workspace:
    collection = f"""
[collections.articles]
model = "fake-a"
also_accept = []
store = {{ kind = "pgvector", url = "{server.url(database, "em_writer")}", view = true }}

[collections.articles.source]
kind = "sql"
url = "{server.url(database, "em_source")}"
table = "articles"
key = "id"
text = ["title", "text"]
"""
    general = GENERAL.replace("sqlite:///catalog.db", server.url(database, "em_router"))
    return Workspace.make(
        root, corpus=[], collections=collection, general=general, pin=("fake-a", "fake-b")
    )


def capture(project: Workspace, server: PostgresServer, database: str) -> None:
    """What ``--sql`` prints, run by the owner of the table."""
    printed = command.capture_sql(project.settings, "articles")
    with server.connect(database) as owner:
        for statement in printed:
            owner.execute(statement.encode())


def live_a_life(project: Workspace, server: PostgresServer, database: str) -> None:
    """Build, change, follow, cut over, search by library and by SQL, go back, drop."""
    capture(project, server, database)
    project.revision("fake-a")
    project.upgrade()
    with server.connect(database) as owner:
        owner.execute("UPDATE articles SET text = 'whales' WHERE id = 'doc-000001'")
        owner.execute("DELETE FROM articles WHERE id = 'doc-000002'")
    command.sync(project.settings)
    project.revision("fake-b")
    project.upgrade()
    search(project, server, database)
    command.rollback(project.settings, "articles", reason="a test")
    assert command.verify(project.settings)["holds"]
    with server.connect(database) as owner:
        owner.execute("UPDATE embedmigrate.embedmigrate_index SET retained_at = 1")
    command.contract(project.settings, "articles")
    assert project.live() == "fake-a"


def search(project: Workspace, server: PostgresServer, database: str) -> None:
    """As the reader, with nothing but its own URL."""
    urls = {role: server.url(database, role) for role in ("em_writer", "em_router")}
    text = (project.root / "embedmigrate.toml").read_text("utf-8")
    for url in urls.values():
        text = text.replace(url, server.url(database, "em_reader"))
    (project.root / "reader.toml").write_text(text, "utf-8")
    pinned = resolve.pinned(project.settings, "fake-b")
    vector = resolve.load_embedder(project.settings, pinned).embed_queries(["whales"])[0]
    values = (pinned.fingerprint, json.dumps(np.asarray(vector, float).tolist()))
    with Collection.open("articles", project.root / "reader.toml") as articles:
        hits = articles.search("whales", k=3).hits
    with as_role(server, database, "em_reader") as reader:
        assert [row[0] for row in reader.execute(SEARCH, values)] == [hit.id for hit in hits]
        assert reader.execute("SELECT count(*) FROM embedmigrate.live_articles").fetchone() == (19,)


def test_four_roles_share_the_work(server: PostgresServer, database: str, tmp_path: Path) -> None:
    prepare(server, database)
    live_a_life(project_of(tmp_path / "project", server, database), server, database)


@pytest.mark.parametrize("left_out", [it for it in GRANTS if not it.startswith("CREATE ROLE")])
def test_every_grant_of_the_manual_is_needed(
    server: PostgresServer, database: str, tmp_path: Path, left_out: str
) -> None:
    try:
        prepare(server, database, left_out)
    except psycopg.Error:
        return  # the next statement of the manual needs it
    project = project_of(tmp_path / "project", server, database)
    with pytest.raises((EmbedMigrateError, psycopg.errors.InsufficientPrivilege)) as refusal:
        live_a_life(project, server, database)
    if isinstance(refusal.value, EmbedMigrateError):
        assert refusal.value.exit_code == 78, refusal.value


def test_no_role_can_do_what_is_another_ones(
    server: PostgresServer, database: str, tmp_path: Path
) -> None:
    prepare(server, database)
    project = project_of(tmp_path / "project", server, database)
    capture(project, server, database)
    project.revision("fake-a")
    project.upgrade()
    route = "UPDATE embedmigrate.embedmigrate_route SET generation = 9"
    rows = 'DELETE FROM embedmigrate."vectors_articles-0001"'
    source = "UPDATE articles SET text = ''"
    for role, statements in {
        "em_source": (route, rows, source),
        "em_writer": (route, source),
        "em_router": (rows, source),
        "em_reader": (route, rows, source),
    }.items():
        with as_role(server, database, role) as connection:
            for statement in statements:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement)


def test_a_password_in_the_file_is_refused_and_not_shown(tmp_path: Path) -> None:
    from embedmigrate.config import load_settings

    path = tmp_path / "embedmigrate.toml"
    path.write_text('[embedmigrate]\ncatalog = "postgresql://me:open-sesame@db/app"\n', "utf-8")
    with pytest.raises(ConfigError, match="password") as refusal:
        load_settings(path)
    assert "open-sesame" not in str(refusal.value)


def test_one_from_the_environment_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from embedmigrate.config import load_settings

    monkeypatch.setenv("A_PASSWORD", "open-sesame")
    path = tmp_path / "embedmigrate.toml"
    path.write_text('[embedmigrate]\ncatalog = "postgresql://me:${A_PASSWORD}@db/app"\n', "utf-8")
    assert "open-sesame" in load_settings(path).catalog_url
    assert "open-sesame" not in repr(load_settings(path))
