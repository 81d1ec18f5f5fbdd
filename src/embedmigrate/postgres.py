"""What every adapter for PostgreSQL needs: the driver, the schema that is ours, and its errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from embedmigrate.errors import ConfigError, MissingExtra, ServerAway, StorageUnavailable

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy.engine import URL

SCHEMA = "embedmigrate"
"""Everything of ours lives in this schema, so that a tool that looks after ``public`` never sees
it. Capture puts its triggers, and nothing else, beside the table that they belong to."""
DRIVER = "psycopg"
_PLAIN = frozenset({"postgresql", "postgres"})

_PASSING_CLASSES = frozenset({"08", "53", "57", "58"})
"""Connection, resources, operator intervention, system error."""
_PASSING = frozenset({"25006", "25P03", "40001", "40P01", "55006", "55P03"})
"""Read-only now, idle for too long, serialisation, deadlock, object in use, lock timeout."""
_AWAY_CLASS, _AWAY = "08", frozenset({"25P03", "57P01", "57P02", "57P03", "57P05"})
"""Connection lost; ended for idling in a transaction, shut down, crashed, starting up, idle."""
_DENIED = "42501"
_PASSWORD_CLASS = "28"
_CONNECT_SECONDS = 10


def with_driver(url: URL) -> URL:
    """The URL with the driver that is used for PostgreSQL, unless it names another one."""
    return url.set(drivername=f"postgresql+{DRIVER}") if url.drivername in _PLAIN else url


def connect_args() -> dict[str, Any]:
    """For the driver. Nothing here outlives a transaction, so that readers may use a pooler."""
    return {
        "application_name": "embedmigrate",
        "connect_timeout": _CONNECT_SECONDS,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "prepare_threshold": None,
    }


def conninfo(url: str) -> str:
    """A SQLAlchemy URL as the connection string of the driver; ``ConfigError`` for another."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.drivername not in _PLAIN | {f"postgresql+{DRIVER}"}:
        raise ConfigError(
            "the URL is not one of a PostgreSQL database",
            found="text that is not a URL" if parsed is None else parsed.drivername,
            expected="postgresql://user@host/database",
            next_step="correct `url` in the configuration",
        )
    return parsed.set(drivername="postgresql").render_as_string(hide_password=False)


def place(url: str) -> str:
    """What messages call the database: never its password or parameters."""
    from sqlalchemy.engine import make_url

    parsed = make_url(url)
    host = f"{parsed.host or ''}{f':{parsed.port}' if parsed.port else ''}"
    return f"postgresql://{host}/{parsed.database or ''}"


def require_driver(what: str) -> None:
    """``MissingExtra`` where the driver, or pgvector's adapter for it, is not installed."""
    from importlib.util import find_spec

    if find_spec("psycopg") is None or find_spec("pgvector") is None:
        raise MissingExtra(what, "pgvector")


def passes(error: psycopg.Error) -> bool:
    """Whether it may be over when the same command is run again."""
    state = error.sqlstate
    if state is None:  # no connection could be made, or the server is gone
        import psycopg

        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return state[:2] in _PASSING_CLASSES or state in _PASSING


def is_away(error: psycopg.Error) -> bool:
    """Whether there is no server at the other end just now."""
    state = error.sqlstate
    return passes(error) if state is None else state[:2] == _AWAY_CLASS or state in _AWAY


def headline(error: psycopg.Error) -> str:
    """What the server says, without DETAIL and CONTEXT: these quote values of rows."""
    said = error.diag.message_primary or (str(error).splitlines() or [""])[0]
    return said or type(error).__name__


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Errors of the driver as errors with a contracted exit code. ``where`` is a ``place``."""
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        found = contracted(error, where)
        if found is None:
            raise
        raise found from None


def contracted(error: psycopg.Error, where: str) -> StorageUnavailable | ConfigError | None:
    """The error for the person on call; None for a fault of this program."""
    state = error.sqlstate or ""
    if state.startswith(_PASSWORD_CLASS) or "password authentication failed" in str(error):
        return ConfigError(
            f"{where} does not let this role in",
            found=_without_user(error),
            expected="a role with a password that is right",
            next_step="correct `url`, or the variable that its password comes from",
        )
    if state == _DENIED:
        return ConfigError(
            f"the role may not do this in {where}",
            found=headline(error),
            expected="the grants of docs/postgresql.md",
            next_step="embedmigrate doctor; then run the grants that it names",
        )
    if passes(error):
        kind = ServerAway if is_away(error) else StorageUnavailable
        return kind(
            f"{where} cannot be used now",
            found=headline(error),
            next_step="check the server, then run the same command again",
        )
    return None


def _without_user(error: psycopg.Error) -> str:
    return error.sqlstate or "the server refused the password"
