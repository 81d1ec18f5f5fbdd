"""The main job on every kind of source and of index."""

from __future__ import annotations

import gzip
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from embedmigrate import Collection, command
from tests.workspace import ARTICLES, Workspace, documents

QUERY = "a night with a telescope"
JSONL = ARTICLES[ARTICLES.index("[collections.articles.source]") :]


def make(root: Path, source: str, factory: str = "Flat") -> Workspace:
    collections = ARTICLES.replace(JSONL, f"[collections.articles.source]\n{source}\n")
    collections = collections.replace(
        'path = "indexes"', f'path = "indexes", factory = "{factory}"'
    )
    return Workspace.make(root, collections=collections, corpus=documents(1300))


def prepare_source(kind: str, root: Path) -> str:
    root.mkdir(parents=True)
    corpus = documents(1300)
    fields = 'text = ["title", "text"]\nmetadata = ["topic"]'
    if kind == "jsonl.gz":
        with gzip.open(root / "corpus.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(document) + "\n" for document in corpus)
        return f'kind = "jsonl"\npath = "corpus.jsonl.gz"\nid = "_id"\n{fields}'
    if kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.Table.from_pylist(corpus)
        pyarrow.parquet.write_table(table, root / "corpus.parquet", row_group_size=100)
        return f'kind = "parquet"\npath = "corpus.parquet"\nid = "_id"\n{fields}'
    with closing(sqlite3.connect(root / "corpus.db")) as database, database:
        database.execute("CREATE TABLE docs (nr INTEGER PRIMARY KEY, title, text, topic)")
        database.executemany(
            "INSERT INTO docs VALUES (:nr, :title, :text, :topic)",
            [{**document, "nr": nr * 3} for nr, document in enumerate(corpus)],
        )
    url = f"sqlite:///{root}/corpus.db"
    return f'kind = "sql"\nurl = "{url}"\ntable = "docs"\nkey = "nr"\n{fields}'


@pytest.mark.parametrize("kind", ["jsonl.gz", "parquet", "sql"])
def test_a_collection_of_any_source_moves_and_goes_back(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "project"
    workspace = make(root, prepare_source(kind, root))
    workspace.revision("wordllama")
    workspace.upgrade()
    workspace.revision("wordllama-64")
    (entry,) = workspace.upgrade()

    assert (entry["done"], entry["total"], entry["live"]) == (1300, 1300, True)
    with Collection.open("articles", workspace.settings) as articles:
        assert articles.search(QUERY, k=1).hits[0].metadata == {"topic": "astronomy"}
    assert command.verify(workspace.settings)["holds"]
    command.rollback(workspace.settings, "articles")
    assert workspace.live() == "wordllama"


def test_rows_that_change_in_a_database_are_followed(tmp_path: Path) -> None:
    root = tmp_path / "project"
    workspace = make(root, prepare_source("sql", root))
    workspace.revision("wordllama")
    workspace.upgrade()
    workspace.revision("wordllama-64")
    workspace.upgrade(until_ready=True)
    with closing(sqlite3.connect(root / "corpus.db")) as database, database:
        database.execute("UPDATE docs SET text = 'Submarines below arctic ice' WHERE nr = 30")
        database.execute("DELETE FROM docs WHERE nr = 33")
        database.execute("INSERT INTO docs VALUES (1, '', 'A violin needs rosin', 'music')")
        database.execute("UPDATE docs SET text = NULL, title = '' WHERE nr = 36")

    command.cutover(workspace.settings)

    with Collection.open("articles", workspace.settings) as articles:
        assert articles.search("violin rosin", k=1).hits[0].id == "1"
        assert articles.search("submarines under ice", k=1).hits[0].id == "30"
    assert workspace.status()["live"]["documents"] == 1299
    assert command.verify(workspace.settings)["holds"]


@pytest.mark.parametrize("factory", ["IVF16,Flat", "HNSW16"])
def test_an_approximate_index_goes_live_with_its_recall_measured(
    tmp_path: Path, factory: str
) -> None:
    root = tmp_path / "project"
    workspace = make(root, prepare_source("jsonl.gz", root), factory)
    workspace.revision("wordllama")
    workspace.upgrade()

    (entry,) = command.verify(workspace.settings)["collections"]

    usable = entry["invariants"][6]
    assert usable["holds"] and usable["measured"]["search"] == "ann"
    assert usable["measured"]["recall_at_10"] >= 0.9
    with Collection.open("articles", workspace.settings) as articles:
        assert articles.search(QUERY, k=1).hits[0].metadata == {"topic": "astronomy"}
