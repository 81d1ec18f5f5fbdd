"""What may be wrong with any PostgreSQL server, whatever it is used for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from embedmigrate.errors import ConfigError, Refused
from embedmigrate.examining import Observation, look

Ask = Callable[[str], Sequence[Any]]
"""Runs a statement and returns its one row."""

CLOCK_SECONDS = 2.0
"""By so much clocks may differ: leases, and what is told of times, are by them."""
_SHORTEST_MILLISECONDS = 60_000
_TIMEOUTS = {
    "statement_timeout": "a statement that reads a whole table",
    "transaction_timeout": "a comparison of a whole table",
    "idle_in_transaction_session_timeout": "a comparison that waits for the other side",
    "idle_session_timeout": "the session by which a runner shows that it lives",
}
"""Settings that end somebody's work, and whose."""
_SETTINGS = (
    "SELECT array_agg(name::text ORDER BY name), array_agg(setting::bigint ORDER BY name),"
    " quote_ident(current_user) FROM pg_settings WHERE name IN ("
    + ", ".join(f"'{name}'" for name in _TIMEOUTS)
    + ")"
)


def examine_server(ask: Ask, where: str) -> Iterator[Observation]:
    """Version, clock and timeouts of the server at ``where``; see ``Examined``."""
    yield look(f"server {where}", lambda: _version(ask))
    yield look(f"clock of {where}", lambda: clock(ask, where))
    yield look(f"timeouts of {where}", lambda: timeouts(ask, where))


def _version(ask: Ask) -> str:
    version, standby = ask("SELECT current_setting('server_version'), pg_is_in_recovery()")
    return f"PostgreSQL {version}" + (", a standby: it can be read only" if standby else "")


def clock(ask: Ask, where: str, local: Callable[[], float] = time.time) -> str:
    """How far the server's clock is ahead of this machine's; ``Refused`` if that is too far."""
    before = local()
    (server,) = ask("SELECT extract(epoch FROM clock_timestamp())")
    after = local()
    ahead = float(server) - (before + after) / 2
    found = f"{ahead:+.1f} s against this machine"
    if abs(ahead) - (after - before) / 2 > CLOCK_SECONDS:
        raise Refused(
            f"the clocks of this machine and of {where} differ",
            found=found,
            expected=f"at most {CLOCK_SECONDS:.0f} s",
            next_step="let both machines keep the time (NTP)",
        )
    return found


def timeouts(ask: Ask, where: str) -> str:
    """``ConfigError`` for a timeout of this role that cuts longer work short."""
    names, values, role = ask(_SETTINGS)
    short = {
        name: value
        for name, value in zip(names, values, strict=True)
        if 0 < value < _SHORTEST_MILLISECONDS
    }
    if not short:
        return "none that ends what takes a minute"
    raise ConfigError(
        f"{where} ends what takes its time",
        found=", ".join(
            f"{name} = {value} ms, which ends {_TIMEOUTS[name]}" for name, value in short.items()
        ),
        expected="0, or a minute at least",
        next_step="; ".join(f"psql: ALTER ROLE {role} SET {name} = 0" for name in short),
    )
