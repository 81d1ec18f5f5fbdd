"""A proxy in front of PostgreSQL that lends its clients the sessions of a small pool.

As PgBouncer does: for a transaction at a time, or for as long as a client stays. It knows just
enough of the protocol for that, and lets everybody in.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_READY, _IDLE = b"Z", b"I"
_NO_SSL = {80877103, 80877104}


class PoolingProxy:
    """Listens on a socket in ``folder``; ``by_transaction`` says for how long it lends."""

    def __init__(self, server: Path, folder: Path, *, by_transaction: bool) -> None:
        self._server, self._by_transaction = server, by_transaction
        self._free: list[socket.socket] = []
        self._greeting = b""
        self._lock = threading.Lock()
        self._all: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._all.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        lent: socket.socket | None = None
        with suppress(OSError, EOFError):
            startup = self._startup(client)
            lent = self._borrow(startup)
            client.sendall(self._greeting)
            if self._by_transaction:
                self._give_back(lent)
                lent = None
            while True:
                kind, message = _message(client)
                if kind == b"X":
                    break
                lent = lent or self._borrow(startup)
                lent.sendall(message)
                if kind not in b"QS":  # an answer that ends comes after a query or a sync
                    continue
                while True:
                    kind, message = _message(lent)
                    client.sendall(message)
                    if kind == _READY:
                        break
                if self._by_transaction and message[5:6] == _IDLE:
                    self._give_back(lent)
                    lent = None
        client.close()
        if lent is not None:
            self._give_back(lent)

    def _startup(self, client: socket.socket) -> bytes:
        while True:
            head = _exactly(client, 8)
            size, code = struct.unpack("!ii", head)
            if code not in _NO_SSL:
                return head + _exactly(client, size - 8)
            client.sendall(b"N")

    def _borrow(self, startup: bytes) -> socket.socket:
        with self._lock:
            if self._free:
                return self._free.pop()  # the one that was used last, as poolers do
            session = socket.socket(socket.AF_UNIX)
            session.connect(str(self._server / ".s.PGSQL.5432"))
            self._all.append(session)
            session.sendall(startup)
            greeting = b""
            while True:
                kind, message = _message(session)
                greeting += message
                if kind == _READY:
                    break
            self._greeting = greeting
            return session

    def _give_back(self, session: socket.socket) -> None:
        with self._lock:
            self._free.append(session)

    def close(self) -> None:
        self._listener.close()
        for it in self._all:
            it.close()


def _message(side: socket.socket) -> tuple[bytes, bytes]:
    head = _exactly(side, 5)
    return head[:1], head + _exactly(side, struct.unpack("!i", head[1:])[0] - 4)


def _exactly(side: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = side.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


@contextmanager
def pooled(url: str, sockets: Path, folder: Path, *, by_transaction: bool) -> Iterator[str]:
    """``url`` as it is reached through a proxy."""
    proxy = PoolingProxy(sockets, folder, by_transaction=by_transaction)
    try:
        yield url.replace(f"host={sockets}", f"host={folder}")
    finally:
        proxy.close()
