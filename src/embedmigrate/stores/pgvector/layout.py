"""The tables: what they are made of, and how an index is found among them."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from psycopg import sql

from embedmigrate.errors import UnknownCatalog
from embedmigrate.stores.base import IndexManifest
from embedmigrate.stores.pgvector.connections import LOCK_MILLISECONDS, Connection, Database
from embedmigrate.stores.pgvector.names import INDEXES, TOMBSTONES, table_name

LAYOUT = 1
MINIMUM = (0, 8)
"""pgvector 0.8 goes on searching where a filter, or a small ``ef_search``, left too little."""

MAKE_INDEXES = """
CREATE TABLE {indexes} (
    index text COLLATE "C" PRIMARY KEY,
    born uuid NOT NULL DEFAULT gen_random_uuid(),  -- another for another index of the same name
    table_name text NOT NULL UNIQUE,
    layout integer NOT NULL,
    manifest jsonb NOT NULL,
    owner_epoch bigint NOT NULL DEFAULT 0,
    owner_token text NOT NULL DEFAULT '',          -- which writer object of that epoch
    owner_backend integer,                         -- process that serves it on this server
    ann_rows bigint NOT NULL DEFAULT 0             -- that there were when the ANN index was built
)
"""
MAKE_TOMBSTONES = """
CREATE TABLE {tombstones} (
    index text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (index, id)
)
"""
MAKE_VECTORS = """
CREATE TABLE {table} (
    id text COLLATE "C" NOT NULL,
    chunk integer NOT NULL,
    seq bigint NOT NULL,
    content_hash bytea NOT NULL,
    metadata_hash bytea NOT NULL,
    fingerprint text NOT NULL,
    run text NOT NULL,
    metadata jsonb NOT NULL,
    metadata_text text,                            -- as written, where jsonb would change it
    written_at timestamptz NOT NULL DEFAULT now(),
    embedding {vector}({dimensions}) NOT NULL,
    PRIMARY KEY (id, chunk)
)
"""
_FIND = """
SELECT i.born::text, i.layout, i.manifest, i.ann_rows, to_regclass({table}) IS NOT NULL,
       n.nspname, e.extversion, t.oid::bigint, t.typarray::bigint
FROM {indexes} AS i
LEFT JOIN pg_extension AS e ON e.extname = 'vector'
LEFT JOIN pg_namespace AS n ON n.oid = e.extnamespace
LEFT JOIN pg_type AS t ON t.typnamespace = e.extnamespace AND t.typname = 'vector'
WHERE i.index = {index}
"""


@dataclass(frozen=True)
class Layout:
    """Where an index lies, as SQL names it."""

    database: Database
    index: str

    @property
    def table(self) -> sql.Identifier:
        return sql.Identifier(self.database.schema, table_name(self.index))

    @property
    def indexes(self) -> sql.Identifier:
        return sql.Identifier(self.database.schema, INDEXES)

    @property
    def tombstones(self) -> sql.Identifier:
        return sql.Identifier(self.database.schema, TOMBSTONES)

    def statement(self, text: str, **parts: sql.Composable) -> sql.Composed:
        """SQL with ``{table}``, ``{indexes}``, ``{tombstones}`` and other parts filled in.

        ``{index}``, unless it is given, is the name of the index as a literal.
        """
        common: dict[str, sql.Composable] = {
            "table": self.table,
            "indexes": self.indexes,
            "tombstones": self.tombstones,
            "index": sql.Literal(self.index),
        }
        return sql.SQL(text).format(**{**common, **parts})


@dataclass(frozen=True)
class Found:
    """What ``store_index`` says of an index, and where pgvector lies."""

    layout: Layout
    born: str
    manifest: IndexManifest
    ann_rows: int
    extension_schema: str
    vector_oid: int
    vector_array_oid: int

    def settings(self, **others: object) -> dict[str, object]:
        """Settings that every transaction on the index begins with."""
        return {
            "lock_timeout": LOCK_MILLISECONDS,
            # The type and its operators are found where the extension is, whatever a role's own
            # path says. Nothing else is looked up by it.
            "search_path": quoted(self.extension_schema),
            **others,
        }


def quoted(name: str) -> str:
    return sql.Identifier(name).as_string()


def find(connection: Connection, layout: Layout) -> Found:
    """The index; ``IndexGone`` without one, ``DamagedIndex``, ``UnknownCatalog``, ``ConfigError``.

    An error of the driver stands for a schema or a table that is not there.
    """
    database, index = layout.database, layout.index
    name = sql.Literal(layout.table.as_string(connection))
    row = connection.execute(layout.statement(_FIND, table=name)).fetchone()
    if row is None:
        raise database.gone(index)
    born, version, manifest, ann_rows, is_there, schema, extension, oid, array_oid = row
    if version > LAYOUT:
        raise UnknownCatalog(
            f"index {index} in schema {database.schema} was made by a newer embedmigrate",
            found=f"layout {version}",
            expected=f"at most {LAYOUT}",
            next_step="pip install --upgrade embedmigrate",
        )
    if not is_there:
        raise database.damaged(index, "its table is missing", expected=table_name(index))
    check_extension(database, extension)
    return Found(
        layout, born, read_manifest(database, index, manifest), ann_rows, schema, oid, array_oid
    )


def check_extension(database: Database, version: str | None) -> None:
    """``ConfigError`` without pgvector, or with one that is too old."""
    if version is None:
        raise database.no_extension("no extension vector in this database")
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < MINIMUM:
        raise database.no_extension(f"pgvector {version}")


def read_manifest(database: Database, index: str, stored: Any) -> IndexManifest:
    try:
        manifest = IndexManifest(**stored)
    except TypeError as error:
        raise database.damaged(index, f"its manifest cannot be read ({error})") from error
    if manifest.index != index:
        raise database.damaged(index, f"its manifest is of {manifest.index}", expected=index)
    return manifest


def manifest_json(manifest: IndexManifest) -> str:
    return json.dumps(asdict(manifest))


def same_index(one: IndexManifest, other: IndexManifest) -> bool:
    """Whether two manifests are of one index, whatever generations it was live in."""
    return replace(one, generation=0) == replace(other, generation=0)
