"""How long an application takes to start on a large index, and to say whether it is sound.

    python -m benchmarks.opening build/opening                a million vectors, 20 starts each
    python -m benchmarks.opening build/opening --factory IVF1024,Flat --dead 100000
    python -m benchmarks.opening build/opening --profile      where the time goes

The index is built once below the folder that is named (1.7 GB for a million vectors of 384
dimensions, 3.1 GB with a structure for searching) and removed at the end unless ``--keep`` is
given. The model is a hash, which takes no time to load. Each start is a process of its own, with
the page cache as it is, and after the index was evicted from it (``cold``, Linux). Exits 1 when a
median of ``Collection.open()`` and ``health()`` together is a second or more.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import numpy as np

from embedmigrate import Collection, command, resolve
from embedmigrate.config import Settings, load_settings
from embedmigrate.stores.base import Row

ROOT = Path(__file__).parents[1]
DIMENSIONS = 384
BATCH = 512
LIMIT_SECONDS = 1.0
SHOWN = 25

CONFIGURATION = """
[embedmigrate]
script_location = "migrations"
catalog = "sqlite:///catalog.db"

[collections.texts]
model = "hash"
source = {{ kind = "jsonl", path = "texts.jsonl", id = "_id", text = "text", metadata = ["n"] }}
store = {{ kind = "faiss", path = "indexes", factory = "{factory}" }}

[models.hash]
provider = "hashing-not-a-model"
dimensions = {dimensions}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the index is built")
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--factory", default="Flat")
    parser.add_argument("--dead", type=int, default=0, help="vectors that are deleted again")
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--profile", action="store_true", help="of one start, instead of figures")
    parser.add_argument("--keep", action="store_true", help="keep the index for the next time")
    parser.add_argument("--start", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.start:
        print(json.dumps(start(options.folder, profile=options.profile)))
        return
    project = options.folder / f"{options.factory}-{options.vectors}-{options.dead}"
    try:
        if not (project / "built").exists():
            build(project, options.factory, options.vectors, options.dead)
        good = options.profile or report(project, options.starts)
        if options.profile:
            _start(project, "--profile")
    finally:
        if not options.keep:
            shutil.rmtree(project, ignore_errors=True)
    sys.exit(0 if good else 1)


# -- the index ----------------------------------------------------------------------------------


def build(project: Path, factory: str, vectors: int, dead: int) -> None:
    """A project whose live index holds ``vectors`` random vectors, stamped as its model's.

    A dozen documents are migrated, so that everything is as it always is; the rest is written
    through the store, since making a million texts and comparing them again measures something
    else.
    """
    shutil.rmtree(project, ignore_errors=True)
    project.mkdir(parents=True)
    (project / "embedmigrate.toml").write_text(
        CONFIGURATION.format(factory=factory, dimensions=DIMENSIONS), "utf-8"
    )
    lines = (json.dumps({"_id": f"real-{n}", "text": f"text {n}", "n": n}) for n in range(12))
    (project / "texts.jsonl").write_text("\n".join(lines), "utf-8")
    command.init(Path("migrations"), root=project)
    command.pin(load_settings(project / "embedmigrate.toml", allow_unpinned=True), "hash")
    settings = _settings(project)
    command.revision(settings, "first index", collection="texts")
    command.upgrade(settings)
    began = time.perf_counter()
    _fill(settings, vectors - 12, dead)
    size = sum(path.stat().st_size for path in project.rglob("*") if path.is_file())
    print(
        f"{vectors} vectors, {dead} of them dead, {factory}, {size / 1e9:.2f} GB: "
        f"written in {time.perf_counter() - began:.0f} s",
        flush=True,
    )
    (project / "built").touch()


def _fill(settings: Settings, vectors: int, dead: int) -> None:
    model = resolve.pinned(settings, "hash").fingerprint
    random = np.random.default_rng(0)
    with closing(settings.open_store("texts").writer("texts-0001", epoch=10**6, run="1")) as writer:
        for first in range(0, vectors, BATCH):
            rows = [_row(n) for n in range(first, min(first + BATCH, vectors))]
            some = random.standard_normal((len(rows), DIMENSIONS), dtype=np.float32)
            some /= np.linalg.norm(some, axis=1, keepdims=True)
            writer.write(rows, some, space=model)
        for first in range(0, dead, BATCH):
            writer.delete([(_row(n).id, 2) for n in range(first, min(first + BATCH, dead))])
        writer.build()


def _row(number: int) -> Row:
    id = f"document-{number:08d}"
    digest = sha256(id.encode()).digest()
    return Row(id, 0, 1, digest, digest[::-1], {"n": number})


# -- the starts ---------------------------------------------------------------------------------


def report(project: Path, starts: int) -> bool:
    """Print the figures; whether the medians are below the limit."""
    good = True
    for cold in (False, True) if hasattr(os, "posix_fadvise") else (False,):
        found = []
        for _ in range(starts):
            if cold:
                _evict(project)
            found.append(_start(project))
        print(f"\n{'cold' if cold else 'warm'}, {starts} starts     median  greatest (ms)")
        for name in found[0]:
            values = [one[name] * 1000 for one in found]
            print(f"{name:24} {statistics.median(values):8.1f} {max(values):9.1f}", flush=True)
        median = statistics.median(one["open + health"] for one in found)
        good &= median < LIMIT_SECONDS
    return good


def _start(project: Path, *options: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.opening", str(project), "--start", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _evict(project: Path) -> None:
    """Ask the kernel to forget what it has read of the index."""
    for path in project.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # what is not on the disk yet cannot be forgotten
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def start(project: Path, *, profile: bool) -> dict[str, float]:
    """Open the collection and ask for its health as a new application does: seconds of each."""
    settings = _settings(project)
    profiler = cProfile.Profile()
    if profile:
        profiler.enable()
    began = time.perf_counter()
    with Collection.open("texts", settings) as texts:
        opened = time.perf_counter()
        first = texts.health()
        answered = time.perf_counter()
        again = texts.health()
        asked_again = time.perf_counter()
        profiler.disable()
        texts.search("anything")
        searched = time.perf_counter()
    checked = time.perf_counter()
    serving = command.check_serving(settings)
    over = time.perf_counter()
    assert first["ok"] and again["ok"] and serving["sound"], (first, serving)
    if profile:
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(SHOWN)
    return {
        "open + health": answered - began,
        "open": opened - began,
        "health": answered - opened,
        "health again": asked_again - answered,
        "check --serving": over - checked,
        "first search": searched - asked_again,
    }


def _settings(project: Path) -> Settings:
    return load_settings(project / "embedmigrate.toml")


if __name__ == "__main__":
    main()
