"""The command line inside the test's own process: fast, and with the exit code of the real one."""

from __future__ import annotations

import io
import signal
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest

from embedmigrate.cli import main


class Answer(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


def run(root: Path, *args: str) -> Answer:
    """Run ``embedmigrate ARGS`` in the folder ``root``; an unexpected exception fails the test."""
    out, err = io.StringIO(), io.StringIO()
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with (
            chdir(root),
            mock.patch.object(sys, "argv", ["embedmigrate", *args]),
            redirect_stdout(out),
            redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            main()
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
    assert isinstance(ended.value.code, int)
    return Answer(ended.value.code, out.getvalue(), err.getvalue())
