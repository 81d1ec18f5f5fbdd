"""What stands between a client and the server: it counts round trips, and cuts at a given byte."""

from __future__ import annotations

import select
import socket
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

_SOCKET = ".s.PGSQL.5432"


class Between:
    """Passes everything on between a socket of its own and the server's in ``sockets``."""

    def __init__(self, sockets: Path) -> None:
        self._server = sockets / _SOCKET
        self._folder = tempfile.TemporaryDirectory(prefix="between-")
        self.round_trips = 0
        """How often the server answered something that a client had sent."""
        self._sent, self._at = 0, -1
        self._action: Callable[[], object] | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(Path(self._folder.name) / _SOCKET))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def url(self, url: str) -> str:
        """The URL of the same database through here."""
        return url.replace(str(self._server.parent), self._folder.name)

    def after(self, size: int, action: Callable[[], object]) -> None:
        """Call ``action`` once, when clients have sent so many bytes from now on."""
        self._action, self._sent, self._at = action, 0, size

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._pass_on, args=(client,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pass_on(self, client: socket.socket) -> None:
        asked = False
        with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
            server.connect(str(self._server))
            while True:
                readable, _, _ = select.select([client, server], [], [])
                if client in readable:
                    if not (data := client.recv(1 << 16)):
                        return
                    asked = True
                    self._count(len(data))
                    server.sendall(data)
                if server in readable:
                    if not (data := server.recv(1 << 16)):
                        return
                    self.round_trips += asked
                    asked = False
                    client.sendall(data)

    def _count(self, size: int) -> None:
        self._sent += size
        if 0 <= self._at < self._sent:
            self._at = -1
            assert self._action is not None
            self._action()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)
        self._folder.cleanup()
