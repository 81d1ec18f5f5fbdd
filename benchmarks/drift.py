"""What changes of a model do to vectors and searches, and whether a check for drift reports them.

    python -m benchmarks.drift build/variants                     a table of every variant
    python -m benchmarks.drift build/variants --texts FILE.jsonl  on other texts
    python -m benchmarks.drift build/variants --runs 200          the unchanged model, so many times

Each variant of ``benchmarks.model_variants`` is measured against the one that it is a change of:
distances of the vectors of documents and queries, result lists with everything embedded again,
and result lists of new queries on old documents, which is what an index gets whose model changed
unnoticed. Exits 1 when a verdict is not the one that is due, or an unchanged model gave an alarm.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks import unchanged
from benchmarks.changed_embedders import ChangedEmbedder
from benchmarks.known_items import (
    EXAMPLE,
    Distance,
    KnownItem,
    Search,
    best,
    known_items,
    read_texts,
)
from benchmarks.model_variants import VARIANTS, Variant, build, changed, open_model, variant
from benchmarks.witnessing import Verdict, verdict_of
from embedmigrate.embedders.base import Embedder, Vectors


@dataclass(frozen=True)
class Row:
    """What one variant is to the variant that it is a change of."""

    label: str
    change: str
    against: str
    documents: Distance | None
    queries: Distance | None
    again: Search
    """New queries on new documents."""
    mixed: Search | None
    """New queries on old documents; None where no store would take them."""
    verdict: Verdict
    alarm_due: bool | None

    @property
    def as_due(self) -> bool:
        return self.alarm_due in (None, self.verdict.alarm)


@dataclass(frozen=True)
class Vectorised:
    """One variant's vectors, and the embedder that made them."""

    embedder: Embedder
    documents: Vectors
    queries: Vectors


class Remembering(ChangedEmbedder):
    """Answers each call that it has answered before, in any process, from a file in ``folder``."""

    def __init__(self, inner: Embedder, folder: Path) -> None:
        super().__init__(inner)
        self._folder = folder

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        return self._remembered("embed_documents", self.model.document_prompt, texts)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return self._remembered("embed_queries", self.model.query_prompt, texts)

    def change(self, vectors: Vectors) -> Vectors:
        return vectors

    def _remembered(self, method: str, prompt: str, texts: Sequence[str]) -> Vectors:
        space = {**self.model.space(), "document_prompt": prompt}
        run = getattr(self.inner, "tokens_a_run", None)
        key = json.dumps([type(self.inner).__name__, run, space, list(texts)])
        path = self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part.npy")
            np.save(part, getattr(self.inner, method)(texts))
            part.replace(path)
        vectors: Vectors = np.load(path)
        return vectors


class Benchmark:
    """Variants in ``folder`` on ``texts`` and ``items``, each embedded once."""

    def __init__(self, folder: Path, texts: Sequence[str], items: Sequence[KnownItem]) -> None:
        self._folder, self._texts, self._items = folder, texts, items
        self._vectorised: dict[str, Vectorised] = {}

    def row(self, one: Variant) -> Row:
        """Measure ``one``; takes seconds where its vectors are remembered, half a minute else."""
        old, new = self._vectors(variant(one.against)), self._vectors(one)
        before = best(old.queries, old.documents)
        comparable = old.documents.shape == new.documents.shape
        return Row(
            one.label,
            one.change,
            one.against,
            Distance.between(old.documents, new.documents),
            Distance.between(old.queries, new.queries),
            Search.compared(before, best(new.queries, new.documents), self._items),
            Search.compared(before, best(new.queries, old.documents), self._items)
            if comparable
            else None,
            verdict_of(old.embedder, new.embedder),
            one.alarm,
        )

    def _vectors(self, one: Variant) -> Vectorised:
        if one.label not in self._vectorised:
            opened = open_model(one, self._folder)
            remembering = changed(one, Remembering(opened, self._folder / "vectors"))
            self._vectorised[one.label] = Vectorised(
                changed(one, opened),
                remembering.embed_documents(self._texts),
                remembering.embed_queries([item.query for item in self._items]),
            )
        return self._vectorised[one.label]

    def forget(self, one: Variant) -> None:
        """Close a variant that nothing else is a change of."""
        if one.label not in {other.against for other in VARIANTS}:
            self._vectorised.pop(one.label).embedder.close()


HEAD = (
    "change",
    "documents p50 / max",
    "queries p50 / max",
    "norm",
    "top-10 overlap",
    "first result changes",
    "hit@10",
    "mixed: overlap",
    "mixed: first changes",
    "mixed: hit@10",
    "verdict",
)


def line(row: Row) -> list[str]:
    """The cells of a table's line, under ``HEAD``."""
    norms = [side.norm for side in (row.documents, row.queries) if side]
    against = "" if row.against == "base" else f" (against {row.against})"
    return [
        row.change + against,
        _distance(row.documents),
        _distance(row.queries),
        f"{max(norms):.1e}" if norms else "-",
        *_search(row.again),
        *_search(row.mixed),
        row.verdict.verdict + ("" if row.as_due else " - NOT DUE"),
    ]


def _distance(distance: Distance | None) -> str:
    if distance is None:
        return "other dimension"
    # What is smaller is no distance: it is the rounding of the arithmetic that measures.
    cells = [0 if abs(it) < 1e-14 else it for it in (distance.median, distance.greatest)]
    return " / ".join("0" if it == 0 else f"{it:.2g}" for it in cells)


def _search(search: Search | None) -> list[str]:
    if search is None:
        return ["-"] * 3
    return [f"{share:.3f}" for share in (search.overlap, search.first_changes, search.hits)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the variants; made where it is missing")
    parser.add_argument("--texts", type=Path, default=EXAMPLE, help="JSONL: _id, title, text")
    parser.add_argument("--size", type=int, default=2000, help="texts at most (default 2,000)")
    parser.add_argument("--queries", type=int, default=500, help="known items (default 500)")
    parser.add_argument("--only", nargs="+", metavar="LABEL", help="these variants alone")
    parser.add_argument("--json", type=Path, help="default: drift.json in the folder")
    parser.add_argument("--runs", type=int, help="check the unchanged model so many times instead")
    parser.add_argument("--of", default="base", metavar="LABEL", help="the model that is unchanged")
    options = parser.parse_args(arguments)
    build(options.folder)
    if options.runs:
        sys.exit(unchanged.report(options.folder, variant(options.of), options.runs, options.json))
    texts = [text for _, text in read_texts(options.texts, options.size)]
    items = known_items(texts, options.queries)
    print(f"{len(texts)} texts of {options.texts.name}, {len(items)} known-item queries\n")
    print(_markdown(HEAD), _markdown(["---"] * len(HEAD)), sep="\n", flush=True)
    benchmark = Benchmark(options.folder, texts, items)
    rows = []
    for one in VARIANTS:
        if options.only and one.label not in options.only:
            continue
        started = time.perf_counter()
        rows.append(benchmark.row(one))
        benchmark.forget(one)
        print(_markdown(line(rows[-1])), flush=True)
        print(f"{one.label}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    output = options.json or options.folder / "drift.json"
    output.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", "utf-8")
    wrong = [row.label for row in rows if not row.as_due]
    print(f"\nverdicts that are not due: {', '.join(wrong) or 'none'}")
    sys.exit(1 if wrong else 0)


def _markdown(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
