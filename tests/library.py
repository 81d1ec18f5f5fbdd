"""A project whose documents stand in an SQLite table that an application writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.workspace import Workspace, documents

TABLE = """
CREATE TABLE articles (
    id TEXT PRIMARY KEY, slug TEXT UNIQUE, title TEXT, text TEXT, topic TEXT, updated_at REAL
)
"""
COLLECTION = """
[collections.articles]
model = "wordllama"
also_accept = []
store = { kind = "faiss", path = "indexes" }

[collections.articles.source]
kind = "sql"
url = "sqlite:///library.db"
table = "articles"
key = "id"
text = ["title", "text"]
metadata = ["topic"]
"""


class Library(Workspace):
    """``wordllama`` and ``wordllama-64`` are pinned; the table holds ``documents(count)``."""

    @classmethod
    def of(cls, root: Path, count: int = 40, *, collections: str = COLLECTION) -> Library:
        root.mkdir(parents=True)
        with closing(sqlite3.connect(root / "library.db")) as library, library:
            library.execute("PRAGMA journal_mode = WAL")
            library.execute(TABLE)
        it = cls(root)
        it.insert(documents(count))
        workspace = cls.make(root, corpus=[], collections=collections)
        return cls(workspace.root)

    def sql(self, statement: str, *values: Any) -> list[Any]:
        """One statement, in a transaction of its own; what it returned."""
        with closing(sqlite3.connect(self.root / "library.db", timeout=30)) as library, library:
            return library.execute(statement, values).fetchall()

    def insert(self, corpus: Iterable[dict[str, str]]) -> None:
        with closing(sqlite3.connect(self.root / "library.db", timeout=30)) as library, library:
            library.executemany(
                "INSERT INTO articles VALUES (:_id, 'slug of ' || :_id, :title, :text, :topic, 1)",
                corpus,
            )
