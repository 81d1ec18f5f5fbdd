"""Cut the shipped collection out of the whole of SciFact, a folder in BEIR's layout.

    python examples/data/make_subset.py SCIFACT_FOLDER [OUTPUT_FOLDER]

The choice depends on ids alone, never on what a model makes of the texts: the first 100 judged
queries, every document judged for them, and others in the order of their ids' SHA-256 up to 600.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from pathlib import Path

QUERIES = 100
DOCUMENTS = 600


def make_subset(full: Path, output: Path) -> None:
    """Write `corpus.jsonl`, `queries.jsonl` and `qrels.tsv` to `output`, sorted by id.

    The judgements of `full` are its `qrels.tsv`, or `qrels/test.tsv` as BEIR's archive has it; its
    corpus may be compressed.
    """
    corpus = records(existing(full / "corpus.jsonl", full / "corpus.jsonl.gz"), "title", "text")
    queries = records(full / "queries.jsonl", "text")
    header, *rows = lines(existing(full / "qrels.tsv", full / "qrels" / "test.tsv"))
    judgements = [row.split("\t") for row in rows]

    chosen_queries = sorted({query for query, _, _ in judgements}, key=int)[:QUERIES]
    chosen_judgements = [row for row in judgements if row[0] in chosen_queries]
    judged = {document for _, document, _ in chosen_judgements}
    others = sorted(corpus.keys() - judged, key=digest)
    chosen_documents = sorted(judged.union(others[: DOCUMENTS - len(judged)]), key=int)

    write(output / "corpus.jsonl", [corpus[key] for key in chosen_documents])
    write(output / "queries.jsonl", [queries[key] for key in chosen_queries])
    write(
        output / "qrels.tsv",
        [header, *("\t".join(row) for row in sorted(chosen_judgements, key=judgement_order))],
    )


def records(path: Path, *fields: str) -> dict[str, str]:
    """Each record as the line to write, by id: these fields, runs of white space as one space."""
    found = {}
    for line in lines(path):
        record = json.loads(line)
        values = {field: " ".join(record[field].split()) for field in fields}
        found[record["_id"]] = json.dumps({"_id": record["_id"], **values}, ensure_ascii=False)
    return found


def judgement_order(row: list[str]) -> tuple[int, int]:
    return int(row[0]), int(row[1])


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def existing(*paths: Path) -> Path:
    for path in paths:
        if path.exists():
            return path
    raise FileNotFoundError(" or ".join(map(str, paths)))


def lines(path: Path) -> list[str]:
    # Not str.splitlines: a text may hold the other line separators of Unicode.
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    return text.removesuffix("\n").split("\n")


def write(path: Path, content: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in content), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    if len(sys.argv) not in {2, 3}:
        sys.exit(__doc__)
    folder = Path(sys.argv[2]) if len(sys.argv) == 3 else Path(__file__).parent
    make_subset(Path(sys.argv[1]), folder)
