"""What the doctor says of a PostgreSQL server: of the catalog, of the indexes and of a source."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from embedmigrate import command, postgres_checks
from embedmigrate.errors import Refused
from tests.pooling_proxy import pooled
from tests.postgres_server import PostgresServer
from tests.workspace import GENERAL, Workspace

COLLECTION = """
[collections.articles]
model = "fake-a"
also_accept = []
store = {{ kind = "pgvector", url = "{url}" }}

[collections.articles.source]
kind = "sql"
url = "{url}"
table = "app.articles"
key = "id"
text = "body"
"""


@pytest.fixture
def database(postgres: str) -> Iterator[psycopg.Connection[Any]]:
    """With a table of the application."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA app")
        connection.execute("CREATE TABLE app.articles (id int PRIMARY KEY, body text)")
        connection.execute(
            "INSERT INTO app.articles SELECT n, 'text ' || n FROM generate_series(1, 8) n"
        )
        yield connection


def make(root: Path, url: str) -> Workspace:
    return Workspace.make(
        root,
        collections=COLLECTION.format(url=url),
        general=GENERAL.replace('catalog = "sqlite:///catalog.db"\n', ""),
        pin=("fake-a",),
    )


@pytest.fixture
def project(postgres: str, database: psycopg.Connection[Any], tmp_path: Path) -> Workspace:
    """One index, changes recorded by triggers."""
    workspace = make(tmp_path / "project", postgres)
    command.capture_install(workspace.settings, "articles")
    workspace.revision("fake-a")
    workspace.upgrade()
    return workspace


def observed(workspace: Workspace, what: str) -> dict[str, Any]:
    found = command.doctor(workspace.settings)["observations"]
    (it,) = [it for it in found if it["what"].startswith(what)]
    return dict(it)


@pytest.fixture
def role(
    postgres_server: PostgresServer, postgres: str, database: psycopg.Connection[Any]
) -> Iterator[tuple[str, str]]:
    """A role without any right, and its URL."""
    name = f"clerk_{time.time_ns()}"
    database.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
    yield name, postgres.replace("postgres@", f"{name}@")
    quoted = sql.Identifier(name)
    database.execute(sql.SQL("DROP OWNED BY {}").format(quoted))
    database.execute(sql.SQL("DROP ROLE {}").format(quoted))


# -- a healthy one ------------------------------------------------------------------------------


def test_a_healthy_project_is_well_and_everything_is_looked_at_once(project: Workspace) -> None:
    result = command.doctor(project.settings)
    assert result["well"], result
    found = [it["what"].partition(" of ")[0].partition(" in ")[0] for it in result["observations"]]
    assert len({it["what"] for it in result["observations"]}) == len(found)
    for what in ("clock", "timeouts", "pgvector", "disk", "memory to build indexes", "capture"):
        assert found.count(what) == 1, what
    assert "8 until now" not in observed(project, "capture")["found"]
    assert observed(project, "pgvector")["found"].startswith("version 0.")
    assert observed(project, "way to the catalog")["found"].startswith("sessions are kept")


def test_looking_writes_nothing(project: Workspace, database: psycopg.Connection[Any]) -> None:
    count = (
        "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_all_tables"
        " WHERE schemaname IN ('app', 'embedmigrate')"
    )
    objects = "SELECT count(*) FROM pg_class"

    def now() -> list[Any]:
        database.execute("SELECT pg_stat_force_next_flush()")
        return [database.execute(it).fetchone() for it in (count, objects)]

    before = now()
    command.doctor(project.settings)
    assert now() == before


# -- what may be wrong --------------------------------------------------------------------------


def test_a_server_without_pgvector_is_told_with_what_to_type(
    postgres: str, database: psycopg.Connection[Any], tmp_path: Path
) -> None:
    database.execute("DROP EXTENSION vector")
    workspace = make(tmp_path / "project", postgres)
    it = observed(workspace, "pgvector")
    assert it["exit_code"] == 78 and "CREATE EXTENSION vector" in it["trouble"]


def test_clocks_that_differ_are_told(database: psycopg.Connection[Any]) -> None:
    def ask(statement: str) -> tuple[Any, ...]:
        row = database.execute(statement.encode()).fetchone()
        assert row is not None
        return tuple(row)

    assert postgres_checks.clock(ask, "here").endswith("against this machine")
    with pytest.raises(Refused, match="clocks") as late:
        postgres_checks.clock(ask, "here", lambda: time.time() - 3)
    assert str(late.value.found).startswith("+3.")
    with pytest.raises(Refused):
        postgres_checks.clock(ask, "here", lambda: time.time() + 3)


def test_a_slow_answer_is_no_difference_of_clocks(database: psycopg.Connection[Any]) -> None:
    def ask(statement: str) -> tuple[Any, ...]:
        row = database.execute(statement.encode()).fetchone()
        assert row is not None
        return tuple(row)

    moments = iter([time.time(), time.time() + 60])
    postgres_checks.clock(ask, "here", lambda: next(moments))


@pytest.mark.parametrize(
    "setting", ["statement_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout"]
)
def test_a_timeout_that_ends_work_is_told(
    project: Workspace, database: psycopg.Connection[Any], setting: str
) -> None:
    row = database.execute("SELECT current_database()").fetchone()
    assert row is not None
    database.execute(
        sql.SQL("ALTER DATABASE {} SET {} = '5s'").format(
            sql.Identifier(row[0]), sql.Identifier(setting)
        )
    )
    it = observed(project, "timeouts")
    assert f"{setting} = 5000 ms" in it["trouble"]
    assert f"SET {setting} = 0" in it["trouble"]


def test_a_proxy_that_pools_transactions_is_told(
    project: Workspace, postgres: str, postgres_server: PostgresServer
) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="proxy-") as folder,
        pooled(postgres, postgres_server.sockets, Path(folder), by_transaction=True) as through,
    ):
        project.edit_config("[embedmigrate]", f'[embedmigrate]\ncatalog = "{through}"')
        it = observed(project, "way to the catalog")
    assert "pools transactions" in it["trouble"] and "server itself" in it["trouble"]


def test_a_trigger_that_is_disabled_is_told(
    project: Workspace, database: psycopg.Connection[Any]
) -> None:
    database.execute("ALTER TABLE app.articles DISABLE TRIGGER ALL")
    it = observed(project, "capture")
    assert "is not whole" in it["trouble"] and "capture install articles" in it["trouble"]


def test_a_source_that_records_nothing_gets_advice_and_is_no_trouble(project: Workspace) -> None:
    command.capture_remove(project.settings, "articles")
    it = observed(project, "capture")
    assert it["trouble"] is None and "capture install articles" in it["advice"]


def test_memory_that_is_too_little_gets_advice(
    project: Workspace, database: psycopg.Connection[Any]
) -> None:
    assert observed(project, "memory")["advice"] is None
    database.execute(
        "UPDATE pg_class SET reltuples = 1e6, relpages = 250000 WHERE relname LIKE 'vectors%'"
    )
    it = observed(project, "memory")
    assert it["trouble"] is None
    assert 'maintenance_work_mem = "809MB"' in it["advice"]


def test_the_disk_is_told_by_a_server_of_this_machine(project: Workspace) -> None:
    it = observed(project, "disk")
    assert it["found"].startswith("1 indexes take") and it["found"].endswith("are free")


def test_to_a_role_that_may_not_ask_it_says_that_it_cannot_tell(
    project: Workspace, role: tuple[str, str], database: psycopg.Connection[Any], postgres: str
) -> None:
    name, url = role
    database.execute(
        sql.SQL("GRANT USAGE ON SCHEMA embedmigrate TO {}").format(sql.Identifier(name))
    )
    database.execute(
        sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA embedmigrate TO {}").format(
            sql.Identifier(name)
        )
    )
    project.edit_config(postgres, url)
    assert "does not say" in observed(project, "disk")["advice"]


# -- what a role may do -------------------------------------------------------------------------


def test_rights_that_are_missing_are_told_one_by_one(
    project: Workspace, role: tuple[str, str], database: psycopg.Connection[Any], postgres: str
) -> None:
    name, url = role
    as_owner = project.root / "embedmigrate.toml"
    text = as_owner.read_text("utf-8")
    as_owner.write_text(text.replace(postgres, url), "utf-8")

    def grant(what: str) -> None:
        statement = sql.SQL(what + " TO {}").format(sql.Identifier(name))
        database.execute(statement)

    source = observed(project, "rights on the source")
    assert source["exit_code"] == 78
    assert f"GRANT USAGE ON SCHEMA app TO {name}" in source["trouble"]
    assert f"GRANT SELECT ON app.articles TO {name}" in source["trouble"]
    grant("GRANT USAGE ON SCHEMA app")
    grant("GRANT SELECT ON app.articles")
    assert observed(project, "rights on the source")["trouble"] is None

    catalog = observed(project, "rights on the catalog")
    assert f"GRANT USAGE ON SCHEMA embedmigrate TO {name}" in catalog["trouble"]
    grant("GRANT USAGE, CREATE ON SCHEMA embedmigrate")
    catalog = observed(project, "rights on the catalog")
    assert "embedmigrate_route" in catalog["trouble"]
    store = observed(project, "rights on schema embedmigrate")
    assert "store_index" in store["trouble"] and "vectors_articles-0001" in store["trouble"]
    grant("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA embedmigrate")
    assert observed(project, "rights on the catalog")["trouble"] is None
    store = observed(project, "rights on schema embedmigrate")
    assert "another role owns vectors_articles-0001" in store["trouble"]
    database.execute(
        sql.SQL('ALTER TABLE embedmigrate."vectors_articles-0001" OWNER TO {}').format(
            sql.Identifier(name)
        )
    )
    assert observed(project, "rights on schema embedmigrate")["trouble"] is None


def test_a_server_that_is_away_is_one_trouble_a_place(
    tmp_path: Path, database: psycopg.Connection[Any], postgres: str
) -> None:
    away = postgres.replace("/sockets", "/nowhere")
    workspace = make(tmp_path / "project", postgres)
    workspace.edit_config(postgres, away)
    result = command.doctor(workspace.settings)
    troubles = [it["what"] for it in result["observations"] if it["trouble"]]
    assert result["exit_code"] == 75 and troubles == ["catalog", "collection articles"]
