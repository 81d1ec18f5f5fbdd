"""kill -9 at random moments of a migration: is the end the same, and what was paid for twice?

    python -m benchmarks.kill                          5,200 documents, 24 kills, a real model
    python -m benchmarks.kill --seed 7 --kills 100     the same moments again, or more of them
    python -m benchmarks.kill --to minilm              a real model that is slow
    python -m benchmarks.kill --to fake-b --delay 20   20 ms a call instead of a model

Each round copies a project, starts `embedmigrate upgrade`, kills it at a random moment of a random
phase, up to three times, and lets the same command finish. The index, the catalog's figures and
the answers to queries must then equal those of a migration that nobody disturbed, and at most two
batches a kill may have been embedded again. Exits 1 when that is not so.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.faults.killing import PHASES, campaign
from tests.faults.project import Faulty
from tests.workspace import TOPICS, documents


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", type=int, default=5200)
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--live", default="wordllama", help="model that is left")
    parser.add_argument("--to", default="wordllama-64", help="model that is moved to")
    parser.add_argument("--delay", type=float, default=0, help="ms a call of fake-b takes at least")
    options = parser.parse_args(arguments)
    print(
        f"seed {options.seed}: {options.kills} kills of a migration of {options.documents} "
        f"documents, {options.live} -> {options.to}, batches of {options.batch_size}",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="kill-") as name:
        folder = Path(name)
        template = Faulty.prepared(
            folder / "template",
            documents(options.documents),
            options.live,
            options.to,
            batch_size=options.batch_size,
            delay_ms=options.delay,
        )
        result = campaign(
            template.copy,
            folder,
            kills=options.kills,
            seed=options.seed,
            batch_size=options.batch_size,
            queries=list(TOPICS.values()),
            say=lambda text: print(text, flush=True),
        )
    print("\n".join(["", *result.table(), ""]))
    print(
        f"{len(result.kills)} kills ({result.missed} came too late) in "
        f"{len(result.phases_aimed_at)} of {len(PHASES)} phases; "
        f"states found: {', '.join(sorted(result.states_found))}"
    )
    print(
        f"texts embedded again: {result.embedded_again} in all, at most "
        f"{result.most_embedded_again} a kill; allowed are {2 * result.batch_size}"
    )
    print("\n".join(result.differences) or "every end state equals the undisturbed one")
    sys.exit(0 if result.good else 1)


if __name__ == "__main__":
    main()
