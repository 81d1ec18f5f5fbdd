"""Random histories by the thousand, resumable.

    python -m benchmarks.histories --histories 10000 --processes 2

Each line of the log is a block of histories with its seed; a block that is there is not told again.
A history that breaks an invariant is printed with its steps, and `--seed N` tells its block again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.histories import STEPS, History, template

BLOCK = 50


def tell(number: int) -> dict[str, Any]:
    """One block of histories; ``error`` is the first that broke something."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:

        class Here(History):
            root = Path(folder) / "template"
            revisions = template(Path(folder) / "template")

        chosen = settings(
            max_examples=BLOCK,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        error = None
        try:
            run_state_machine_as_test(seed(number)(Here), settings=chosen)
        except Exception:
            error = traceback.format_exc()
    return {
        "seed": number,
        "histories": Here.told,
        "seconds": time.perf_counter() - started,
        "error": error,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, help="tell this block alone")
    parser.add_argument("--log", type=Path, default=Path("histories.jsonl"))
    options = parser.parse_args()
    if options.seed is not None:
        print(json.dumps(tell(options.seed)), flush=True)
        return 0
    done = [json.loads(line) for line in options.log.open()] if options.log.exists() else []
    known = {it["seed"] for it in done}
    seeds = [it for it in range(options.histories // BLOCK) if it not in known]
    with (
        multiprocessing.get_context("spawn").Pool(options.processes, maxtasksperchild=10) as pool,
        options.log.open("a") as log,
    ):
        for block in pool.imap_unordered(tell, seeds):
            done.append(block)
            log.write(json.dumps(block) + "\n")
            log.flush()
            if block["error"]:
                print(f"seed {block['seed']}:\n{block['error']}", flush=True)
    failed = [it for it in done if it["error"]]
    print(
        f"{sum(it['histories'] for it in done)} histories of up to {STEPS} steps in "
        f"{sum(it['seconds'] for it in done):.0f} process seconds, {len(failed)} blocks failed; "
        f"embedmigrate {version('embedmigrate')}, hypothesis {version('hypothesis')}, "
        f"Python {sys.version.split()[0]}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
