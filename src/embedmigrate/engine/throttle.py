"""Going slowly: so many documents a second, and waiting while somebody says that it is too much.

Who is asked, a command or a URL, is asked at most every few seconds, and only a clear answer lets
the work go on: what fails, hangs or says anything else is waited for, so that a broken alarm does
not pass for silence. Nothing here blocks for longer than a fifth of a second without asking whether
to stop.
"""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import SplitResult, unquote, urlsplit

_STEP_SECONDS = 0.2
TELL_SECONDS = 2.0
"""A wait for the rate that is longer than this is told."""

Check = Callable[[], None]
"""Raises when the work is to stop."""
Tell = Callable[[str], None]
"""Hears why the work waits."""


class Asked(Protocol):
    """Somebody who can say that it is too much."""

    def objection(self, check: Check) -> str | None:
        """Why not to go on, in words for people; None to go on. Answers within its time limit."""


class Throttle:
    """Of one collection. ``texts_per_second`` None is without limit."""

    def __init__(
        self,
        texts_per_second: float | None = None,
        asked: Sequence[Asked] = (),
        *,
        every_seconds: float = 5.0,
    ) -> None:
        self._rate, self._asked, self._every = texts_per_second, asked, every_seconds
        self._next_call = self._next_question = 0.0

    def wait(self, texts: int, check: Check, tell: Tell) -> None:
        """Return when a model call with so many texts may be made."""
        while time.monotonic() >= self._next_question:
            objection = self._objection(check)
            self._next_question = time.monotonic() + self._every
            if objection is None:
                break
            tell(objection)
            _sleep_until(self._next_question, check)
        if self._rate is not None:
            if self._next_call - time.monotonic() > TELL_SECONDS:
                tell(f"at most {self._rate:g} documents a second")
            _sleep_until(self._next_call, check)
            self._next_call = max(self._next_call, time.monotonic()) + texts / self._rate

    def _objection(self, check: Check) -> str | None:
        for one in self._asked:
            if (objection := one.objection(check)) is not None:
                return objection
        return None


class Command:
    """Exit status 0 means go on. Run without a shell, in ``folder``."""

    def __init__(self, command: Sequence[str], folder: Path, timeout_seconds: float) -> None:
        self._command, self._folder, self._timeout = list(command), folder, timeout_seconds
        self._name = Path(command[0]).name  # arguments may hold a secret

    def objection(self, check: Check) -> str | None:
        try:
            process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return f"throttle command {self._name} cannot be run: {type(error).__name__}"
        end = time.monotonic() + self._timeout
        try:
            while time.monotonic() < end:
                with suppress(subprocess.TimeoutExpired):
                    status = process.wait(_STEP_SECONDS)
                    said = f"throttle command {self._name} ended with {status}"
                    return None if status == 0 else said
                check()
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)  # its children, too
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_STEP_SECONDS)
        return f"throttle command {self._name} took longer than {self._timeout:g} s"


class Url:
    """Status 200 means go on; 429, 503 and anything else is waited for. Follows no redirect."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self._url, self._timeout = urlsplit(url), timeout_seconds
        self._name = f"throttle URL of {self._url.hostname}"  # the rest may hold a secret
        self._answer: list[str | None] = []
        self._thread: threading.Thread | None = None

    def objection(self, check: Check) -> str | None:
        # In a thread: a server that sends a byte now and then outlasts every timeout of a socket.
        if self._thread is None:
            self._answer = []
            self._thread = threading.Thread(target=self._ask, args=(self._answer,), daemon=True)
            self._thread.start()
        end = time.monotonic() + self._timeout
        while (left := end - time.monotonic()) > 0:
            self._thread.join(min(left, _STEP_SECONDS))
            if not self._thread.is_alive():
                self._thread = None
                return self._answer[0] if self._answer else f"{self._name} cannot be asked"
            check()
        return f"{self._name} does not answer"

    def _ask(self, answer: list[str | None]) -> None:
        try:
            status = get_status(self._url, self._timeout)
        except Exception as error:  # its words may hold the URL
            answer.append(f"{self._name} cannot be asked: {type(error).__name__}")
        else:
            answer.append(None if status == 200 else f"{self._name} answers {status}")


def get_status(url: SplitResult, timeout_seconds: float) -> int:
    """The status of a GET, whatever it is; a user and password in the URL are sent as such."""
    from http.client import HTTPConnection, HTTPSConnection

    assert url.hostname is not None
    kind = HTTPSConnection if url.scheme == "https" else HTTPConnection
    headers = {"User-Agent": "embedmigrate"}
    if url.username is not None:
        pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    path = url.path or "/"
    connection = kind(url.hostname, url.port, timeout=timeout_seconds)
    try:
        connection.request("GET", f"{path}?{url.query}" if url.query else path, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def _sleep_until(moment: float, check: Check) -> None:
    check()
    while (left := moment - time.monotonic()) > 0:
        time.sleep(min(left, _STEP_SECONDS))
        check()
