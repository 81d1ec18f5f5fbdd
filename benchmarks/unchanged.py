"""The same model again and again, in every way in which it may be run: no alarm is due.

Each run is a process of its own, which loads the model with one or two threads and answers the
canaries of the witness as they come out of batches of 1 to 256 texts, in another order each time.
``python -m benchmarks.drift FOLDER --runs N`` starts them; the processes run this module.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.changed_embedders import ChangedEmbedder
from benchmarks.model_variants import Variant, load, variant
from benchmarks.witnessing import Verdict, canaries, compare, record
from embedmigrate.embedders.base import Embedder, Vectors

SIZES = (1, 2, 3, 5, 8, 16, 32, 64, 128, 256)
THREADS = (1, 2)


@dataclass(frozen=True)
class Run:
    """One process."""

    size: int
    """Texts a batch."""
    threads: int
    """Intra-op threads of the runtime."""
    seed: int
    """Of the order in which the texts are put into batches."""


@dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    run: Run
    alarm: bool
    verdict: str
    figures: dict[str, float | None] = field(default_factory=dict)


class InCompany(ChangedEmbedder):
    """Answers with the vectors that ``announced`` texts get in batches of ``size``.

    Each batch is one run of the graph, padded to its longest text, and full: texts are repeated
    where they do not suffice. Models that run one text at a time, whatever they are given, are
    left to it. Another text than those announced is a ``LookupError``: its vector would prove
    nothing about batches.
    """

    def __init__(self, inner: Embedder, announced: Sequence[str], size: int, seed: int) -> None:
        super().__init__(inner)
        if getattr(inner, "tokens_a_run", 1) > 1:
            inner.tokens_a_run = sys.maxsize  # type: ignore[attr-defined]
        draw = random.Random(seed)
        texts = list(announced)
        texts += draw.choices(texts, k=-len(texts) % size)
        draw.shuffle(texts)
        self._batches = [texts[start : start + size] for start in range(0, len(texts), size)]
        self._known: dict[str, dict[str, Vectors]] = {}

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        return self._answer("embed_documents", self.model.document_prompt, texts)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return self._answer("embed_queries", self.model.query_prompt, texts)

    def change(self, vectors: Vectors) -> Vectors:
        return vectors

    def _answer(self, method: str, prompt: str, texts: Sequence[str]) -> Vectors:
        if prompt not in self._known:
            embed = getattr(self.inner, method)
            self._known[prompt] = {
                text: vector
                for batch in self._batches
                for text, vector in zip(batch, embed(batch), strict=True)
            }
        return np.stack([self._known[prompt][text] for text in texts])


def schedule(runs: int) -> list[Run]:
    """Every size with every number of threads, then again in another order of texts."""
    ways = [(size, threads) for size in SIZES for threads in THREADS]
    return [Run(*ways[number % len(ways)], seed=number) for number in range(runs)]


def report(folder: Path, one: Variant, runs: int, output: Path | None) -> int:
    """Record ``one`` here, run it ``runs`` times, print what came of it; the exit status."""
    embedder = load(one, folder)
    recorded = record(embedder)
    embedder.close()
    outcomes = []
    with tempfile.TemporaryDirectory() as name:
        witness = Path(name) / "witness.json"
        witness.write_text(json.dumps(recorded), "utf-8")
        for run in schedule(runs):
            outcomes.append(in_a_process(folder, one, witness, run))
            print(json.dumps(asdict(outcomes[-1])), file=sys.stderr, flush=True)
    path = output or folder / f"unchanged-{one.label}.json"
    path.write_text(json.dumps([asdict(it) for it in outcomes], indent=2) + "\n", "utf-8")
    alarms = sum(outcome.alarm for outcome in outcomes)
    print(f"{one.label}: {alarms} alarms in {len(outcomes)} runs")
    for figure in sorted({name for outcome in outcomes for name in outcome.figures}):
        found = [outcome.figures[figure] or 0.0 for outcome in outcomes]
        print(f"  {figure}: at most {max(found):.2g}")
    return 1 if alarms else 0


def in_a_process(folder: Path, one: Variant, witness: Path, run: Run) -> Outcome:
    """Load and check ``one`` in a new process; an error there is an error here."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.unchanged", str(folder), one.label, str(witness)),
            *(str(run.size), str(run.threads), str(run.seed)),
        ],
        check=True,
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": str(run.threads)},
    )
    verdict = json.loads(done.stdout)
    return Outcome(run, **verdict)


def checked(folder: Path, one: Variant, witness: Path, run: Run) -> Verdict:
    """One check of the unchanged model, in this process, run as ``run`` says."""
    limit_threads(run.threads)
    embedder = InCompany(load(one, folder), canaries(), run.size, run.seed)
    return compare(json.loads(witness.read_text("utf-8")), embedder)


def limit_threads(threads: int) -> None:
    """Sessions of onnxruntime that are opened later use so many threads for an operator.

    The provider leaves that to the runtime; torch obeys ``OMP_NUM_THREADS``.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions

    def limited() -> object:
        made = options()
        made.intra_op_num_threads = threads
        return made

    onnxruntime.SessionOptions = limited


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("label")
    parser.add_argument("witness", type=Path)
    for number in ("size", "threads", "seed"):
        parser.add_argument(number, type=int)
    options = parser.parse_args(arguments)
    run = Run(options.size, options.threads, options.seed)
    verdict = checked(options.folder, variant(options.label), options.witness, run)
    print(json.dumps({"alarm": verdict.alarm, **asdict(verdict)}))


if __name__ == "__main__":
    main()
