"""Peak anonymous memory of a migration, for growing collections: it must not grow with them.

Each size runs `embedmigrate upgrade` in a process of its own, with the static model wordllama; a
thread here samples RssAnon of that process (Linux only: /proc).

    python -m benchmarks.memory TEXTS.jsonl --sizes 50000 100000 200000
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from heapq import nlargest
from pathlib import Path

from embedmigrate import command
from embedmigrate.config import load_settings

CONFIGURATION = """
[embedmigrate]
script_location = "migrations"
catalog = "sqlite:///catalog.db"

[collections.texts]
model = "wordllama"
source = { kind = "jsonl", path = "texts.jsonl", id = "_id", text = "text" }
store = { kind = "faiss", path = "indexes" }

[models.wordllama]
provider = "static"
package = "wordllama"
weights = "weights/l2_supercat_256.safetensors"
tokenizer = "tokenizers/l2_supercat_tokenizer_config.json"
normalize = true
"""
SAMPLE_SECONDS = 0.05
LONGEST = 512


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("texts", type=Path, help="JSONL with _id and text; see benchmarks.corpora")
    parser.add_argument("--sizes", type=int, nargs="+", default=[50_000, 100_000, 200_000])
    options = parser.parse_args(arguments)
    print("documents  seconds  peak RssAnon (MB)")
    for size in options.sizes:
        seconds, peak = measure(options.texts, size)
        print(f"{size:9d}  {seconds:7.1f}  {peak / 1024:.0f}", flush=True)


def measure(texts: Path, size: int) -> tuple[float, int]:
    """Seconds, and peak RssAnon in kB, of migrating the first ``size`` texts."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "embedmigrate.toml").write_text(CONFIGURATION, "utf-8")
        choose(texts, size, root / "texts.jsonl")
        command.init(Path("migrations"), root=root)
        command.pin(load_settings(root / "embedmigrate.toml", allow_unpinned=True), "wordllama")
        settings = load_settings(root / "embedmigrate.toml")
        command.revision(settings, "first index", collection="texts")
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "embedmigrate", "--quiet", "upgrade"], cwd=root
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, anonymous_kilobytes(process.pid))
            time.sleep(SAMPLE_SECONDS)
        if process.returncode:
            sys.exit(f"the migration of {size} documents failed")
        return time.perf_counter() - started, peak


def choose(texts: Path, size: int, chosen: Path) -> None:
    """Write ``size`` lines of ``texts``: the longest ones, and others evenly spaced.

    The longest texts move the peak, so every size has to hold the same ones.
    """
    lengths = [len(line) for line in texts.read_bytes().split(b"\n") if line]
    if len(lengths) < size:
        sys.exit(f"{texts} has {len(lengths)} lines, fewer than {size}")
    wanted = set(nlargest(min(LONGEST, size), range(len(lengths)), key=lengths.__getitem__))
    rest = [number for number in range(len(lengths)) if number not in wanted]
    places = size - len(wanted)
    wanted.update(rest[place * len(rest) // places] for place in range(places))
    with texts.open("rb") as lines, chosen.open("wb") as file:
        file.writelines(line for number, line in enumerate(lines) if number in wanted)


def anonymous_kilobytes(pid: int) -> int:
    """RssAnon of a process in kB; 0 when it is just ending."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


if __name__ == "__main__":
    main()
