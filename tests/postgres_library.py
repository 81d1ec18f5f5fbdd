"""A project whose documents stand in a PostgreSQL table that an application writes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psycopg

from tests.library import COLLECTION
from tests.workspace import Workspace, documents

TABLE = "CREATE TABLE articles (id text PRIMARY KEY, title text, text text, topic text)"


class PostgresLibrary(Workspace):
    """``wordllama`` and ``wordllama-64`` are pinned; the table holds ``documents(count)``."""

    url: str

    @classmethod
    def of(cls, root: Path, url: str, count: int = 40) -> PostgresLibrary:
        collections = COLLECTION.replace("sqlite:///library.db", url)
        it = cls(cls.make(root, corpus=[], collections=collections).root)
        it.url = url
        it.sql(TABLE)
        it.insert(documents(count))
        return it

    def sql(self, statement: str, *values: Any) -> None:
        """One statement, in a transaction of its own."""
        with psycopg.connect(self.url, autocommit=True) as library:
            library.execute(statement.encode(), values or None)

    def insert(self, corpus: Iterable[dict[str, str]]) -> None:
        with psycopg.connect(self.url) as library:
            library.cursor().executemany(
                "INSERT INTO articles VALUES (%(_id)s, %(title)s, %(text)s, %(topic)s)", corpus
            )
