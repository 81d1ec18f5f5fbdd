"""Holding the writers of a PostgreSQL table off, for the moments of a strict cut-over."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import sqlalchemy as sa

from embedmigrate.errors import Temporary

if TYPE_CHECKING:
    from embedmigrate.sources.database import Database

LOCK_SECONDS = 1
_PAUSES = (0.5, 1.0, 2.0)
_IN_THE_WAY = frozenset({"55P03", "40P01"})
"""Lock timeout, deadlock."""


@contextmanager
def standstill(database: Database, schema: str | None, table: str) -> Iterator[None]:
    """Nothing is committed to the table until the block ends; who reads it goes on.

    Waits for transactions that have written to it, ``LOCK_SECONDS`` at a time, so that others wait
    behind it no longer; ``Temporary`` when one stays open.
    """
    named = sa.Table(table, sa.MetaData(), schema=schema)
    with database.writing() as connection:
        quoted = connection.dialect.identifier_preparer.format_table(named)
        for pause in (*_PAUSES, None):
            try:
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
                connection.exec_driver_sql(
                    f"LOCK TABLE {quoted} IN SHARE MODE", execution_options={"no_parameters": True}
                )
                break
            except sa.exc.DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in _IN_THE_WAY:
                    raise
                connection.rollback()
                if pause is None:
                    raise Temporary(
                        f"{table} is written to by a transaction that stays open",
                        expected=f"a pause, in {len(_PAUSES) + 1} tries of {LOCK_SECONDS} s",
                        next_step="end it (pg_stat_activity shows what it does), then run the "
                        "same command again; nothing was switched",
                    ) from None
            time.sleep(pause)
        yield
