"""Who asks a model for documents: read from the stack, as the package need not say it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import FrameType

_PASS_ON = ("threading", "patience", "base", "embedders")


def who_asks() -> str:
    """The module of the package that asks, for an embedder of a test that wants to know.

    ``ordering``: one text of a call that is asked for again on purpose. A call that is waited for
    in a thread of its own is asked by the main thread.
    """
    modules = list(_modules(sys._getframe(2)))
    main = threading.main_thread()
    if "patience" in modules and threading.current_thread() is not main:
        assert main.ident is not None
        modules += _modules(sys._current_frames()[main.ident])
    if "ordering" in modules:
        return "ordering"
    return next(it for it in modules if it not in _PASS_ON)


def _modules(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        yield str(frame.f_globals["__name__"]).rpartition(".")[2]
        frame = frame.f_back
