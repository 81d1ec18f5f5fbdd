"""Several statements, one of them a COPY, in a single message of the simple protocol.

The server runs such a message as one transaction. It answers once when it is ready for the rows,
and once when everything is done and committed: two round trips. ``Connection.copy`` of the driver
sends one statement at a time, which with a check, settings and COMMIT makes six.
"""

from __future__ import annotations

import select
from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg import pq


def run_with_rows(
    connection: psycopg.Connection[Any], statements: bytes, rows: Iterable[bytes]
) -> None:
    """Run ``statements``, and give ``rows`` to the COPY among them. All or nothing.

    Raises the error of the driver for the first statement that fails, or what making ``rows``
    raises; no transaction is left open.
    """
    wire = connection.pgconn
    wire.send_query(statements)
    failure: pq.abc.PGresult | None = None
    interruption: BaseException | None = None
    while (result := _next_result(wire)) is not None:
        if result.status == pq.ExecStatus.COPY_IN:
            interruption = _send(wire, rows)
        elif result.status == pq.ExecStatus.FATAL_ERROR:
            failure = failure or result
    if interruption is not None:
        raise interruption
    if failure is not None:
        raise _error(failure)


def _send(wire: pq.abc.PGconn, rows: Iterable[bytes]) -> BaseException | None:
    """Send the rows. When they cannot be made, let the server give up, and return why."""
    interruption: BaseException | None = None
    try:
        for piece in rows:
            # The answer is 0 where the piece was not taken yet.
            while not wire.put_copy_data(piece):
                _flush(wire)
            _flush(wire)
    except psycopg.Error:
        raise
    except BaseException as error:
        interruption = error
    while not wire.put_copy_end(None if interruption is None else b"the rows cannot be made"):
        _flush(wire)
    _flush(wire)
    return interruption


def _flush(wire: pq.abc.PGconn) -> None:
    """Send what is waiting to be sent, and take what the server says meanwhile."""
    while wire.flush():
        readable, _, _ = select.select([wire.socket], [wire.socket], [])
        if readable:
            wire.consume_input()


def _next_result(wire: pq.abc.PGconn) -> pq.abc.PGresult | None:
    _flush(wire)
    while wire.is_busy():
        select.select([wire.socket], [], [])
        wire.consume_input()
    return wire.get_result()


def _error(result: pq.abc.PGresult) -> psycopg.Error:
    """The error of the driver with the headline alone: DETAIL and CONTEXT quote values of rows."""
    state = result.error_field(pq.DiagnosticField.SQLSTATE)
    said = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY)
    text = (said or b"the connection to the server was lost").decode("utf-8", "replace")
    if state is None:
        return psycopg.OperationalError(text)
    try:
        return psycopg.errors.lookup(state.decode())(text)
    except KeyError:
        return psycopg.OperationalError(text)
