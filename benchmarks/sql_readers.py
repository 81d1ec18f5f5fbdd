"""Readers in SQL, and through ``Collection``, while a collection is cut over and rolled back.

    python -m benchmarks.sql_readers --switches 200

A server is started for it. Each answer must be of one generation, of the model of that generation,
and the list that this model gives.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from contextlib import closing
from pathlib import Path

from tests.postgres_server import PostgresServer
from tests.test_sql_readers import make, readers_through_switches


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--switches", type=int, default=200)
    options = parser.parse_args()
    with (
        closing(PostgresServer()) as server,
        server.database() as database,
        tempfile.TemporaryDirectory() as folder,
    ):
        url = server.url(database)
        project = make(Path(folder) / "project", url, view="true")
        project.revision("fake-a")
        project.upgrade()
        project.revision("fake-b")
        # even generations are of fake-b: the first switch goes there
        began = time.perf_counter()
        told = readers_through_switches(project, url, options.switches)
        print(f"{options.switches} switches in {time.perf_counter() - began:.0f} s")
        for name, tally in told.items():
            tally["generations"] = len(tally["generations"])
            tally["longest"] = round(tally["longest"], 3)
            print(name, json.dumps(tally))


if __name__ == "__main__":
    main()
