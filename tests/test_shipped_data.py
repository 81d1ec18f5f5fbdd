"""The collection in examples/data is whole, clean, and what its script makes."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

DATA = Path(__file__).parents[1] / "examples" / "data"


def lines(name: str) -> list[str]:
    content = (DATA / name).read_bytes().decode("utf-8")
    assert content.endswith("\n")
    return content.removesuffix("\n").split("\n")


def records(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in lines(name)]


def judgements() -> list[tuple[str, str, int]]:
    rows = [line.split("\t") for line in lines("qrels.tsv")[1:]]
    return [(query, document, int(score)) for query, document, score in rows]


def test_the_collection_has_the_size_that_its_readme_states() -> None:
    assert len(records("corpus.jsonl")) == 600
    assert len(records("queries.jsonl")) == 100
    assert len(judgements()) == 116


@pytest.mark.parametrize(
    ("name", "fields"),
    [("corpus.jsonl", {"_id", "title", "text"}), ("queries.jsonl", {"_id", "text"})],
)
def test_every_line_is_one_record_of_non_empty_strings(name: str, fields: set[str]) -> None:
    for record in records(name):
        assert record.keys() == fields
        assert all(isinstance(value, str) and value.strip() for value in record.values())


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
def test_no_id_and_no_text_occurs_twice(name: str) -> None:
    found = records(name)
    assert len({record["_id"] for record in found}) == len(found)
    assert len({record["text"] for record in found}) == len(found)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
def test_no_text_holds_a_replacement_or_control_character(name: str) -> None:
    for record in records(name):
        text = "".join(record.values())
        assert "\ufffd" not in text
        assert not any(unicodedata.category(character) == "Cc" for character in text)


def test_every_judged_pair_exists_and_is_judged_once() -> None:
    pairs = [(query, document) for query, document, _ in judgements()]
    assert len(set(pairs)) == len(pairs)
    assert {document for _, document in pairs} <= {r["_id"] for r in records("corpus.jsonl")}
    assert {query for query, _ in pairs} == {r["_id"] for r in records("queries.jsonl")}


def test_every_judgement_calls_its_document_relevant() -> None:
    assert lines("qrels.tsv")[0] == "query-id\tcorpus-id\tscore"
    assert {score for _, _, score in judgements()} == {1}


def test_the_script_that_cut_the_subset_finds_it_in_itself_byte_for_byte(tmp_path: Path) -> None:
    script = DATA / "make_subset.py"
    subprocess.run([sys.executable, str(script), str(DATA), str(tmp_path)], check=True)
    for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv"):
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes()


def test_licence_and_authors_travel_with_the_data() -> None:
    licence = (DATA / "LICENSE.md").read_text(encoding="utf-8")
    for stated in ("CC BY 4.0", "ODC-By 1.0", "Wadden", "S2ORC", "What was changed"):
        assert stated in licence
