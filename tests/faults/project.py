"""A project whose runner is started in a process of its own, watched, killed and checked."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedmigrate import Collection, command
from embedmigrate.catalog import Catalog, indexes, routes, runs
from embedmigrate.embedders.base import Vectors
from tests.faults.child import asked_is_logged
from tests.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
LOG = "asked.log"

GENERAL = """
[embedmigrate]
script_location = "migrations"
catalog = "sqlite:///catalog.db"
batch_size = {batch_size}
"""

Fault = Mapping[str, Any]


def kill_at(at: str, when: str = "before", call: int = 1) -> Fault:
    """The process is killed before or after the ``call``-th call of a function."""
    return {"at": at, "do": "send", "when": when, "call": call, "with_": "SIGKILL"}


class Runner:
    """A command under way. Its standard error is read as it comes, line by line, with the time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[tuple[float, str]] = []
        self._news = threading.Condition()
        self._over = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.lines.append((time.monotonic(), line.rstrip("\n")))
                self._news.notify_all()
        with self._news:
            self._over = True
            self._news.notify_all()

    def wait_for(self, text: str, seconds: float = 60) -> bool:
        """Wait until a line holds ``text``; False when the command ended without one."""
        with self._news:
            self._news.wait_for(lambda: self._over or self.said(text), seconds)
            return self.said(text)

    def said(self, text: str) -> bool:
        return any(text in line for _, line in self.lines)

    @property
    def errors(self) -> str:
        return "\n".join(line for _, line in self.lines)

    def wait_until_stopped(self) -> None:
        """Wait until SIGSTOP has taken hold: a SIGCONT that comes before it would be lost."""
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), self.errors

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process and to every child that it may have."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)

    @property
    def status(self) -> int | None:
        """The exit status, or minus the signal that killed it; None while it runs."""
        return self.process.returncode

    def finish(self, seconds: float = 120) -> int:
        """Wait for the end and return the exit status."""
        status = self.process.wait(seconds)
        self._reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return status


@dataclass(frozen=True)
class EndState:
    """What readers can see of a collection, and what the catalog counted."""

    rows: dict[tuple[str, int], tuple[str, str]]
    """(id, chunk) -> content hash and metadata hash."""
    vectors: Vectors
    """In the order of ``rows``."""
    answers: dict[str, list[tuple[str, float]]]
    model: str
    generation: int
    counts: tuple[int, int, int]
    """Documents done, skipped and in total, of the run that built the live index."""
    settled: bool

    def differences(self, expected: EndState, tolerance: float = 1e-6) -> list[str]:
        """What is not as expected, in words; empty when a reader cannot tell the two apart."""
        found = [
            f"{name}: {mine}, expected {theirs}"
            for name, mine, theirs in (
                ("model", self.model, expected.model),
                ("generation", self.generation, expected.generation),
                ("counts", self.counts, expected.counts),
                ("settled", self.settled, expected.settled),
            )
            if mine != theirs
        ]
        missing, extra = expected.rows.keys() - self.rows, self.rows.keys() - expected.rows
        if missing:
            found.append(f"{len(missing)} documents are lost, {min(missing)[0]} for one")
        if extra:
            found.append(f"{len(extra)} documents too many, {min(extra)[0]} for one")
        if missing or extra:
            return found
        changed = sum(self.rows[key] != hashes for key, hashes in expected.rows.items())
        if changed:
            found.append(f"{changed} documents have other hashes")
        if list(self.rows) != list(expected.rows):
            found.append("the rows are in another order")
        elif (apart := float(np.abs(self.vectors - expected.vectors).max(initial=0))) > tolerance:
            found.append(f"vectors differ by {apart:.2g}")
        for query, answer in expected.answers.items():
            mine = self.answers[query]
            if [hit for hit, _ in mine] != [hit for hit, _ in answer] or any(
                abs(a - b) > tolerance for (_, a), (_, b) in zip(mine, answer, strict=True)
            ):
                found.append(f"{query!r} is answered {mine}, expected {answer}")
        return found


@dataclass
class Faulty(Workspace):
    """A workspace whose commands run in processes that can be broken."""

    @classmethod
    def prepared(
        cls,
        root: Path,
        corpus: Iterable[Mapping[str, Any]],
        live: str,
        pending: str,
        *,
        batch_size: int,
        delay_ms: float = 0,
        more_models: str = "",
    ) -> Faulty:
        """A project with the model ``live`` live, and a revision to ``pending`` to be applied.

        ``delay_ms`` is what a call of `fake-b` takes at least; ``more_models`` is TOML.
        """
        general = GENERAL.format(batch_size=batch_size) + more_models
        cls.make(root, corpus=corpus, general=general, pin=(live, pending))
        project = cls(root)
        project.edit_config('model = "wordllama"', f'model = "{live}"')
        if delay_ms:
            project.edit_config("dimensions = 48", f"dimensions = 48\ndelay_ms = {delay_ms}")
        project.revision(live, "first index")
        project.upgrade()
        project.revision(pending, "move")
        return project

    def copy(self, root: Path) -> Faulty:
        """The same project in another folder."""
        return Faulty(Path(shutil.copytree(self.root, root)))

    def begin(
        self,
        *args: str,
        faults: Iterable[Fault] = (),
        constants: Mapping[str, Any] | None = None,
        off: Iterable[Callable[[], None]] = (),
        **popen: Any,
    ) -> Runner:
        """Start a command; see ``tests.faults.child`` for what can be broken in it."""
        plan = {
            "log": LOG,
            "off": [protection.__name__ for protection in off],
            "faults": list(faults),
            "constants": dict(constants or {}),
        }
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.child", json.dumps(plan), *args],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **popen,
        )
        return Runner(process)

    def end(self, *args: str, **options: Any) -> Runner:
        """Run a command to its end, whatever that is."""
        runner = self.begin(*args, **options)
        runner.finish()
        return runner

    def kill(self, *args: str, at: Fault) -> None:
        """Run a command that is killed at one point."""
        killed = self.end(*args, faults=[at])
        assert killed.status == -signal.SIGKILL, f"{at['at']} was not reached: {killed.errors}"

    def upgrade(self, *targets: str, **options: Any) -> list[dict[str, Any]]:
        """Upgrade in this process; what the model is asked for is logged as well."""
        with asked_is_logged(self.root / LOG):
            return super().upgrade(*targets, **options)

    # -- what was paid for ----------------------------------------------------------------

    def asked(self) -> list[tuple[int, str, list[str]]]:
        """Every call of a model: process, who asked, and the texts' hashes."""
        log = self.root / LOG
        if not log.exists():
            return []
        lines = log.read_text("ascii").splitlines()
        return [(pid, who, texts) for pid, who, texts in map(json.loads, lines)]

    def texts_asked(self, *pids: int) -> int:
        """Texts that these processes (by default all) asked a model for, doubts left out."""
        return sum(
            len(texts)
            for pid, who, texts in self.asked()
            if who != "ordering" and (not pids or pid in pids)
        )

    def paid_twice(self) -> Counter[int]:
        """Texts that were embedded again, charged to the process whose work was lost.

        The samples that are embedded again on purpose are left out.
        """
        last: dict[str, int] = {}
        charged: Counter[int] = Counter()
        for pid, who, texts in self.asked():
            if who not in ("verify", "ordering"):
                charged.update(last[text] for text in texts if text in last)
                last.update(dict.fromkeys(texts, pid))
        return charged

    # -- what there is --------------------------------------------------------------------

    def end_state(self, queries: Sequence[str] = (), collection: str = "articles") -> EndState:
        """The live index read through the store, and searched as an application does."""
        settings = self.settings
        with Catalog(settings.catalog_url, create=False) as catalog, catalog.read() as connection:
            route = routes.get(connection, collection)
            assert route.live_index is not None
            run = runs.latest(connection, collection, index=route.live_index)
            model = indexes.get(connection, route.live_index).model.name
        assert run is not None
        with closing(settings.open_store(collection).reader(route.live_index)) as reader:
            states = list(reader.states())
            vectors = reader.vectors([(state.id, state.chunk) for state in states])
            assert reader.problems() == []
        with Collection.open(collection, settings) as articles:
            answers = {query: articles.search(query, k=10).hits for query in queries}
        return EndState(
            rows={
                (state.id, state.chunk): (state.content_hash.hex(), state.metadata_hash.hex())
                for state in states
            },
            vectors=vectors,
            answers={q: [(hit.id, hit.score) for hit in hits] for q, hits in answers.items()},
            model=model,
            generation=route.generation,
            counts=(run.done, run.skipped, run.total),
            settled=route.settled_generation == route.generation,
        )

    def progress(self, collection: str = "articles") -> tuple[str, int]:
        """How far the last revision is, as the catalog tells it: state, documents checkpointed."""
        settings = self.settings
        head = command.show(settings, f"{collection}@head").split()[1]
        with Catalog(settings.catalog_url, create=False) as catalog, catalog.read() as connection:
            run = runs.latest(connection, collection, revision=head)
            route = routes.get(connection, collection)
        if run is None:
            return "not begun", 0
        if run.index_name != route.live_index:
            return str(run.state), run.done
        settled = route.settled_generation == route.generation
        return "settled" if settled else "cut over", run.done
