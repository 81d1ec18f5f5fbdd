"""Reading a collection's route, as often as it is searched."""

from __future__ import annotations

import sqlite3
import threading
import time

from embedmigrate.catalog import Catalog, routes
from embedmigrate.catalog.records import Route
from embedmigrate.config import ROUTE_CACHE_SECONDS
from embedmigrate.errors import StorageUnavailable


class RouteWatcher:
    """Reads a collection's route, at the price of one PRAGMA while nothing changes."""

    def __init__(self, catalog: Catalog, collection: str) -> None:
        self._catalog, self._collection = catalog, collection
        self._connection = catalog.watch()
        self._version: int | None = None
        self._read_at = 0.0
        self._route: Route | None = None
        self._lock = threading.Lock()

    def route(self) -> Route:
        """The route as it is now (SQLite), or as it was at most a second ago."""
        with self._lock:
            now, version = time.monotonic(), self._data_version()
            if self._connection is None:
                changed = now - self._read_at > ROUTE_CACHE_SECONDS
            else:
                changed = version != self._version
            if self._route is None or changed:
                with self._catalog.read() as connection:
                    self._route = routes.get(connection, self._collection)
                # not before: a change that could not be read is still to be read
                self._read_at, self._version = now, version
            return self._route

    def _data_version(self) -> int | None:
        if self._connection is None:
            return None
        try:
            row = self._connection.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error as error:
            raise StorageUnavailable(
                f"the catalog at {self._catalog.place} cannot be read now: {error}",
                next_step="try again",
            ) from error
        return int(row[0])

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
