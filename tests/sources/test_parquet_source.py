"""A Parquet source: files, folders and patterns; values of every type; bounded memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from embedmigrate.errors import ConfigError, DuplicateId, MissingExtra, Refused
from embedmigrate.models import Recipe
from embedmigrate.sources.parquet import ParquetConfig, ParquetSource
from tests.sources.source_helpers import (
    check_that_every_way_of_reading_agrees,
    context,
    settle,
    texts,
)

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def parquet_source(
    root: Path,
    path: str = "corpus.parquet",
    text: Sequence[str] = ("text",),
    metadata: Sequence[str] = (),
) -> ParquetSource:
    config = ParquetConfig.model_validate(
        {"kind": "parquet", "path": path, "id": "id", "text": text, "metadata": metadata}
    )
    return ParquetSource(config, Recipe(text=tuple(text)), context(root))


def write_parquet(path: Path, columns: dict[str, Any], row_group_size: int = 1000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def test_documents_come_in_order_of_ids_from_row_groups_in_any_order(tmp_path: Path) -> None:
    ids = [f"{n * 7919 % 5000}" for n in range(5000)]
    write_parquet(
        tmp_path / "corpus.parquet",
        {"id": ids, "text": [f"text of {id}" for id in ids], "unread": [b"\xff"] * 5000},
        row_group_size=300,
    )
    documents = check_that_every_way_of_reading_agrees(parquet_source(tmp_path), 512)
    assert [document.id for document in documents] == sorted(ids)
    assert all(document.text == f"text of {document.id}" for document in documents)


@pytest.mark.parametrize(
    "path",
    ["corpus", "corpus/**/*.parquet", "corpus/*/part-?.parquet", "{root}/corpus/*/*.parquet"],
)
def test_a_folder_and_a_pattern_are_all_their_files(tmp_path: Path, path: str) -> None:
    for year in (2023, 2024):
        for part in range(2):
            write_parquet(
                tmp_path / f"corpus/{year}/part-{part}.parquet",
                {"id": [f"{year}-{part}"], "text": [f"text {year} {part}"]},
            )
    (tmp_path / "corpus/_SUCCESS").touch()
    source = parquet_source(tmp_path, path.format(root=tmp_path))
    assert texts(source) == {
        f"{year}-{part}": f"text {year} {part}" for year in (2023, 2024) for part in range(2)
    }


def test_a_new_file_in_the_folder_is_noticed_by_prepare(tmp_path: Path) -> None:
    settle(write_parquet(tmp_path / "corpus/a.parquet", {"id": ["1"], "text": ["a"]}))
    source = parquet_source(tmp_path, "corpus")
    assert source.prepare() == 1
    settle(write_parquet(tmp_path / "corpus/b.parquet", {"id": ["2"], "text": ["b"]}))
    assert source.prepare() == 2
    assert texts(source) == {"1": "a", "2": "b"}


def test_values_of_every_type_become_text_and_json(tmp_path: Path) -> None:
    zone = timezone(timedelta(hours=2))
    columns = {
        "id": pa.array([1], pa.uint64()),
        "text": pa.array(["a"], pa.large_string()),
        "number": pa.array([1.5]),
        "nan": pa.array([float("nan")]),
        "flag": pa.array([True]),
        "null": pa.array([None], pa.string()),
        "price": pa.array([Decimal("1.50")]),
        "day": pa.array([date(2024, 2, 29)]),
        "moment": pa.array([datetime(2024, 2, 29, 1, 2, 3)], pa.timestamp("ms")),
        "zoned": pa.array([datetime(2024, 2, 29, 1, tzinfo=zone)], pa.timestamp("us", "+02:00")),
        "nanoseconds": pa.array([1_700_000_000_123_456_789], pa.timestamp("ns")),
        "word": pa.array(["x"]).dictionary_encode(),
        "tags": pa.array([["x", "y"]]),
        "nested": pa.array([{"a": [1], "b": None}]),
    }
    write_parquet(tmp_path / "corpus.parquet", columns)
    fields = [name for name in columns if name not in ("id", "text")]
    (document,) = check_that_every_way_of_reading_agrees(
        parquet_source(tmp_path, text=["text", "number", "flag", "day", "nan"], metadata=fields), 1
    )
    assert document.id == "1"
    assert document.text == "a 1.5 true 2024-02-29"
    assert document.metadata == {
        "number": 1.5,
        "nan": None,
        "flag": True,
        "null": None,
        "price": "1.50",
        "day": "2024-02-29",
        "moment": "2024-02-29T01:02:03",
        "zoned": "2024-02-29T01:00:00+02:00",
        "nanoseconds": "2023-11-14T22:13:20.123456",
        "word": "x",
        "tags": ["x", "y"],
        "nested": {"a": [1], "b": None},
    }


def test_null_and_empty_texts_are_yielded_as_empty(tmp_path: Path) -> None:
    write_parquet(tmp_path / "corpus.parquet", {"id": ["1", "2"], "text": [None, ""]})
    assert texts(parquet_source(tmp_path)) == {"1": "", "2": ""}


@pytest.mark.parametrize(
    ("column", "field"),
    [
        (pa.array([b"SECRET"]), "metadata"),
        (pa.array([b"SECRET"]), "text"),
        (pa.array([["SECRET"]]), "text"),
        (pa.array([timedelta(1)]), "metadata"),
    ],
)
def test_a_value_that_has_no_place_is_refused_with_its_row_and_field(
    tmp_path: Path, column: Any, field: str
) -> None:
    write_parquet(tmp_path / "corpus.parquet", {"id": ["1"], "ok": ["a"], "odd": column})
    fields: dict[str, Any] = {"text": ["ok"], field: ["odd"]}
    with pytest.raises(Refused, match=r"row 1 of .*corpus\.parquet: field 'odd'") as caught:
        parquet_source(tmp_path, **fields).prepare()
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("ids", [[1.0], [None], [b"1"], [True], [""]])
def test_an_id_that_cannot_be_used_is_refused_with_its_row(tmp_path: Path, ids: list[Any]) -> None:
    write_parquet(tmp_path / "corpus.parquet", {"id": ids, "text": ["a"]})
    with pytest.raises(DuplicateId, match="row 1 of"):
        parquet_source(tmp_path).prepare()


def test_an_id_that_occurs_in_two_files_is_refused_with_both_rows(tmp_path: Path) -> None:
    write_parquet(tmp_path / "corpus/a.parquet", {"id": ["1", "2", "3"], "text": ["a"] * 3})
    write_parquet(tmp_path / "corpus/b.parquet", {"id": ["4", "2"], "text": ["b"] * 2})
    with pytest.raises(DuplicateId) as caught:
        parquet_source(tmp_path, "corpus").prepare()
    found = str(caught.value.found)
    assert f"'2' at row 2 of {tmp_path / 'corpus/a.parquet'}" in found
    assert f"row 2 of {tmp_path / 'corpus/b.parquet'}" in found


def test_a_missing_column_is_an_error_that_lists_what_there_is(tmp_path: Path) -> None:
    write_parquet(tmp_path / "corpus.parquet", {"id": ["1"], "body": ["a"]})
    with pytest.raises(ConfigError, match="'text'") as caught:
        parquet_source(tmp_path).prepare()
    assert caught.value.found == "'body', 'id'"


@pytest.mark.parametrize("path", ["nowhere.parquet", "empty", "corpus/*.parquet"])
def test_no_file_at_all_is_a_configuration_error(tmp_path: Path, path: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no Parquet file"):
        parquet_source(tmp_path, path).prepare()


def test_a_truncated_file_is_refused_by_name(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "corpus.parquet", {"id": ["1"], "text": ["a"]})
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(Refused, match=r"corpus\.parquet cannot be read as Parquet"):
        parquet_source(tmp_path).prepare()


def test_without_pyarrow_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path / "corpus.parquet", {"id": ["1"], "text": ["a"]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"embedmigrate\[parquet\]"):
        parquet_source(tmp_path).prepare()


_MEASURE = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.sources.test_parquet_source import parquet_source

def anonymous_kb():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon:"):
            return int(line.split()[1])

source = parquet_source(Path(sys.argv[2]), sys.argv[3])
rows, peak = source._rows, 0
def watched(files):
    global peak
    for number, row in enumerate(rows(files)):
        if number % 1000 == 0:
            peak = max(peak, anonymous_kb())
        yield row
source._rows = watched
count = source.prepare()
assert sum(1 for _ in source.scan()) == count
print(max(peak, anonymous_kb()))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_row_group_is_not_read_at_once(tmp_path: Path) -> None:
    peaks = {}
    for count in (10_000, 60_000):
        write_parquet(
            tmp_path / f"{count}.parquet",
            {"id": list(range(count)), "text": [os.urandom(400).hex() for _ in range(count)]},
            row_group_size=count,
        )
        arguments = [str(Path(__file__).parents[2]), str(tmp_path), f"{count}.parquet"]
        output = subprocess.run(
            [sys.executable, "-c", _MEASURE, *arguments], check=True, capture_output=True, text=True
        ).stdout
        peaks[count] = int(output)
    # the row group is 40 MB larger
    assert peaks[60_000] - peaks[10_000] < 15_000, f"RssAnon in KB: {peaks}"
