"""A JSON Lines source: what it accepts, what it refuses, and what a changed file does."""

from __future__ import annotations

import gzip
import os
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from embedmigrate.errors import (
    ConfigError,
    DuplicateId,
    EmbedMigrateError,
    Refused,
    SourceChanged,
    StorageUnavailable,
)
from embedmigrate.models import Recipe
from embedmigrate.sources import spool as spool_module
from embedmigrate.sources.jsonl import JsonlSource
from embedmigrate.sources.spool import Spool, SpoolRow
from tests.sources.source_helpers import (
    check_that_every_way_of_reading_agrees,
    jsonl_source,
    settle,
    texts,
    write_jsonl,
)


def spool_of(root: Path) -> Path:
    (path,) = (root / ".embedmigrate" / "spool").iterdir()
    return path


def write_lines(root: Path, *lines: bytes) -> None:
    (root / "corpus.jsonl").write_bytes(b"".join(lines))


# -- what is read -------------------------------------------------------------------------------


def test_documents_come_in_order_of_the_bytes_of_their_ids_and_not_of_the_file(
    tmp_path: Path,
) -> None:
    ids = ["b", "é", "a", "10", "9", "Z", "\U0001f600", "\uffff", "a b", 'a"b', "a/b", "a%2Fb"]
    write_jsonl(tmp_path / "corpus.jsonl", ({"_id": id, "text": f"text of {id}"} for id in ids))
    documents = check_that_every_way_of_reading_agrees(jsonl_source(tmp_path), 5)
    assert [document.id for document in documents] == sorted(ids, key=str.encode)
    assert documents[0].text == "text of 10"


def test_the_text_is_made_by_the_recipe_and_not_by_the_configuration(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "1", "title": "T", "text": "B", "extra": "E"}])
    source = jsonl_source(
        tmp_path, text=["title", "text"], recipe=Recipe(text=("extra", "title"), joiner=" | ")
    )
    assert texts(source) == {"1": "E | T"}


def test_missing_null_and_blank_fields_count_as_empty_and_a_document_without_text_is_yielded(
    tmp_path: Path,
) -> None:
    records: list[dict[str, Any]] = [
        {"_id": "both", "title": "T", "text": "B"},
        {"_id": "missing", "text": "B"},
        {"_id": "null", "title": None, "text": "B"},
        {"_id": "blank", "title": " \n", "text": "B"},
        {"_id": "empty", "title": "", "text": ""},
        {"_id": "nothing"},
    ]
    write_jsonl(tmp_path / "corpus.jsonl", records)
    found = texts(jsonl_source(tmp_path, text=["title", "text"]))
    assert found == {
        "both": "T B",
        "missing": "B",
        "null": "B",
        "blank": "B",
        "empty": "",
        "nothing": "",
    }


def test_metadata_fields_are_read_and_a_missing_one_is_none(tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "corpus.jsonl",
        [
            {"_id": "1", "text": "a", "year": 2024, "tags": ["x", {"y": 1.5}]},
            {"_id": "2", "text": "b"},
        ],
    )
    first, second = check_that_every_way_of_reading_agrees(
        jsonl_source(tmp_path, metadata=["year", "tags"]), 1
    )
    assert first.metadata == {"year": 2024, "tags": ["x", {"y": 1.5}]}
    assert second.metadata == {"year": None, "tags": None}
    assert first.metadata_hash != second.metadata_hash


def test_lines_end_at_a_newline_alone(tmp_path: Path) -> None:
    text = "one\u2028two\u2029three\x85four\x0bfive\x0csix"
    raw = text.replace("\x0b", "\\u000b").replace("\x0c", "\\u000c")
    write_lines(tmp_path, f'{{"_id": "1", "text": "{raw}"}}\n{{"_id": "2", "text": "x"}}'.encode())
    assert texts(jsonl_source(tmp_path)) == {"1": text, "2": "x"}


def test_a_byte_order_mark_carriage_returns_and_blank_lines_are_tolerated(tmp_path: Path) -> None:
    write_lines(
        tmp_path,
        b'\xef\xbb\xbf{"_id": "1", "text": "a"}\r\n',
        b"\r\n",
        b"  \n",
        b'{"_id": "2", "text": "b"}\r\n',
    )
    documents = check_that_every_way_of_reading_agrees(jsonl_source(tmp_path), 1)
    assert [(document.id, document.text) for document in documents] == [("1", "a"), ("2", "b")]


def test_a_gzipped_file_reads_like_a_plain_one(tmp_path: Path) -> None:
    records = [{"_id": f"{n}", "text": f"text {n}", "n": n} for n in range(50)]
    plain = write_jsonl(tmp_path / "corpus.jsonl", records)
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + plain.read_bytes()))
    gzipped = jsonl_source(tmp_path, "corpus.jsonl.gz", metadata=["n"])
    expected = list(jsonl_source(tmp_path, metadata=["n"]).scan())
    assert check_that_every_way_of_reading_agrees(gzipped, 7) == expected


def test_an_empty_file_is_a_source_of_no_documents(tmp_path: Path) -> None:
    write_lines(tmp_path)
    assert check_that_every_way_of_reading_agrees(jsonl_source(tmp_path), 5) == []
    assert jsonl_source(tmp_path).prepare() == 0


def test_a_lone_surrogate_becomes_the_replacement_character(tmp_path: Path) -> None:
    write_lines(tmp_path, rb'{"_id": "1", "text": "a\ud800b \ud83d\ude00", "m": ["\udfff"]}')
    (document,) = check_that_every_way_of_reading_agrees(jsonl_source(tmp_path, metadata=["m"]), 1)
    assert document.text == "a\ufffdb \U0001f600"
    assert document.metadata == {"m": ["\ufffd"]}


def test_an_id_that_the_source_never_had_is_not_found(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": 7, "text": "a"}])
    source = jsonl_source(tmp_path)
    assert set(source.get(["7", "07", "", "x" * 1000, "\ud800", "\0"])) == {"7"}
    assert source.get([]) == {}


def test_many_ids_are_found_in_one_call(tmp_path: Path) -> None:
    ids = [f"id {n}" for n in range(2500)]
    write_jsonl(tmp_path / "corpus.jsonl", ({"_id": id, "text": id} for id in ids))
    found = jsonl_source(tmp_path).get([*ids, *ids])
    assert {id: document.text for id, document in found.items()} == {id: id for id in ids}


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("true", "bool"),
        ("1.5", "float"),
        ("null", "nothing"),
        ('""', "0 bytes"),
        ("[1]", "list"),
        (f'"{"é" * 257}"', "514 bytes"),
        (r'"\ud800"', "surrogate"),
    ],
)
def test_an_id_that_cannot_be_used_is_refused_with_its_line(
    tmp_path: Path, value: str, found: str
) -> None:
    write_lines(tmp_path, b'{"_id": 1, "text": "a"}\n', f'{{"_id": {value}, "text": "b"}}'.encode())
    with pytest.raises(DuplicateId, match=r"line 2 of .*corpus\.jsonl") as caught:
        jsonl_source(tmp_path).prepare()
    assert found in str(caught.value.found)


def test_a_record_without_the_id_field_is_refused_and_says_what_it_has(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", [{"id": "1", "text": "a"}])
    with pytest.raises(DuplicateId, match=r"line 1 .*'_id'") as caught:
        jsonl_source(tmp_path).prepare()
    assert caught.value.found == "'id', 'text'"


def test_an_id_of_512_bytes_is_the_longest(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "é" * 256, "text": "a"}])
    assert jsonl_source(tmp_path).prepare() == 1


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz"])
def test_an_id_that_occurs_twice_is_refused_with_both_lines(tmp_path: Path, name: str) -> None:
    lines = b'{"_id": "x", "text": "a"}\n\n{"_id": 7, "text": "b"}\n{"_id": "7", "text": "c"}\n'
    (tmp_path / name).write_bytes(gzip.compress(lines) if name.endswith("gz") else lines)
    with pytest.raises(DuplicateId) as caught:
        jsonl_source(tmp_path, name).prepare()
    assert "'7' at line 3 of" in str(caught.value.found)
    assert "line 4 of" in str(caught.value.found)
    assert list((tmp_path / ".embedmigrate" / "spool").iterdir()) == []


@pytest.mark.parametrize(
    "line",
    [
        b'{"_id": "2", "text": "SECRET"',
        b'["SECRET"]',
        b'"SECRET"',
        b'{"_id": "2", "text": "SECRET\xff"}',
        b'{"_id": "2", "text": SECRET}',
        b'{"_id": "2", "text": "SECRET", "n": ' + b"9" * 5000 + b"}",
        b'{"_id": "2", "text": "SECRET", "n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_a_line_that_is_no_object_is_refused_by_number_and_never_shown(
    tmp_path: Path, line: bytes
) -> None:
    write_lines(tmp_path, b'{"_id": "1", "text": "a"}\n', line)
    with pytest.raises(Refused, match=r"line 2 of .*: the line is not a JSON object") as caught:
        jsonl_source(tmp_path).prepare()
    assert "SECRET" not in str(caught.value)


def test_a_line_with_a_control_character_says_where_it_stands(tmp_path: Path) -> None:
    write_lines(tmp_path, b'{"_id": "1", "text": "a\tb"}\n')
    with pytest.raises(Refused) as caught:
        jsonl_source(tmp_path).prepare()
    assert caught.value.found == "Invalid control character at column 24"


def test_a_list_in_a_text_field_is_refused_with_its_line_and_field(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "1", "text": ["SECRET"]}])
    with pytest.raises(Refused, match=r"line 1 of .*field 'text'") as caught:
        jsonl_source(tmp_path).prepare()
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("misspelt", [{"text": ["title", "txt"]}, {"metadata": ["txt"]}])
def test_a_field_that_no_record_has_is_an_error_that_lists_what_there_is(
    tmp_path: Path, misspelt: dict[str, Any]
) -> None:
    write_jsonl(
        tmp_path / "corpus.jsonl",
        [{"_id": "1", "title": "a"}, {"_id": "2", "text": "b"}],
    )
    with pytest.raises(ConfigError, match="'txt'") as caught:
        jsonl_source(tmp_path, **misspelt).prepare()
    assert caught.value.found == "'_id', 'text', 'title'"


def test_a_missing_file_is_a_configuration_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl"):
        jsonl_source(tmp_path, "nowhere.jsonl").prepare()


@pytest.mark.parametrize(
    "damage",
    [b"no gzip at all", gzip.compress(b'{"_id": 1}\n' * 99, mtime=0)[:-9]],
    ids=["no gzip", "cut short"],
)
def test_a_damaged_gzip_file_is_refused(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "corpus.jsonl.gz").write_bytes(damage)
    with pytest.raises(EmbedMigrateError, match="decompressed"):
        jsonl_source(tmp_path, "corpus.jsonl.gz").prepare()


def test_a_work_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "1", "text": "a"}])
    (tmp_path / ".embedmigrate").write_text("a file where a folder should be")
    with pytest.raises(StorageUnavailable):
        jsonl_source(tmp_path).prepare()


# -- when the file changes ----------------------------------------------------------------------


def test_an_unchanged_file_is_indexed_once(tmp_path: Path) -> None:
    settle(write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "1", "text": "a"}]))
    assert jsonl_source(tmp_path).prepare() == 1
    made = spool_of(tmp_path).stat().st_ino
    assert jsonl_source(tmp_path).prepare() == 1
    assert spool_of(tmp_path).stat().st_ino == made


def test_a_file_modified_while_its_time_stamp_stood_still_is_indexed_again(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "1", "text": "old"}])
    before = path.stat()
    source = jsonl_source(tmp_path)
    assert source.prepare() == 1
    with path.open("r+b") as file:
        file.write(path.read_bytes().replace(b"old", b"new"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert source.prepare() == 1
    assert texts(source) == {"1": "new"}


def test_a_file_that_was_replaced_is_indexed_again_by_prepare(tmp_path: Path) -> None:
    path = settle(write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "1", "text": "old"}]))
    source = jsonl_source(tmp_path)
    assert source.prepare() == 1
    new = write_jsonl(tmp_path / "new", [{"_id": "1", "text": "new"}, {"_id": "2", "text": "b"}])
    settle(new).replace(path)
    assert source.prepare() == 2
    assert texts(source) == {"1": "new", "2": "b"}


def test_a_replacement_of_the_same_size_and_time_is_noticed(tmp_path: Path) -> None:
    path = settle(write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "1", "text": "old"}]))
    source = jsonl_source(tmp_path)
    source.prepare()
    new = write_jsonl(tmp_path / "new", [{"_id": "1", "text": "new"}])
    os.utime(new, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    new.replace(path)
    source.prepare()
    assert texts(source) == {"1": "new"}


def test_a_scan_goes_on_with_the_file_that_was_replaced_meanwhile(tmp_path: Path) -> None:
    records = [{"_id": f"{n:05}", "text": f"old {n:05}"} for n in range(5000)]
    path = write_jsonl(tmp_path / "corpus.jsonl", records)
    source = jsonl_source(tmp_path)
    documents = source.scan()
    next(documents)
    write_jsonl(tmp_path / "new", [{"_id": "1", "text": "new"}]).replace(path)
    assert source.prepare() == 1
    assert [document.text for document in documents] == [record["text"] for record in records[1:]]
    assert texts(source) == {"1": "new"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"old", b"new"),
        (b'"0', b'"1'),
        (b'"m": 1', b'"m": 2'),
        (b"}\n", b"]\n"),
        (b"old", b"longer"),
    ],
)
def test_a_file_rewritten_in_place_during_a_scan_stops_it(
    tmp_path: Path, old: bytes, new: bytes
) -> None:
    records = [{"_id": f"{n:05}", "text": f"old {n:05}", "m": 1} for n in range(5000)]
    path = write_jsonl(tmp_path / "corpus.jsonl", records)
    source = jsonl_source(tmp_path, metadata=["m"])
    documents = source.scan()
    next(documents)
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(SourceChanged, match=r"corpus\.jsonl"):
        list(documents)


def test_lines_appended_to_the_file_do_not_disturb_a_scan(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "1", "text": "a"}])
    source = jsonl_source(tmp_path)
    assert source.prepare() == 1
    with path.open("ab") as file:
        file.write(b'{"_id": "2", "text": "b"}\n')
    assert texts(source) == {"1": "a"}
    assert source.prepare() == 2


@pytest.mark.parametrize("addition", [b'{"_id": "2", "text": "b"}\n', b'{"_id": "2", "te'])
def test_a_file_that_is_written_while_it_is_indexed_is_no_source_yet(
    tmp_path: Path, addition: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "1", "text": "a"}])
    source = jsonl_source(tmp_path)
    index = source._index

    def index_while_another_writes(file: Any) -> Any:
        with path.open("ab") as other:
            other.write(addition)
        yield from index(file)

    monkeypatch.setattr(source, "_index", index_while_another_writes)
    with pytest.raises(SourceChanged):
        source.prepare()


def replace_while_indexing(
    source: JsonlSource, path: Path, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rename another file over ``path`` at each of the first ``times`` that it is indexed."""
    index, versions = source._index, iter(range(1, times + 1))

    def index_while_another_replaces(file: Any) -> Any:
        for version in versions:
            new = [{"_id": str(n), "text": f"version {version}"} for n in range(version + 1)]
            write_jsonl(path.with_name("new"), new).replace(path)
            break
        yield from index(file)

    monkeypatch.setattr(source, "_index", index_while_another_replaces)


@pytest.mark.parametrize("line", [{"_id": "0", "text": "old"}, {"no id": "at all"}])
def test_a_file_that_is_replaced_while_it_is_indexed_is_indexed_again(
    tmp_path: Path, line: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl(tmp_path / "corpus.jsonl", [line])
    source = jsonl_source(tmp_path)
    replace_while_indexing(source, path, 2, monkeypatch)
    assert source.prepare() == 3
    assert texts(source) == dict.fromkeys("012", "version 2")


def test_a_file_that_is_replaced_again_and_again_is_no_source_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "0", "text": "old"}])
    source = jsonl_source(tmp_path)
    replace_while_indexing(source, path, 99, monkeypatch)
    with pytest.raises(SourceChanged, match="replaced each time"):
        source.prepare()


def test_scanning_a_file_that_was_replaced_since_it_was_indexed_says_so(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "1", "text": "old"}])
    source = jsonl_source(tmp_path)
    source.prepare()
    write_jsonl(tmp_path / "new", [{"_id": "1", "text": "new"}]).replace(path)
    with pytest.raises(SourceChanged, match="was replaced or written since") as caught:
        list(source.scan())
    assert caught.value.next_step == "run the same command again"
    source.prepare()
    assert texts(source) == {"1": "new"}


def test_whoever_asks_for_documents_gets_them_as_they_are_now(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "1", "text": "old"}])
    source = jsonl_source(tmp_path)
    source.prepare()
    records = [{"_id": "2", "text": "added"}, {"_id": "1", "text": "new"}]
    write_jsonl(tmp_path / "new", records).replace(path)
    found = source.get(["1", "2", "3"])
    assert {id: document.text for id, document in found.items()} == {"1": "new", "2": "added"}
    assert texts(source) == {"1": "new", "2": "added"}


def test_another_recipe_has_another_spool(tmp_path: Path) -> None:
    settle(write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "1", "title": "T", "text": "B"}]))
    short, long = (
        jsonl_source(tmp_path, text=["text"], recipe=Recipe(text=fields))
        for fields in (("text",), ("title", "text"))
    )
    assert (short.prepare(), long.prepare()) == (1, 1)
    assert (texts(short), texts(long)) == ({"1": "B"}, {"1": "T B"})


# -- the spool ----------------------------------------------------------------------------------


def test_a_killed_indexing_leaves_no_spool_and_does_not_hinder_the_next(tmp_path: Path) -> None:
    settle(write_jsonl(tmp_path / "corpus.jsonl", ({"_id": n, "text": "a"} for n in range(99))))
    script = (
        "import os, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from tests.sources.source_helpers import jsonl_source\n"
        "source = jsonl_source(Path(sys.argv[2]))\n"
        "index = source._index\n"
        "def half(file):\n"
        "    for number, row in enumerate(index(file)):\n"
        "        if number == 50: os.kill(os.getpid(), 9)\n"
        "        yield row\n"
        "source._index = half\n"
        "source.prepare()\n"
    )
    here = str(Path(__file__).parents[2])
    killed = subprocess.run([sys.executable, "-c", script, here, str(tmp_path)], check=False)
    assert killed.returncode == -9
    (leftover,) = (tmp_path / ".embedmigrate" / "spool").iterdir()
    assert leftover.suffix == ".tmp"
    assert jsonl_source(tmp_path).prepare() == 99
    long_ago = time.time() - 100_000
    os.utime(leftover, (long_ago, long_ago))
    settle(tmp_path / "corpus.jsonl")
    assert jsonl_source(tmp_path).prepare() == 99
    assert not leftover.exists()


def test_several_may_index_the_same_file_at_once(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", ({"_id": n, "text": "a"} for n in range(3000)))

    def prepare_and_read(_: int) -> tuple[int, int]:
        source = jsonl_source(tmp_path)
        return source.prepare(), len(texts(source))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(prepare_and_read, range(8))) == [(3000, 3000)] * 8
    assert spool_of(tmp_path).suffix == ".sqlite"


@pytest.mark.parametrize("damage", [b"", b"no database", None])
def test_a_damaged_spool_is_made_again(tmp_path: Path, damage: bytes | None) -> None:
    settle(write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "1", "text": "a"}]))
    assert jsonl_source(tmp_path).prepare() == 1
    if damage is None:
        spool_of(tmp_path).unlink()
    else:
        spool_of(tmp_path).write_bytes(damage)
    assert texts(jsonl_source(tmp_path)) == {"1": "a"}


def test_a_full_disk_is_temporary_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = spool_module._SCHEMA.replace("BEGIN;", "PRAGMA max_page_count = 4; BEGIN;")
    monkeypatch.setattr(spool_module, "_SCHEMA", schema)
    rows = (SpoolRow(n, f"{n}", b"c" * 16, b"m" * 16, 0, 0, b"x" * 100) for n in range(10_000))
    with pytest.raises(StorageUnavailable, match="full"):
        Spool(tmp_path / "spool.sqlite").build("signature", True, rows)
    assert list(tmp_path.iterdir()) == []


def test_the_spool_of_a_plain_file_holds_no_text(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "1", "text": "in the file alone"}])
    jsonl_source(tmp_path).prepare()
    spool = sqlite3.connect(spool_of(tmp_path))
    assert spool.execute("SELECT payload FROM documents").fetchall() == [(None,)]
    spool.close()


# -- memory -------------------------------------------------------------------------------------

_MEASURE = """
import sys, threading, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.sources.source_helpers import jsonl_source

def anonymous_kb():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon:"):
            return int(line.split()[1])

peak = 0
done = threading.Event()
def watch():
    global peak
    while not done.wait(0.005):
        peak = max(peak, anonymous_kb())

thread = threading.Thread(target=watch)
thread.start()
source = jsonl_source(Path(sys.argv[2]), sys.argv[3])
count = source.prepare()
ranges = sum(part.documents for part in source.partition(512))
states = sum(1 for _ in source.states())
documents = sum(1 for _ in source.scan())
assert count == ranges == states == documents
done.set()
thread.join()
print(count, peak)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_number_of_documents(tmp_path: Path) -> None:
    words = "the quick brown fox jumps over the lazy dog and runs on into the forest " * 3
    peaks = {}
    for count in (50_000, 200_000):
        path = tmp_path / f"{count}.jsonl"
        with path.open("w") as file:
            # ids out of order, so that reading in order of ids jumps about in the file
            file.writelines(
                f'{{"_id": "{n * 7919 % count}", "text": "{n} {words}"}}\n' for n in range(count)
            )
        arguments = [str(Path(__file__).parents[2]), str(tmp_path), path.name]
        output = subprocess.run(
            [sys.executable, "-c", _MEASURE, *arguments], check=True, capture_output=True, text=True
        ).stdout
        found, peaks[count] = map(int, output.split())
        assert found == count
    assert peaks[200_000] - peaks[50_000] < 6_000, f"RssAnon in KB: {peaks}"
