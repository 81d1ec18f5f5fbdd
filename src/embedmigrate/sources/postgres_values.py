"""Values as they are read from PostgreSQL: alike on every machine, and never an error.

A time with a time zone comes in UTC, whatever the zone of the session; else the hash of metadata
would depend on who reads. Of dates and times, "infinity" counts as missing, as it does of numbers;
what no date of Python can hold (years before 1 and after 9999) stays the text that it is.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import psycopg
from psycopg.types.datetime import DateLoader, TimestampLoader, TimestamptzLoader

_INFINITE = b"infinity"


def register_loaders(connection: psycopg.Connection[Any]) -> None:
    """Have a connection read dates and times like that."""
    connection.adapters.register_loader("date", _Date)
    connection.adapters.register_loader("timestamp", _Timestamp)
    connection.adapters.register_loader("timestamptz", _Timestamptz)


def _outside(data: Any) -> str | None:
    raw = bytes(data)
    return None if _INFINITE in raw else raw.decode()


class _Date(DateLoader):
    def load(self, data: Any) -> date | str | None:  # type: ignore[override]
        try:
            return super().load(data)
        except psycopg.DataError:
            return _outside(data)


class _Timestamp(TimestampLoader):
    def load(self, data: Any) -> datetime | str | None:  # type: ignore[override]
        try:
            return super().load(data)
        except psycopg.DataError:
            return _outside(data)


class _Timestamptz(TimestamptzLoader):
    def load(self, data: Any) -> datetime | str | None:  # type: ignore[override]
        try:
            return super().load(data).astimezone(UTC)
        except (psycopg.DataError, OverflowError):
            return _outside(data)
