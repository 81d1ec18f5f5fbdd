"""Other processes: killed while they write, and measured while they search."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tests.stores.store_helpers import SPACE, faiss_store, manifest, rows, vectors

INDEX = "articles-0001"
BATCH = 64
ROOT = Path(__file__).parents[2]


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


WRITE_FOR_EVER = f"""
import sys
from itertools import count
from pathlib import Path
from tests.stores.store_helpers import SPACE, faiss_store, rows, vectors

writer = faiss_store(Path(sys.argv[1])).writer("{INDEX}", epoch=int(sys.argv[2]), run="run")
for number in count(int(sys.argv[3])):
    some = rows(range(number * {BATCH}, (number + 1) * {BATCH}))
    writer.write(some, vectors({BATCH}, seed=number), space=SPACE)
    print(number, flush=True)
"""


def test_after_kill_9_every_acknowledged_write_is_there_and_nothing_half(tmp_path: Path) -> None:
    store = faiss_store(tmp_path)
    store.create(manifest())
    batches = 0
    for epoch in range(1, 6):
        with start(WRITE_FOR_EVER, tmp_path, epoch, batches) as process:
            assert process.stdout is not None
            acknowledged = int(process.stdout.readline())
            time.sleep(0.02 * epoch)
            process.send_signal(signal.SIGKILL)
            for line in process.stdout:
                acknowledged = int(line)
        with closing(store.reader(INDEX)) as reader:
            assert reader.problems() == []
            states = list(reader.states())
            assert len(states) % BATCH == 0
            batches = len(states) // BATCH
            # The last commit may have been cut off from its acknowledgement.
            assert batches in (acknowledged + 1, acknowledged + 2)
            assert [state.id for state in states] == [r.id for r in rows(range(len(states)))]
            expected = np.concatenate([vectors(BATCH, seed=number) for number in range(batches)])
            found = reader.vectors([(state.id, state.chunk) for state in states])
            np.testing.assert_array_equal(found, expected)


SEARCH_AND_MEASURE = f"""
import sys
from pathlib import Path
from tests.stores.store_helpers import faiss_store, rows, vectors

def anonymous_bytes():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return 1024 * int(line.split()[1])

reader = faiss_store(Path(sys.argv[1])).reader("{INDEX}")
before = anonymous_bytes()
for queries in (1, 32):
    reader.search(vectors(queries, seed=1, dimensions=64), 10)
print(reader.statistics().vectors, anonymous_bytes(), anonymous_bytes() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="RssAnon is Linux's figure")
def test_searching_four_times_the_vectors_takes_no_more_memory(tmp_path: Path) -> None:
    """50,000 x 64 are 12.8 MB of vectors and 200,000 are 51.2 MB; neither is ever in memory."""
    measured = []
    for thousands in (50, 200):
        store = faiss_store(tmp_path / str(thousands))
        store.create(manifest(dimensions=64))
        with closing(store.writer(INDEX, epoch=1, run="run-1")) as writer:
            for number in range(0, thousands, 10):
                some = rows(range(number * 1000, (number + 10) * 1000))
                writer.write(some, vectors(len(some), seed=number, dimensions=64), space=SPACE)
            writer.delete([(f"d{number:05d}", 2) for number in range(0, 40_000, 40)])
        with start(SEARCH_AND_MEASURE, tmp_path / str(thousands)) as process:
            assert process.stdout is not None
            measured.append([int(value) for value in process.stdout.read().split()])
    (few, few_bytes, _), (many, many_bytes, grown) = measured
    assert (few, many) == (49_000, 199_000)
    assert many_bytes - few_bytes < 8_000_000
    assert grown < 25_000_000
