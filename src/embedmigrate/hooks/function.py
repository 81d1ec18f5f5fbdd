"""Runs a hook that is a Python function: ``python -m embedmigrate.hooks.function module:name``.

The function gets the data as a dict. None, or any true value that is no text, is a yes; False, a
text (the reason) or an exception is a no: status 1, and the reason alone on standard error.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from typing import Any


def main() -> int:
    module, _, function = sys.argv[1].partition(":")
    if (folder := os.getcwd()) not in sys.path:  # noqa: PTH109  as python -m has it
        sys.path.insert(0, folder)
    data = json.loads(sys.stdin.buffer.read())
    with os.fdopen(os.dup(2), "w", encoding="utf-8") as reply:
        _silence()
        try:
            answer = getattr(import_module(module), function)(data)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        reason = _refusal(answer)
        if reason is not None:
            print(reason, file=reply)
    return 0 if reason is None else 1


def _refusal(answer: Any) -> str | None:
    if isinstance(answer, str):
        return answer
    return "answered False" if answer is False else None


def _silence() -> None:
    """What the function prints is not the reason."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
