"""One hook as a process: data on its standard input, a status, a line that says why.

A function runs in a process of its own as well: it can be killed like a command, and it cannot
touch what the command that tells it has open.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from embedmigrate.text import printable

_REASON_CHARACTERS = 300
_POLL_SECONDS = 0.02


def name_of(hook: tuple[str, ...] | str) -> str:
    """What a hook is called in logs: without its arguments, which may hold a secret."""
    return hook if isinstance(hook, str) else Path(hook[0]).name


def words_of(hook: tuple[str, ...] | str) -> list[str]:
    """The command that runs a hook."""
    if isinstance(hook, str):
        return [sys.executable, "-m", "embedmigrate.hooks.function", hook]
    return list(hook)


def run(
    hook: tuple[str, ...] | str,
    document: str,
    *,
    folder: Path,
    seconds: Callable[[], float],
) -> str | None:
    """Run a hook in ``folder``; None when it ended with status 0, else what became of it.

    ``seconds`` is how long it may take, asked again and again. Then it is killed, and with it every
    process that it started, unless that made itself independent. Its output goes to files, so that
    one which a child keeps open is not waited for.
    """
    with (
        tempfile.TemporaryFile() as data,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        data.write(document.encode())
        data.seek(0)
        start = time.monotonic()
        try:
            process = subprocess.Popen(
                words_of(hook),
                cwd=folder,
                stdin=data,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        except OSError as error:
            return f"cannot be started: {error.strerror}"
        try:
            while process.poll() is None:
                if time.monotonic() - start >= seconds():
                    return f"killed after {time.monotonic() - start:.1f} s"
                time.sleep(_POLL_SECONDS)
        finally:
            if process.returncode is None:
                _kill(process)
        if process.returncode == 0:
            return None
        return _first_line(err) or _first_line(out) or _status(process.returncode)


def _kill(process: subprocess.Popen[bytes]) -> None:
    # Not yet waited for, so that the number of its group cannot be somebody else's.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _status(code: int) -> str:
    return f"exit status {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"


def _first_line(said: IO[bytes]) -> str:
    """The first line that is not blank; of a stream that a child may still write to."""
    start = os.pread(said.fileno(), 16_384, 0).decode("utf-8", "replace")
    line = next((line.strip() for line in start.splitlines() if line.strip()), "")
    shown = printable(line)
    return shown if len(shown) <= _REASON_CHARACTERS else f"{shown[:_REASON_CHARACTERS]}…"
