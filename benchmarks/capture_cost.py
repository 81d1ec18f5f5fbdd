"""What recording the changes of a PostgreSQL table costs, and whether it loses any.

    python -m benchmarks.capture_cost
    python -m benchmarks.capture_cost --changes 1000000 --seconds 60

Starts a server of its own (extra `test`), which does not flush what it commits: with a disk in the
way of every commit the ratios are smaller. Prints Markdown; exits 1 when a change was lost.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from embedmigrate.context import AdapterContext
from embedmigrate.models import Recipe
from embedmigrate.sources.base import Recording
from embedmigrate.sources.sql import SqlConfig, SqlSource
from tests.postgres_server import PostgresServer

_TABLE = "CREATE TABLE articles (id bigint PRIMARY KEY, body text, topic text)"
_BODY = "repeat('some words of a text ', 40)"
_BULK = 10_000
_SINGLE = 1_000
_ROUNDS = 7
_WRITERS = 8

_CHANGES: dict[str, tuple[str, str]] = {
    "insert": (
        f"INSERT INTO articles SELECT g, {_BODY}, 't' FROM generate_series(1, {_BULK}) g",
        f"INSERT INTO articles VALUES (%s, {_BODY}, 't')",
    ),
    "update": (
        "UPDATE articles SET topic = topic || 'x'",
        "UPDATE articles SET topic = topic || 'x' WHERE id = %s",
    ),
    "delete": ("DELETE FROM articles", "DELETE FROM articles WHERE id = %s"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=100_000, help="of the backlog")
    parser.add_argument("--seconds", type=float, default=10.0, help="that writers write for")
    options = parser.parse_args()
    with closing(PostgresServer()) as server, server.database() as name:
        url = server.url(name)
        with (
            psycopg.connect(url, autocommit=True) as connection,
            closing(_source(url)) as source,
        ):
            connection.execute(_TABLE)
            recording = source.recording()
            _costs(connection, recording)
            _backlog(connection, recording, url, options.changes)
            lost = _writers(connection, recording, url, options.seconds)
    return 1 if lost else 0


def _source(url: str) -> SqlSource:
    config = SqlConfig(kind="sql", url=url, table="articles", key=("id",), text=("body",))
    here = Path.cwd()
    context = AdapterContext(root=here, work_dir=here, collection="articles")
    return SqlSource(config, Recipe(text=("body",)), context)


# -- the price of a write -------------------------------------------------------------------------


def _costs(connection: psycopg.Connection[Any], recording: Recording) -> None:
    print("| change | without | with the trigger | ratio |\n| --- | --- | --- | --- |")
    took: dict[tuple[str, str, bool], list[float]] = {}
    for number in range(_ROUNDS):
        for recorded in (False, True) if number % 2 else (True, False):
            if recorded:
                recording.install()
            else:
                recording.remove()
            for change, (bulk, _) in _CHANGES.items():
                seconds = _timed(partial(connection.execute, bulk.encode()))
                took.setdefault((f"{_BULK:,} rows", change, recorded), []).append(seconds)
            connection.execute("VACUUM articles")
            for change, (_, single) in _CHANGES.items():
                seconds = _timed(partial(_each, connection, single)) / _SINGLE
                took.setdefault(("one row", change, recorded), []).append(seconds)
            if recorded:
                recording.forget(recording.head())
            connection.execute("VACUUM articles")
    for rows, change in dict.fromkeys(it[:2] for it in took):
        without, within = (statistics.median(took[rows, change, it]) for it in (False, True))
        print(
            f"| {change} of {rows} | {_shown(without)} | {_shown(within)} "
            f"| {within / without:.2f} |"
        )
    recording.install()


def _each(connection: psycopg.Connection[Any], statement: str) -> None:
    for number in range(_SINGLE):
        connection.execute(statement.encode(), (number,))


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _shown(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds > 1e-3 else f"{seconds * 1e6:.0f} us"


# -- a backlog ------------------------------------------------------------------------------------


def _backlog(
    connection: psycopg.Connection[Any], recording: Recording, url: str, changes: int
) -> None:
    """Numbering and reading many changes, and one more while a reader keeps VACUUM away."""
    before = recording.head()
    recording.forget(before)
    with psycopg.connect(url) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM articles")
        connection.execute(
            f"INSERT INTO articles SELECT g, 'x', 't' FROM generate_series(1, {changes}) g"
        )
        numbering = _timed(recording.head)
        last = before
        started = time.perf_counter()
        while page := recording.read(last, 5001):
            last = page[-1].number
        reading = time.perf_counter() - started
        forgetting = _timed(lambda: recording.forget(last))
        idle = statistics.median(_timed(recording.head) for _ in range(50))
        one = []
        for _ in range(50):
            connection.execute("UPDATE articles SET topic = 'y' WHERE id = 1")
            one.append(_timed(lambda: recording.read(recording.head() - 1, 1)))
    print(
        f"\n{changes:,} changes: numbered in {numbering:.2f} s, read in {reading:.2f} s, forgotten "
        f"in {forgetting:.2f} s. After that, with VACUUM kept away by an open transaction, asking "
        f"takes {_shown(idle)} when nothing is new, and {_shown(statistics.median(one))} to number "
        "and read one change."
    )


# -- writers that overlap -------------------------------------------------------------------------


def _writers(
    connection: psycopg.Connection[Any], recording: Recording, url: str, seconds: float
) -> int:
    """Changes that were committed and never read, and the same of numbers taken by writers."""
    connection.execute("CREATE TABLE control (number bigserial PRIMARY KEY, id bigint)")
    committed: list[int] = []
    until = time.monotonic() + seconds

    def write(writer: int) -> None:
        chance, id = random.Random(writer), writer * 1_000_000_000 + 1_000_000_000
        with psycopg.connect(url) as own:
            while time.monotonic() < until:
                ids = list(range(id, id + chance.randint(1, 5)))
                for it in ids:
                    own.execute("INSERT INTO articles VALUES (%s, 'x', 't')", (it,))
                    own.execute("INSERT INTO control (id) VALUES (%s)", (it,))
                    time.sleep(chance.random() * 0.004)
                id += len(ids)
                if chance.random() < 0.2:
                    own.rollback()
                else:
                    own.commit()
                    committed.extend(ids)

    last, control = recording.head(), 0
    seen: set[int] = set()
    control_seen: set[int] = set()

    def read() -> None:
        nonlocal last, control
        for change in recording.read(last, 1000):
            last = change.number
            seen.add(int(change.document_id))
        recording.forget(last)
        query = "SELECT number, id FROM control WHERE number > %s ORDER BY number"
        for number, id in connection.execute(query, (control,)).fetchall():
            control = number
            control_seen.add(id)

    threads = [threading.Thread(target=write, args=(it,)) for it in range(_WRITERS)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        read()
    for thread in threads:
        thread.join()
    while last < recording.head():
        read()
    lost = len(set(committed) - seen)
    print(
        f"\n{_WRITERS} writers whose transactions overlap: {len(committed):,} changes committed in "
        f"{seconds:.0f} s, {lost} lost. Numbers that the writers take lose "
        f"{len(set(committed) - control_seen):,} of the same."
    )
    return lost


if __name__ == "__main__":
    sys.exit(main())
