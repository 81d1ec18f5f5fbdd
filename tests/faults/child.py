"""The command line in a process that can be watched and broken.

    python -m tests.faults.child '{"log": "asked.log", "faults": [...]}' upgrade articles@head

The first argument says what to watch and what to break; the rest goes to ``embedmigrate``. The
package knows nothing of this: functions are replaced in this process before the command starts.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.asking import who_asks
from tests.faults import off

Function = Callable[..., Any]


def main() -> None:
    plan = json.loads(sys.argv[1])
    sys.argv[1:] = sys.argv[2:]
    for protection in plan["off"]:
        getattr(off, protection)()
    for name, value in plan["constants"].items():
        setattr(*_find(name), value)
    for fault in plan["faults"]:
        _break(**fault)
    with asked_is_logged(Path(plan["log"])):
        from embedmigrate.cli import main as command_line

        command_line()


# -- watching ---------------------------------------------------------------------------------


@contextmanager
def asked_is_logged(path: Path) -> Iterator[None]:
    """Note every text before a model sees it: one line a call, appended at once.

    A line holds the process, the module that asked (``verify`` and ``ordering`` embed a sample
    again, on purpose) and, for each text, model and hash: enough to tell what was paid for twice.
    """
    from embedmigrate.embedders.local import LocalEmbedder
    from embedmigrate.sources.base import content_hash

    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    embed_documents = LocalEmbedder.embed_documents

    def logged(self: LocalEmbedder, texts: list[str]) -> Any:
        asked_by = who_asks()
        if asked_by == "measuring":  # canaries are no documents
            return embed_documents(self, texts)
        model = self.model.fingerprint
        line = [os.getpid(), asked_by, [f"{model} {content_hash(text).hex()}" for text in texts]]
        os.write(descriptor, json.dumps(line).encode() + b"\n")
        return embed_documents(self, texts)

    try:
        with patch.object(LocalEmbedder, "embed_documents", logged):
            yield
    finally:
        os.close(descriptor)


# -- breaking ---------------------------------------------------------------------------------


def _break(at: str, do: str, when: str = "before", call: int = 1, with_: Any = None) -> None:
    """Do something ``before``, ``after`` or ``instead`` of the ``call``-th call of a function.

    ``call`` 0 means every one of them; ``at`` is ``package.module:Class.function``.
    """
    owner, attribute = _find(at)
    original: Function = getattr(owner, attribute)
    happen = _EVENTS[do]
    calls = 0

    def broken(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if call not in (0, calls):
            return original(*args, **kwargs)
        if when == "instead":
            return happen(with_)
        if when == "before":
            happen(with_)
        answer = original(*args, **kwargs)
        if when == "after":
            happen(with_)
        return answer

    setattr(owner, attribute, broken)


def _find(name: str) -> tuple[Any, str]:
    module, _, path = name.partition(":")
    owner: Any = import_module(module)
    *outer, attribute = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    assert hasattr(owner, attribute), name
    return owner, attribute


def _say(text: str) -> None:
    os.write(2, f"fault: {text}\n".encode())


def _send(name: str) -> None:
    os.kill(os.getpid(), signal.Signals[name])
    time.sleep(0.2)  # SIGSTOP takes hold of a process a moment after it was sent


def _fail(number: int) -> None:
    raise OSError(number, os.strerror(number))


_EVENTS: dict[str, Callable[[Any], Any]] = {
    "say": _say,
    "send": _send,
    "sleep": time.sleep,
    "fail": _fail,
    "return": lambda value: value,
}


if __name__ == "__main__":
    main()
