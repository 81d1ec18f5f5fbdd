"""Making something happen at a function, in this process: the code that is tested knows of nothing.

A place is ``package.module:Class.function``, named where it is called; or ``writer.NAME``,
``store.NAME`` and ``capture.NAME``, a method of whichever is configured. A place that does not
exist is an error.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

Function = Callable[..., Any]
When = Literal["before", "after"]
Wrapper = Callable[[Function], Function]

_HOLD_SECONDS = 30.0
"""After which whoever holds something up goes on, whatever it waited for."""

_LATE = 6
"""Writes that arrive again."""
_LONGEST_LINE = 80
"""Bytes of an acknowledgement."""


class NoSuchPlace(LookupError):
    """A place that is to be broken does not exist (any more)."""


@dataclass(frozen=True)
class Event:
    """``do`` happens ``when`` the ``call``-th call of a place is made; 0: every call.

    kill, stop: the process gets SIGKILL or SIGSTOP. change: so many changes of the source are made
    by writer ``value``. hold: waits until others have acknowledged ``value`` more changes. gate:
    waits until a file ``value`` is there. note: the moment is noted as ``value``. fail: raises
    ``OSError`` of that number. sleep: for so many seconds. cut: the server ends every session on
    the project's database. lose: that too, and the answer that was under way is lost.
    """

    at: str
    do: Literal["kill", "stop", "change", "hold", "gate", "note", "fail", "sleep", "cut", "lose"]
    when: When = "before"
    call: int = 1
    value: Any = None


def install(event: Event, root: Path) -> None:
    """Have ``event`` happen in this process; ``root`` is the folder of the project."""
    happen = _DEEDS[event.do]
    calls = 0

    def wrapper(original: Function) -> Function:
        def broken(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if event.call not in (0, calls):
                return original(*args, **kwargs)
            if event.when == "before":
                happen(root, event.value)
            answer = original(*args, **kwargs)
            if event.when == "after":
                happen(root, event.value)
            return answer

        return broken

    wrap(event.at, wrapper)


def count(at: str, counts: dict[str, int]) -> None:
    """Count the calls of a place."""
    counts.setdefault(at, 0)

    def wrapper(original: Function) -> Function:
        def counted(*args: Any, **kwargs: Any) -> Any:
            counts[at] += 1
            return original(*args, **kwargs)

        return counted

    wrap(at, wrapper)


def wrap(at: str, wrapper: Wrapper) -> None:
    """Replace what stands at a place by what ``wrapper`` makes of it."""
    owner, name = find(at)
    kind, _, _ = at.partition(".")
    if kind not in _OF_STORES:
        setattr(owner, name, wrapper(getattr(owner, name)))
        return
    maker, making = find(_OF_STORES[kind][0])
    make: Function = getattr(maker, making)
    mark = f"_broken_{next(_numbers)}"

    def made(*args: Any, **kwargs: Any) -> Any:
        part = make(*args, **kwargs)
        if not hasattr(part, mark):  # some are made once, and given out again
            setattr(part, mark, True)
            setattr(part, name, wrapper(getattr(part, name)))
        return part

    setattr(maker, making, made)


def find(at: str) -> tuple[Any, str]:
    """The owner of a place, and its name there; ``NoSuchPlace``."""
    kind, _, method = at.partition(".")
    if kind in _OF_STORES:
        owner, name = find(_OF_STORES[kind][1])
        protocol = getattr(owner, name)
        if not hasattr(protocol, method):
            raise NoSuchPlace(at)
        return protocol, method
    module, _, path = at.partition(":")
    *outer, name = path.split(".")
    try:
        owner = import_module(module)
        for part in outer:
            owner = getattr(owner, part)
        getattr(owner, name)
    except (ImportError, AttributeError) as error:
        raise NoSuchPlace(at) from error
    return owner, name


_OF_STORES = {
    "writer": ("embedmigrate.engine.job:Job.writer", "embedmigrate.stores.base:IndexWriter"),
    "store": ("embedmigrate.config:Settings.open_store", "embedmigrate.stores.base:Store"),
    "capture": (
        "embedmigrate.sources.sql:SqlSource.recording",
        "embedmigrate.sources.capture:SqliteCapture",
    ),
}
"""Who makes the part, and what says which methods it has."""
_numbers = itertools.count()


def write_late() -> None:
    """The first writes to an index arrive once more, after everything that came later.

    What a retry, or a message that was held up, does to a store that is somewhere else.
    """
    first: list[Callable[[], Any]] = []

    def remembering(write: Function) -> Function:
        def written(*args: Any, **kwargs: Any) -> Any:
            if len(first) < _LATE:
                first.append(lambda: write(*args, **kwargs))
            return write(*args, **kwargs)

        return written

    def repeating(build: Function) -> Function:
        def built() -> Any:
            while first:
                first.pop(0)()
            return build()

        return built

    wrap("writer.write", remembering)
    wrap("writer.build", repeating)


def log_what_is_asked(path: Path) -> None:
    """Note every text before a model sees it: one line a call, appended at once.

    A line holds the process, the model's fingerprint and the texts' hashes. Canaries, and what is
    asked for again on purpose, to see vectors in order or to verify, are left out.
    """
    from embedmigrate.sources.base import content_hash

    doubted = threading.local()
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def doubting(check: Function) -> Function:
        def checked(*args: Any, **kwargs: Any) -> Any:
            doubted.now = True
            try:
                return check(*args, **kwargs)
            finally:
                doubted.now = False

        return checked

    def logging(ask: Function) -> Function:
        def logged(embedder: Any, texts: Any, *rest: Any) -> Any:
            if getattr(doubted, "now", False):
                return ask(embedder, texts, *rest)
            hashes = [content_hash(text).hex()[:24] for text in texts]
            line = [os.getpid(), embedder.model.fingerprint, hashes]
            os.write(log, json.dumps(line).encode() + b"\n")
            return ask(embedder, texts, *rest)

        return logged

    wrap("embedmigrate.engine.embedding:check_order", doubting)
    wrap("embedmigrate.engine.embedding:_ask", logging)


# -- what happens -----------------------------------------------------------------------------


def _kill(_root: Path, _value: None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # it takes hold of another thread a moment later


def _stop(_root: Path, _value: None) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(0.05)


def _change(root: Path, value: tuple[int, int]) -> None:
    from embedmigrate.testing.changes import Writer

    number, changes = value
    with Writer(root, number) as writer:
        writer.changes(changes)


def _hold(root: Path, value: int) -> None:
    from embedmigrate.testing.changes import FOLDER

    logs = list((root / FOLDER).glob("*.log"))

    def lines() -> int:  # at most so many as there are
        return sum(log.stat().st_size for log in logs) // _LONGEST_LINE

    enough, deadline = lines() + value, time.monotonic() + _HOLD_SECONDS
    while lines() < enough and time.monotonic() < deadline:
        time.sleep(0.001)


def _gate(root: Path, value: str) -> None:
    deadline = time.monotonic() + _HOLD_SECONDS
    while not (root / value).exists() and time.monotonic() < deadline:
        time.sleep(0.001)


def _note(root: Path, value: str) -> None:
    with (root / "moments.log").open("a", encoding="ascii") as file:
        file.write(json.dumps([value, time.monotonic()]) + "\n")


def _fail(_root: Path, value: int) -> None:
    raise OSError(value, os.strerror(value))


def _sleep(_root: Path, value: float) -> None:
    time.sleep(value)


def _cut(root: Path, _value: None) -> None:
    from embedmigrate.testing import database
    from embedmigrate.testing.subject import Subject

    url = Subject(root).database
    assert url is not None, "a project on a server"
    database.cut(url)


def _lose(root: Path, value: None) -> None:
    import psycopg
    from sqlalchemy.exc import OperationalError

    _cut(root, value)
    lost = psycopg.OperationalError("the answer was lost")
    raise OperationalError("COMMIT", None, lost, connection_invalidated=True)


_DEEDS: Mapping[str, Callable[[Path, Any], None]] = {
    "kill": _kill,
    "stop": _stop,
    "change": _change,
    "hold": _hold,
    "gate": _gate,
    "note": _note,
    "fail": _fail,
    "sleep": _sleep,
    "cut": _cut,
    "lose": _lose,
}
