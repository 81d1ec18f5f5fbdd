"""The template `pgvector` as it is copied: what it configures works on a real server."""

from __future__ import annotations

import shlex
from pathlib import Path

import psycopg
import pytest

from embedmigrate import Collection
from embedmigrate.command import first_steps
from tests.command_line import run
from tests.embedders.handmade_models import write_st_folder

LIBRARY = (
    "CREATE TABLE articles (id bigserial PRIMARY KEY, title text NOT NULL, body text NOT NULL)",
    "INSERT INTO articles (title, body) VALUES"
    " ('red', 'red'), ('green', 'green green'), ('blue', 'deep blue')",
)


@pytest.fixture
def project(postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the template takes for granted: a table, and a model's folder. Nothing is edited."""
    monkeypatch.setenv("DATABASE_URL", postgres)
    with psycopg.connect(postgres) as connection:
        for statement in LIBRARY:
            connection.execute(statement)
    write_st_folder(tmp_path / "models" / "all-MiniLM-L6-v2")
    assert run(tmp_path, "init", "-t", "pgvector").code == 0
    return tmp_path


def test_its_first_steps_lead_to_an_application_that_searches(project: Path, postgres: str) -> None:
    steps = [
        shlex.split(line)[1:]
        for line in first_steps("pgvector").splitlines()
        if line.startswith("  embedmigrate ")
    ]
    (_, looked), *worked = [(step, run(project, *step)) for step in steps]

    assert looked.out.count("NO  ") == 1 and "is not pinned" in looked.out
    assert [(step, answer.code, answer.err) for step, answer in worked if answer.code] == []
    with Collection.open("articles", project / "embedmigrate.toml") as articles:
        assert articles.search("green", k=1).hits[0].metadata == {"title": "green"}
    assert run(project, "doctor").code == 0
    with psycopg.connect(postgres) as connection:
        schemas = connection.execute(
            "SELECT DISTINCT schemaname FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
    assert sorted(name for (name,) in schemas) == ["embedmigrate", "public"]
    assert not (project / "catalog.db").exists()


def test_it_says_which_variable_is_missing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL")
    answer = run(project, "status")
    assert answer.code == 78 and "DATABASE_URL" in answer.err


def test_it_shares_what_alembic_needs_with_the_default_template(project: Path) -> None:
    other = project / "other"
    other.mkdir()
    assert run(other, "init").code == 0
    for name in ("env.py", "script.py.mako"):
        shared = (other / "migrations" / name).read_bytes()
        assert (project / "migrations" / name).read_bytes() == shared
