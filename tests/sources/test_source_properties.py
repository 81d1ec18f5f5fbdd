"""Laws that hold for every source, whatever ids and texts there are and however it is cut."""

from __future__ import annotations

import gzip
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedmigrate.models import Recipe
from embedmigrate.sources.base import Source
from embedmigrate.sources.parquet import ParquetConfig, ParquetSource
from embedmigrate.sources.sql import SqlConfig, SqlSource
from tests.sources.source_helpers import (
    check_that_every_way_of_reading_agrees,
    context,
    jsonl_source,
)

Rows = Sequence[tuple[str, str | None]]

# text that UTF-8 can hold, with what tends to go wrong more often than chance would have it
_texts = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=12),
    st.text("ab/%'\" \\:\u2028\x85\n\r\0é\U0001f600", max_size=6),
)
_rows = st.lists(
    st.tuples(_texts.filter(bool), st.none() | _texts), max_size=25, unique_by=lambda row: row[0]
)


def make_jsonl(root: Path, rows: Rows) -> Source:
    lines = [json.dumps({"_id": id, "text": t}, ensure_ascii=len(id) % 2 == 0) for id, t in rows]
    (root / "corpus.jsonl").write_bytes(b"".join(line.encode() + b"\n" for line in lines))
    return jsonl_source(root)


def make_gzipped_jsonl(root: Path, rows: Rows) -> Source:
    make_jsonl(root, rows)
    (root / "corpus.jsonl.gz").write_bytes(gzip.compress((root / "corpus.jsonl").read_bytes()))
    return jsonl_source(root, "corpus.jsonl.gz")


def make_parquet(root: Path, rows: Rows) -> Source:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    columns = {
        "id": pa.array([id for id, _ in rows], pa.string()),
        "text": pa.array([text for _, text in rows], pa.string()),
    }
    pq.write_table(pa.table(columns), root / "corpus.parquet", row_group_size=3)
    config = ParquetConfig(kind="parquet", path="corpus.parquet", id="id", text=("text",))
    return ParquetSource(config, Recipe(text=("text",)), context(root))


def _sql(root: Path, table: str, rows: Sequence[Sequence[Any]], key: tuple[str, ...]) -> Source:
    with closing(sqlite3.connect(root / "app.db")) as connection:
        connection.execute(f"CREATE TABLE articles ({table})")
        connection.executemany(f"INSERT INTO articles VALUES ({', '.join('?' * 3)})", rows)
        connection.commit()
    config = SqlConfig.model_validate(
        {"kind": "sql", "url": "sqlite:///app.db", "table": "articles", "key": key, "text": ["t"]}
    )
    source = SqlSource(config, Recipe(text=("t",)), context(root))
    source._page_rows = 4
    return source


def make_sql_by_text(root: Path, rows: Rows) -> Source:
    return _sql(root, "id TEXT, n, t TEXT", [(id, n, t) for n, (id, t) in enumerate(rows)], ("id",))


def make_sql_by_integer(root: Path, rows: Rows) -> Source:
    numbered = [((-7) ** n, id, text) for n, (id, text) in enumerate(rows[:20])]
    return _sql(root, "id INTEGER PRIMARY KEY, x, t TEXT", numbered, ("id",))


def make_sql_by_two_columns(root: Path, rows: Rows) -> Source:
    halves = [(id[: len(id) // 2], id[len(id) // 2 :], text) for id, text in rows]
    return _sql(root, "a TEXT, b TEXT, t TEXT", halves, ("a", "b"))


@pytest.mark.parametrize(
    "make",
    [
        make_jsonl,
        make_gzipped_jsonl,
        make_parquet,
        make_sql_by_text,
        make_sql_by_integer,
        make_sql_by_two_columns,
    ],
)
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(rows=_rows, size=st.integers(1, 12))
def test_ranges_scan_get_and_states_agree(
    make: Callable[[Path, Rows], Source], rows: Rows, size: int
) -> None:
    with TemporaryDirectory() as root:
        source = make(Path(root), rows)
        documents = check_that_every_way_of_reading_agrees(source, size)
        expected = [text if text and not text.isspace() else "" for _, text in rows]
        assert sorted(document.text for document in documents) == sorted(
            expected[:20] if make is make_sql_by_integer else expected
        )
        if source.bytewise:
            assert {document.id for document in documents} == {id for id, _ in rows}
        source.close()


def test_naming_a_source_in_a_configuration_imports_no_database_and_no_arrow() -> None:
    script = (
        "import sys, embedmigrate.sources.jsonl, embedmigrate.sources.parquet\n"
        "import embedmigrate.sources.sql\n"
        "print(*({'sqlalchemy', 'pyarrow'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert output.stdout.split() == []
