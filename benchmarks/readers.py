"""Search through 200 cut-overs and rollbacks: does any answer mix a model and an index?

    python -m benchmarks.readers                       200 switches, wordllama and MiniLM int8
    python -m benchmarks.readers --switches 20 --to wordllama-64

A thread and a second process search all the time while this process cuts over and rolls back.
Every answer is compared with the one right list of the model that it names, made by brute force.
Exits 1 for an error, an empty answer, a mixed one, or a generation older than the one before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from embedmigrate import Collection, command
from embedmigrate.config import load_settings
from tests.faults.project import ROOT, Faulty
from tests.faults.reading import Reader, Seen, Truth, switch

DATA = ROOT / "examples" / "data"
CATCH_UP_SECONDS = 30.0
PAUSE_SECONDS = 0.002


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--switches", type=int, default=200)
    parser.add_argument("--live", default="wordllama")
    parser.add_argument("--to", default="minilm")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.read is not None:
        _read(options.read)
        return
    with tempfile.TemporaryDirectory(prefix="readers-") as folder:
        project, truth = _project(Path(folder), options)
        began = time.monotonic()
        seen = _switches(project, truth, options.switches)
        took = time.monotonic() - began
    print(f"{options.switches} switches between {options.live} and {options.to}: {took:.0f} s")
    for name, one in seen.items():
        print(
            f"{name}: {one.searches} searches, {len(one.errors)} errors, {one.empty} empty, "
            f"{one.mismatched} mismatched, {one.went_back} of an older generation; "
            f"{len(one.generations)} generations seen, the last one {one.generation}; "
            f"longest stall {one.longest_stall * 1000:.0f} ms"
        )
        print("\n".join(one.errors[:5]), end="\n" if one.errors else "")
    current = options.switches + 3  # two cut-overs and a rollback came before
    good = all(one.faults == 0 and one.generation == current for one in seen.values())
    sys.exit(0 if good else 1)


def _project(folder: Path, options: argparse.Namespace) -> tuple[Faulty, Truth]:
    """Both models have an index; the first one is live."""
    lines = (DATA / "corpus.jsonl").read_text("utf-8").splitlines()[: options.documents]
    # titles are enough to search, and verification embeds a sample again at every cut-over
    corpus = [{**json.loads(line), "text": "", "topic": ""} for line in lines]
    project = Faulty.prepared(folder / "project", corpus, options.live, options.to, batch_size=64)
    project.upgrade()
    command.rollback(project.settings, "articles")
    lines = (DATA / "queries.jsonl").read_text("utf-8").splitlines()[: options.queries]
    queries = [json.loads(line)["text"] for line in lines]
    return project, Truth.of(project.settings, [options.live, options.to], queries)


def _switches(project: Faulty, truth: Truth, switches: int) -> dict[str, Seen]:
    (project.root / "truth.json").write_text(truth.to_json(), "utf-8")
    other = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.readers", "--read", str(project.root)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with Collection.open("articles", project.settings) as articles:
        reader = Reader(articles, truth, pause=PAUSE_SECONDS)
        reader.start()
        assert other.stdout is not None
        assert other.stdout.readline() == "reading\n"
        for number in range(1, switches + 1):
            switch(project, number)
            if number % 20 == 0:
                print(f"{number} switches, {reader.seen.searches} searches", flush=True)
        current = project.status()["live"]["generation"]
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while reader.seen.generation < current and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1)  # the other process is asked once it has had the time to see it, too
        thread = reader.stop()
    answer, _ = other.communicate("over\n", timeout=60)
    return {"thread": thread, "second process": Seen.from_json(answer)}


def _read(root: Path) -> None:
    """The second process: read until a line comes in, then say what was seen."""
    truth = Truth.from_json((root / "truth.json").read_text("utf-8"))
    with Collection.open("articles", load_settings(root / "embedmigrate.toml")) as articles:
        reader = Reader(articles, truth, pause=PAUSE_SECONDS)
        reader.start()
        print("reading", flush=True)
        sys.stdin.readline()
        print(reader.stop().to_json(), flush=True)


if __name__ == "__main__":
    main()
