"""What the system catalogs of PostgreSQL say of a table that is recorded, and of its parts.

A table may be partitioned or have heirs, and rows can reach each part by its own name. What can
change rows without firing a trigger leaves a trace here: TRUNCATE and a rewrite give a part another
file, ATTACH, DETACH and DROP change the list of parts or their triggers, and DISABLE TRIGGER leaves
a new version of the row that describes the trigger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from embedmigrate.errors import ConfigError
from embedmigrate.sources.database import Database

_PARTS = """
WITH RECURSIVE part AS (
    SELECT c.oid FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relname = :table AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    AND CASE WHEN CAST(:schema AS text) IS NULL THEN pg_catalog.pg_table_is_visible(c.oid)
        ELSE n.nspname = :schema END
    UNION
    SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i JOIN part ON i.inhparent = part.oid
)
SELECT n.nspname, c.relname, CAST(c.relkind AS text), CAST(c.relpersistence AS text),
    c.relispartition, CAST(c.oid AS bigint), CAST(c.relfilenode AS bigint),
    CAST(t.oid AS bigint), CAST(t.xmin AS text),
    CAST(t.tgenabled AS text), CAST(t.tgtype AS integer),
    CASE WHEN p.prosecdef THEN p.prosrc END, pg_catalog.pg_is_in_recovery()
FROM part JOIN pg_catalog.pg_class AS c ON c.oid = part.oid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_trigger AS t ON t.tgrelid = c.oid AND t.tgname = :trigger
LEFT JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
ORDER BY c.oid
"""
_TYPES = """
SELECT column_name, data_type FROM information_schema.columns
WHERE table_schema = :schema AND table_name = :table
"""

_ROWS = 29
"""``tgtype`` of a trigger AFTER INSERT OR UPDATE OR DELETE FOR EACH ROW."""
_ALWAYS = "A"
_ORDINARY, _PARTITIONED = "r", "p"
_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}


@dataclass(frozen=True)
class Part:
    """A table, a partition or an heir, with the trigger that records its rows, if there is one."""

    schema: str
    name: str
    kind: str
    persistence: str
    is_partition: bool
    oid: int
    file: int
    trigger: int | None
    version: str | None
    """Of the description of the trigger: another one after each ALTER."""
    enabled: str | None
    events: int | None
    function: str | None
    """The text of a function that runs as its owner."""
    on_standby: bool

    def is_recorded_by(self, function: str) -> bool:
        """Whether every change of a row runs ``function``, whoever makes it."""
        return self.function == function and self.enabled == _ALWAYS and self.events == _ROWS

    @property
    def identity(self) -> tuple[object, ...]:
        """Another one after anything that may have changed rows without firing a trigger."""
        return self.oid, self.file, self.trigger, self.version


def parts_of(database: Database, schema: str | None, table: str, trigger: str) -> list[Part]:
    """The table itself, which comes first, and everything that a query of it reads."""
    rows: Sequence[Sequence[Any]] = database.rows(
        sa.text(_PARTS).bindparams(schema=schema, table=table, trigger=trigger)
    )
    parts = [Part(*row) for row in rows]
    whole = [part for part in parts if part.name == table and schema in (None, part.schema)]
    return [*whole[:1], *(part for part in parts if part not in whole[:1])]


def times_of(database: Database, table: Part, columns: Sequence[str]) -> list[bool]:
    """Which of the columns hold dates or times: what they look like is for a session to set."""
    rows: Sequence[Sequence[Any]] = database.rows(
        sa.text(_TYPES).bindparams(schema=table.schema, table=table.name)
    )
    types = {str(name): str(kind) for name, kind in rows}
    if missing := [column for column in columns if column not in types]:
        raise ConfigError(
            f"the columns of the key cannot be looked up: {', '.join(missing)}",
            expected="a role that may read the table, SELECT at least",
            next_step="grant it, or correct `key` of the source in the configuration",
        )
    return [types[column].startswith(("timestamp", "date")) for column in columns]


def needing_triggers(parts: Sequence[Part]) -> list[Part]:
    """Those that a trigger has to be put on: partitions get theirs from the partitioned table."""
    root = parts[0]
    return [root] if root.kind == _PARTITIONED else list(parts)


def refuse_unrecordable(parts: Sequence[Part]) -> None:
    """``ConfigError`` for tables whose rows can change without firing a trigger."""
    for part in parts:
        if part.kind not in (_ORDINARY, _PARTITIONED) or part.persistence != "p":
            raise ConfigError(
                f"triggers cannot record the changes of {part.schema}.{part.name}",
                found=_KINDS.get(part.kind, "a table that is not logged"),
                expected="an ordinary or partitioned table",
                next_step='configure the table behind it; or changes = "application", '
                "and Collection.changed(ids)",
            )
