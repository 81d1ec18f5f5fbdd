"""The database of a project that is tried on PostgreSQL: made, copied and dropped with it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from embedmigrate import postgres

PLACE = "$DATABASE"
"""Stands for the URL of a project's database in the table of its store."""


def create(server: str) -> str:
    """The URL of a new database with pgvector on ``server``, a URL of a role that may make it."""
    url = _another(server)
    _run(server, "CREATE DATABASE {}", _name(url))
    _run(url, "CREATE EXTENSION IF NOT EXISTS vector")
    return url


def copy(url: str) -> str:
    """The URL of a copy; whoever is still connected to the database is disconnected."""
    other = _another(url)
    with _server_of(url) as server:
        _disconnect(server, url)
        # A copy through the log holds what sequences have handed out and not what they have logged
        # ahead; after a crash, that copy would hand it out again.
        made = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
        server.execute(made.format(sql.Identifier(_name(other)), sql.Identifier(_name(url))))
    return other


def cut(url: str) -> None:
    """End every session on the database, as a network or an administrator may."""
    with _server_of(url) as server:
        _disconnect(server, url)


def drop(url: str) -> None:
    """Idempotent."""
    with _server_of(url) as server:
        dropped = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        server.execute(dropped.format(sql.Identifier(_name(url))))


def _another(url: str) -> str:
    parsed = make_url(url).set(database=f"tried_{uuid.uuid4().hex[:16]}")
    return parsed.render_as_string(hide_password=False)


def _name(url: str) -> str:
    return make_url(url).database or ""


@contextmanager
def _server_of(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a database of the server that is never copied or dropped."""
    server = make_url(url).set(database="postgres").render_as_string(hide_password=False)
    with psycopg.connect(postgres.conninfo(server), autocommit=True) as connection:
        yield connection


def _disconnect(server: psycopg.Connection[Any], url: str) -> None:
    server.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
        (_name(url),),
    )


def _run(url: str, statement: str, *names: str) -> None:
    with psycopg.connect(postgres.conninfo(url), autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
