"""Damage, found by reading everything. The server keeps most of it out: types, keys, checksums."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg

from embedmigrate import postgres
from embedmigrate.stores.pgvector.ann import ann_indexes
from embedmigrate.stores.pgvector.connections import Connection
from embedmigrate.stores.pgvector.layout import Found
from embedmigrate.stores.pgvector.names import document_id

_SHOWN = 10
_DUPLICATES = """
SELECT id, chunk, count(*) FROM {table} GROUP BY id, chunk HAVING count(*) > 1 LIMIT %s
"""
_UNSOUND = """
SELECT count(*) FILTER (WHERE vector_dims(embedding) <> %(dimensions)s),
       count(*) FILTER (WHERE NOT vector_norm(embedding) < 'Infinity'),
       count(*) FILTER (WHERE fingerprint = '')
FROM {table}
"""
_CORRUPT_CLASS = "XX"


def find_problems(connection: Connection, found: Found) -> Iterator[str]:
    """What is wrong with the rows and indexes of an index. Inside a transaction of the caller's."""
    layout = found.layout
    for name, valid in ann_indexes(connection, found):
        if not valid:
            yield f"index {name} of the server is invalid"
    try:
        dimensions, norms, stamps = connection.execute(
            layout.statement(_UNSOUND), {"dimensions": found.manifest.dimensions}
        ).fetchone() or (0, 0, 0)
        duplicates = connection.execute(layout.statement(_DUPLICATES), (_SHOWN,)).fetchall()
    except psycopg.Error as error:
        if (error.sqlstate or "")[:2] != _CORRUPT_CLASS:
            raise
        yield f"the server cannot read the table: {postgres.headline(error)}"
        return
    if dimensions:
        yield f"{dimensions} vectors do not have {found.manifest.dimensions} dimensions"
    if norms:
        yield f"{norms} vectors have values that are not finite"
    if stamps:
        yield f"{stamps} vectors have no fingerprint"
    for id, chunk, times in duplicates:
        yield f"document {document_id(id)!r}, chunk {chunk} is there {times} times"
