"""Processes that are forked from a warmed parent, to be killed.

The parent is the fork server of ``multiprocessing``: it has imported everything and holds no
thread, session or database, so that a child costs milliseconds instead of an interpreter's start,
and starts as clean as one.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from multiprocessing import forkserver, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

_WHERE_INSTALLED = (
    ("alembic.ddl.postgresql", "psycopg", "sqlalchemy.dialects.postgresql.psycopg")
    if find_spec("psycopg")
    else ()
)
PRELOADED = (
    "alembic.command",
    "alembic.ddl.sqlite",
    "alembic.script",
    "faiss",
    "sqlalchemy.dialects.sqlite",
    *_WHERE_INSTALLED,
    "embedmigrate.collection",
    "embedmigrate.command",
    "embedmigrate.embedders.hashing",
    "embedmigrate.sources.managed",
    "embedmigrate.sources.managed_sqlite",
    "embedmigrate.sources.sql",
    "embedmigrate.stores.faiss.store",
    "embedmigrate.testing.tasks",
)
"""What the parent imports."""
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Pools that these libraries would start in the parent as soon as they are imported."""
_context = get_context("forkserver")


class Ended(RuntimeError):
    """A child ended in another way than was asked of it."""


class Child:
    """A function that runs in a process of its own."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Start ``function(*arguments)``; both must be importable and picklable."""
        _start_parent()
        self._receive, send = _context.Pipe(duplex=False)
        self._process = _context.Process(target=_run, args=(send, function, arguments))
        self._process.start()
        send.close()
        self._answer: Any = None
        self._said = ""

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def sentinel(self) -> int:
        """Ready, for ``multiprocessing.connection.wait``, when the child has ended."""
        return self._process.sentinel

    @property
    def runs(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        """SIGKILL. Nothing when it has ended."""
        self._process.kill()

    def send(self, number: signal.Signals) -> None:
        if self.runs:
            os.kill(self.pid, number)

    def wait(self, seconds: float = 120) -> int:
        """The exit status, or minus the signal that ended it; ``Ended`` when it takes too long."""
        if self._receive.poll(seconds):
            with suppress(EOFError):  # it was killed
                self._answer, self._said = self._receive.recv()
        self._process.join(seconds)
        status = self._process.exitcode
        if status is None:
            self.kill()
            self._process.join()
            raise Ended(f"a child did not end within {seconds:.0f} s")
        self._receive.close()
        return status

    def answer(self, seconds: float = 120) -> Any:
        """What the function returned; ``Ended`` when it did not end well."""
        status = self.wait(seconds)
        if status != 0:
            raise Ended(f"a child ended with {status}: {self._said}")
        return self._answer

    @property
    def said(self) -> str:
        """What went wrong, in words; empty when nothing did, or it was killed."""
        return self._said

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.runs:
            self.kill()
            self._process.join()


def threads_of_parent() -> int | None:
    """Threads of the process that children are forked from; None where that cannot be told."""
    try:
        return len(list(Path(f"/proc/{os.getppid()}/task").iterdir()))
    except OSError:
        return None


@contextmanager
def running(children: Sequence[Child]) -> Iterator[Sequence[Child]]:
    """Whatever is still running at the end of the block is killed."""
    try:
        yield children
    finally:
        for child in children:
            child.__exit__()


def _start_parent() -> None:
    forkserver.set_forkserver_preload(list(PRELOADED))
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(_ONE_THREAD)
    try:
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _run(send: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    from embedmigrate.errors import EmbedMigrateError

    try:
        send.send((function(*arguments), ""))
    except EmbedMigrateError as error:
        send.send((None, str(error)))
        sys.exit(error.exit_code)
    except Exception:
        send.send((None, traceback.format_exc()))
        sys.exit(1)
    finally:
        send.close()
