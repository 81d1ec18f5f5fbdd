"""Connections for reading, handed from thread to thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from embedmigrate.stores.faiss.database import open_database


class Connections:
    """As many connections as there were threads at once; each is used by one at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = Lock()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False

    @contextmanager
    def taken(self) -> Iterator[sqlite3.Connection]:
        """A connection for this thread; it comes back without a transaction."""
        with self._lock:
            if self._closed:
                raise ValueError("the index reader is closed")
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = open_database(self._folder)
        try:
            yield connection
        finally:
            connection.rollback()
            with self._lock:
                if not self._closed:
                    self._idle.append(connection)
                    connection = None
            if connection is not None:
                connection.close()

    def close(self) -> None:
        """Close what is idle now, and the others when they come back. Idempotent."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
