"""Logging: what an operator wants to know, as events with fields. Standard library only.

Whatever happens is said with ``say`` to a logger below ``embedmigrate``; what becomes of it is the
business of whoever runs the program. The command line shows it as lines, one an event (``start``).
No document text and no secret is ever given to it (I21).
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from embedmigrate.text import printable

Kind = Literal["text", "json"]
LEVELS = ("debug", "info", "warning", "error")

_PLAIN = re.compile(r"[^\s\"=]+")


def say(
    logger: logging.Logger, level: int, event: str, message: str, fields: Mapping[str, Any]
) -> None:
    """Log ``event``, a name for programs, with ``message``, for people, and its fields.

    Fields that are None or no plain value are left out.
    """
    plain = {key: value for key, value in fields.items() if isinstance(value, str | int | float)}
    logger.log(level, "%s", message, extra={"event": event, "fields": plain})


def start(
    kind: Kind | None, level: str, *, warn_of_events: bool = False, stream: TextIO | None = None
) -> Callable[[], None]:
    """Show what is logged on ``stream`` (standard error); the answer ends that.

    Of this program everything from ``level`` on, of others their warnings. Without a ``kind`` it is
    warnings alone, and events (``warn_of_events``) only where no reporter tells them already.
    """
    root, ours = logging.getLogger(), logging.getLogger("embedmigrate")
    handler = logging.StreamHandler(stream or sys.stderr)
    if kind is None:
        handler.setLevel(logging.WARNING)
        handler.setFormatter(_Bare())
        handler.addFilter(lambda record: warn_of_events or not hasattr(record, "event"))
    else:
        handler.setFormatter(_Json() if kind == "json" else _Text())
        logging.captureWarnings(True)
    before = ours.level
    if kind is not None:
        ours.setLevel(level.upper())
    root.addHandler(handler)

    def end() -> None:
        root.removeHandler(handler)
        ours.setLevel(before)
        if kind is not None:
            logging.captureWarnings(False)

    return end


def utc(seconds: float) -> str:
    """A moment (seconds since 1970) in ISO 8601, with milliseconds."""
    said = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return said.replace("+00:00", "Z")


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "time": utc(record.created),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": getattr(record, "event", "message"),
        "message": record.getMessage(),
    }
    for key, value in getattr(record, "fields", {}).items():
        unsayable = isinstance(value, float) and not math.isfinite(value)
        facts.setdefault(key, str(value) if unsayable else value)
    if record.exc_info is not None and record.exc_info[0] is not None:
        # where it happened, and not what it said: that may be anything
        facts["error"] = record.exc_info[0].__name__
        facts["stack"] = [
            f"{frame.filename}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(record.exc_info[2])
        ]
    return facts


class _Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_facts(record), ensure_ascii=False, default=str)


class _Text(logging.Formatter):
    """Time, level, event and message, then the fields as ``key=value``, on one line."""

    def format(self, record: logging.LogRecord) -> str:
        facts = _facts(record)
        time, level, _, event, message = (facts.pop(key) for key in list(facts)[:5])
        return printable(f"{time} {level:<7} {event}: {message}{_listed(facts)}")


class _Bare(logging.Formatter):
    """What Python shows where nobody set anything up, with the fields of an event."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        return f"{record.getMessage()}{printable(_listed(fields))}"


def _listed(fields: Mapping[str, Any]) -> str:
    return "".join(f" {key}={_value(value)}" for key, value in fields.items())


def _value(value: Any) -> str:
    said = str(value)
    return said if _PLAIN.fullmatch(said) else json.dumps(said, ensure_ascii=False)
