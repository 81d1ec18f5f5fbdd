"""Logging what the catalog records, once it is committed and never before.

An event waits with its connection until the next transaction begins there, or the connection is
given back. A rollback forgets it, and so does a commit that fails.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from sqlalchemy import event as sa_event
from sqlalchemy.engine import Connection, Engine, ExceptionContext

from embedmigrate.logs import say

_WAITING = "embedmigrate_events"
_WARNINGS = frozenset(
    {"window_discarded", "hook_failed", "cutover_vetoed", "lock_lost", "drift", "dead_letters"}
)
_log = logging.getLogger("embedmigrate.catalog")


def announce(
    connection: Connection,
    kind: str,
    collection: str | None,
    run_id: int | None,
    data: Mapping[str, Any],
) -> None:
    """Log an event of the catalog as soon as the transaction of ``connection`` is committed."""
    fields = {"collection": collection, "run": run_id, **data}
    connection.info.setdefault(_WAITING, []).append((kind, fields))


def listen(engine: Engine) -> None:
    """Log what is committed on the connections of ``engine``. Call before other listeners."""
    sa_event.listen(engine, "begin", lambda connection: _log_all(connection.info))
    sa_event.listen(engine, "rollback", _forget)
    sa_event.listen(engine, "handle_error", _forget_uncommitted)
    sa_event.listen(engine, "checkin", lambda _dbapi, record: _log_all(record.info))


def _forget(connection: Connection) -> None:
    if not connection.invalidated:  # what was lost with its connection was forgotten before
        connection.info.pop(_WAITING, None)


def _forget_uncommitted(context: ExceptionContext) -> None:
    commit = context.statement is None
    if context.connection is not None and (commit or context.is_disconnect):
        _forget(context.connection)


def _log_all(info: dict[Any, Any]) -> None:
    for kind, fields in info.pop(_WAITING, ()):
        level = logging.WARNING if kind in _WARNINGS else logging.INFO
        message = ": ".join(filter(None, (fields["collection"], kind.replace("_", " "))))
        say(_log, level, kind, message, fields)
