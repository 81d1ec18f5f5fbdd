"""An application that searches a SQL table all the time, while its index is migrated and back.

    python examples/02_sql_source/application.py [FOLDER]

The documents are rows of an SQLite table, which is edited in the middle of the migration. The
commands run in processes of their own; the application is this process and is never restarted.
FOLDER is a new folder for the project; without it, `build` beside this file is made anew.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from embedmigrate import Collection
from embedmigrate.errors import EmbedMigrateError

HERE = Path(__file__).resolve().parent
DATA = HERE.parent / "data"

NEW = (1, "Sourdough", "Flour, water and salt, left to ferment overnight, make a loaf of bread.", 1)
NEW_QUERY = "fermenting flour to bake bread"


def main(arguments: Sequence[str]) -> None:
    project = make_project(arguments)
    run(project, "init", "migrations")
    run(project, "pin", "short")
    run(project, "pin", "long")
    run(project, "revision", "-m", "first index", "--collection", "articles", "--to", "short")
    run(project, "upgrade")
    run(project, "revision", "-m", "longer vectors", "--collection", "articles", "--to", "long")

    with Collection.open("articles", project / "embedmigrate.toml") as articles:
        with Visitors(articles) as visitors:
            visitors.wait_for(generation=1)
            run(project, "upgrade", "--until", "ready")
            edited, deleted = edit(project)
            run(project, "cutover")
            visitors.wait_for(generation=2)
            report(articles, edited, deleted)
            run(project, "rollback", "articles", "--reason", "a rehearsal")
            visitors.wait_for(generation=3)
            report(articles, edited, deleted)
        print(visitors.summary())
    if visitors.failures:
        sys.exit(1)


# -- the database -----------------------------------------------------------------------------


def make_project(arguments: Sequence[str]) -> Path:
    if arguments:
        project = Path(arguments[0]).resolve()
    else:
        project = HERE / "build"
        shutil.rmtree(project, ignore_errors=True)
    project.mkdir(parents=True)
    shutil.copy(HERE / "embedmigrate.toml", project)
    with database(project) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(
            "CREATE TABLE articles "
            "(id INTEGER PRIMARY KEY, title TEXT, body TEXT, published INTEGER NOT NULL)"
        )
        connection.executemany(
            "INSERT INTO articles VALUES (?, ?, ?, 1)",
            ((int(it["_id"]), it["title"], it["text"]) for it in records("corpus.jsonl")),
        )
    return project


def edit(project: Path) -> tuple[int, int]:
    """What happens in any system while a migration runs: a row is new, one changes, one goes."""
    with database(project) as connection:
        changed, gone = connection.execute("SELECT id FROM articles ORDER BY id LIMIT 2")
        connection.execute("INSERT INTO articles VALUES (?, ?, ?, ?)", NEW)
        connection.execute(
            "UPDATE articles SET title = 'Tides', body = 'The moon raises the sea twice a day.' "
            "WHERE id = ?",
            changed,
        )
        connection.execute("DELETE FROM articles WHERE id = ?", gone)
    print(f"  the table: row 1 is new, row {changed[0]} was edited, row {gone[0]} deleted")
    return changed[0], gone[0]


@contextmanager
def database(project: Path) -> Iterator[sqlite3.Connection]:
    """A connection whose changes are committed when the block ends."""
    with closing(sqlite3.connect(project / "articles.db")) as connection, connection:
        yield connection


def records(name: str) -> Iterator[dict[str, str]]:
    for line in (DATA / name).read_text("utf-8").splitlines():
        yield json.loads(line)


# -- the application --------------------------------------------------------------------------


class Visitors:
    """A thread that searches without pause and takes notes of what it was given."""

    def __init__(self, articles: Collection) -> None:
        self._articles = articles
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._search, name="visitors")
        self.answers: Counter[tuple[int, str, str]] = Counter()
        self.failures: list[str] = []

    def _search(self) -> None:
        for query in itertools.cycle([record["text"] for record in records("queries.jsonl")]):
            if self._leave.is_set():
                return
            try:
                found = self._articles.search(query, k=5)
            except EmbedMigrateError as error:
                self.failures.append(error.message)
                continue
            self.answers[found.generation, found.model, found.index] += 1
            if len(found.hits) != 5:
                self.failures.append(f"{len(found.hits)} hits instead of 5")

    def wait_for(self, generation: int) -> None:
        deadline = time.monotonic() + 60
        while not any(seen == generation for seen, _, _ in list(self.answers)):
            if time.monotonic() > deadline or not self._thread.is_alive():
                sys.exit(f"no answer of generation {generation}")
            time.sleep(0.05)

    def summary(self) -> str:
        lines = [f"\n{self.answers.total():,} searches meanwhile, {len(self.failures)} failed"]
        lines += [
            f"  generation {generation}: {count:>6,} answers of {model}, from {index}"
            for (generation, model, index), count in sorted(self.answers.items())
        ]
        return "\n".join(lines + [f"  {failure}" for failure in self.failures[:5]])

    def __enter__(self) -> Visitors:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._leave.set()
        self._thread.join()


def report(articles: Collection, edited: int, deleted: int) -> None:
    """Whether the edits are in the index that is served now."""
    new = articles.search(NEW_QUERY, k=1)
    changed = articles.search("the moon and the sea", k=1)
    everything = {hit.id for hit in articles.search(NEW_QUERY, k=1000).hits}
    print(
        f"  the application, generation {new.generation}: new row "
        f"{'found' if new.hits[0].id == str(NEW[0]) else 'MISSING'}, edited row "
        f"{'found' if changed.hits[0].id == str(edited) else 'MISSING'}, deleted row "
        f"{'STILL THERE' if str(deleted) in everything else 'gone'}"
    )


def run(project: Path, *words: str) -> None:
    """Run ``embedmigrate words…`` in the project and show what it says."""
    typed = " ".join(f'"{word}"' if " " in word else word for word in words)
    print(f"$ embedmigrate -q {typed}", flush=True)
    environment = {k: v for k, v in os.environ.items() if k != "EMBEDMIGRATE_CONFIG"}
    command = [sys.executable, "-m", "embedmigrate", "-q", *words]
    done = subprocess.run(
        command, cwd=project, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    print(done.stdout.replace(f"{project}{os.sep}", ""), end="", flush=True)
    if done.returncode:
        sys.exit(f"exit status {done.returncode}")


if __name__ == "__main__":
    main(sys.argv[1:])
