"""Reading an index: search, and the scans that comparison and verification need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from psycopg import sql

from embedmigrate.embedders.base import Vectors
from embedmigrate.errors import DamagedIndex
from embedmigrate.stores.base import (
    Filter,
    Hit,
    IndexManifest,
    IndexStatistics,
    Stamp,
    StoredState,
)
from embedmigrate.stores.checking import check_queries
from embedmigrate.stores.pgvector.checks import find_problems
from embedmigrate.stores.pgvector.connections import Connection, Connections, settings
from embedmigrate.stores.pgvector.encoding import VectorArray, decode_vectors, register
from embedmigrate.stores.pgvector.layout import Found, Layout, find, read_manifest
from embedmigrate.stores.pgvector.names import document_id, stored_id
from embedmigrate.stores.pgvector.search import Effort, Search
from embedmigrate.stores.pgvector.statements import STATES, STATES_OF

_NOW = "SELECT manifest, ann_rows FROM {indexes} WHERE index = {index} AND born = {born}::uuid"
_VECTORS = """
SELECT t.embedding
FROM unnest(%(ids)s::text[], %(chunks)s::integer[]) WITH ORDINALITY AS k (id, chunk, number)
LEFT JOIN {table} AS t ON t.id = k.id AND t.chunk = k.chunk
ORDER BY k.number
"""
_STAMPS = "SELECT fingerprint, run, count(*) FROM {table} GROUP BY 1, 2 ORDER BY 1, 2"
_SOME_STAMPS = """
WITH size AS (
    SELECT pg_relation_size({table_text}) / current_setting('block_size')::integer AS blocks
),
newest AS (
    SELECT id, chunk, fingerprint, run FROM {table}
    WHERE ctid >= (
        SELECT format('(%%s,0)', GREATEST(blocks - %(newest)s, 0))::tid FROM size
    )
),
others AS (
    SELECT id, chunk, fingerprint, run FROM {table} TABLESAMPLE SYSTEM (
        (SELECT LEAST(100, 100.0 * %(others)s / GREATEST(blocks, 1)) FROM size)
    )
)
SELECT fingerprint, run, count(*)
FROM (SELECT * FROM newest UNION SELECT * FROM others) AS sample
GROUP BY 1, 2 ORDER BY 1, 2
"""
_FIGURES = """
SELECT COALESCE(sum(chunks), 0)::bigint, count(*)::bigint,
       pg_total_relation_size({table_text}),
       (SELECT ann_rows > 0 FROM {indexes} WHERE index = {index})
FROM (SELECT count(*) AS chunks FROM {table} GROUP BY id) AS documents
"""
_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_STREAMED_ROWS = 5_000
_BLOCK_BYTES, _ROW_BYTES, _LARGEST_INLINE = 8192, 220, 2000
_SCAN = {"statement_timeout": 0, "idle_in_transaction_session_timeout": 0}
"""Whoever reads everything may take its time, and the one who is read for may take hers."""


class PgvectorReader:
    """Safe for many threads, each of which has a connection of its own while it reads.

    A connection that turns out to be dead is replaced, and the read done once more: a restart of
    the server is not noticed unless it takes longer than that.
    """

    def __init__(self, layout: Layout, effort: Effort) -> None:
        self._layout, self._database = layout, layout.database
        self._connections = Connections(self._database, self._prepare)
        self._found: Found | None = None
        try:
            with self._database.translated(layout.index):
                found = self._connections.run(lambda _: self._there)
        except BaseException:
            self._connections.close()
            raise
        self.manifest: IndexManifest = found.manifest
        self._search = Search(found, effort)
        self._ann_rows = found.ann_rows

    def _prepare(self, connection: Connection) -> None:
        """See what a new connection is connected to; ``IndexGone`` when it is no longer there."""
        found = find(connection, self._layout)
        if self._found is None:
            self._found = found
        elif found.born != self._found.born:
            raise self._database.gone(self._layout.index)
        register(connection, found.vector_oid, found.vector_array_oid)

    @property
    def _there(self) -> Found:
        assert self._found is not None  # since the first connection was made
        return self._found

    # -- search ---------------------------------------------------------------------------

    def search(
        self, queries: Vectors, k: int, filter: Filter | None = None, *, exact: bool = False
    ) -> list[list[Hit]]:
        check_queries(self.manifest, queries, k)
        through_ann = not exact and self._ann_rows > 0
        hits = self._nearest(queries, k, filter, exact=not through_ann)
        short = [number for number, found in enumerate(hits) if len(found) < k]
        if through_ann and short:
            again = self._nearest(queries[short], k, filter, exact=True)
            for number, found in zip(short, again, strict=True):
                hits[number] = found
        return hits

    def _nearest(
        self, queries: Vectors, k: int, filter: Filter | None, *, exact: bool
    ) -> list[list[Hit]]:
        search = self._search
        candidates = k if exact else search.candidates(k)
        text, parameters = search.statement(filter, exact=exact)
        parameters |= {"queries": VectorArray(queries), "k": k, "candidates": candidates}
        needed = (
            self._there.settings(jit="off")
            if exact
            else search.settings(candidates, self._ann_rows, filtered=bool(filter))
        )
        return search.hits(len(queries), self._ask(text, parameters, needed))

    # -- scans ----------------------------------------------------------------------------

    def states(self) -> Iterator[StoredState]:
        text = self._layout.statement(f"{STATES} ORDER BY id, chunk")
        for id, *others in self._streamed(text, _STREAMED_ROWS):
            yield StoredState(document_id(id), *others)

    def get(self, ids: Sequence[str]) -> list[StoredState]:
        stored = [stored_id(id) for id in dict.fromkeys(ids)]
        rows = self._ask(self._layout.statement(STATES_OF), {"ids": stored}, self._by_key)
        return [StoredState(document_id(id), *others) for id, *others in rows]

    def vectors(self, keys: Sequence[tuple[str, int]]) -> Vectors:
        parameters = {
            "ids": [stored_id(id) for id, _ in keys],
            "chunks": [chunk for _, chunk in keys],
        }
        rows = self._ask(self._layout.statement(_VECTORS), parameters, self._by_key)
        for key, (vector,) in zip(keys, rows, strict=True):
            if vector is None:
                raise KeyError(key)
        return decode_vectors([vector for (vector,) in rows], self.manifest.dimensions)

    def blocks(self, size: int = 8192) -> Iterator[Vectors]:
        text = self._layout.statement("SELECT embedding FROM {table}")
        for rows in batched(self._streamed(text, size), size):
            yield decode_vectors([vector for (vector,) in rows], self.manifest.dimensions)

    # -- figures --------------------------------------------------------------------------

    def stamps(self, sample: int | None = None) -> list[Stamp]:
        if sample is None:
            rows = self._ask(self._layout.statement(_STAMPS), {}, self._whole)
        else:
            inline = _ROW_BYTES + 4 * self.manifest.dimensions
            in_a_block = _BLOCK_BYTES // (inline if inline < _LARGEST_INLINE else _ROW_BYTES)
            blocks = -(-sample // in_a_block)
            parameters = {"newest": -(-blocks // 4), "others": -(-3 * blocks // 4)}
            text = self._layout.statement(_SOME_STAMPS, table_text=self._table_text)
            rows = self._ask(text, parameters, self._there.settings())
        return [Stamp(*row) for row in rows]

    def statistics(self) -> IndexStatistics:
        text = self._layout.statement(_FIGURES, table_text=self._table_text)
        ((vectors, documents, size, has_ann),) = self._ask(text, {}, self._whole)
        return IndexStatistics(
            vectors=vectors,
            documents=documents,
            dead=0,  # the server clears them away by itself
            bytes=size,
            ann_through=vectors if has_ann else 0,
        )

    def problems(self) -> list[str]:
        # The rows themselves: an index would not show what is missing in it.
        scans = ("enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan")
        try:
            with self._snapshot() as connection:
                connection.execute(settings(dict.fromkeys(scans, "off")))
                return list(find_problems(connection, self._there))
        except DamagedIndex as error:
            return [error.message]

    def close(self) -> None:
        self._connections.close()

    # -- asking ---------------------------------------------------------------------------

    def _ask(
        self, text: sql.Composed, parameters: Mapping[str, Any], needed: Mapping[str, object]
    ) -> list[tuple[Any, ...]]:
        """The rows of one statement, in binary format, with what ``store_index`` says now."""

        def ask(connection: Connection) -> tuple[tuple[Any, ...] | None, list[tuple[Any, ...]]]:
            with connection.pipeline():
                connection.execute(settings(needed))
                now = connection.execute(self._now)
                cursor = connection.execute(text, parameters, binary=True)
            return now.fetchone(), cursor.fetchall()

        with self._database.translated(self._layout.index):
            now, rows = self._connections.run(ask)
        self._look_at(now)
        return rows

    def _look_at(self, now: tuple[Any, ...] | None) -> None:
        if now is None:
            raise self._database.gone(self._layout.index)
        self.manifest = read_manifest(self._database, self._layout.index, now[0])
        self._ann_rows = now[1]

    def _streamed(self, text: sql.Composed, size: int) -> Iterator[tuple[Any, ...]]:
        """The rows of a statement as they come, ``size`` in a round trip, of one moment."""
        with (
            self._snapshot() as connection,
            connection.cursor("streamed", binary=True) as cursor,
        ):
            cursor.itersize = size
            cursor.execute(text)
            yield from cursor

    @contextmanager
    def _snapshot(self) -> Iterator[Connection]:
        """A connection in a transaction in which everything is of one moment."""
        with (
            self._database.translated(self._layout.index),
            self._connections.begun(_SNAPSHOT) as connection,
        ):
            connection.execute(settings(self._whole))
            self._look_at(connection.execute(self._now).fetchone())
            yield connection

    @property
    def _now(self) -> sql.Composed:
        return self._layout.statement(_NOW, born=sql.Literal(self._there.born))

    @property
    def _table_text(self) -> sql.Literal:
        return sql.Literal(self._layout.table.as_string())

    @property
    def _whole(self) -> dict[str, object]:
        return self._there.settings(**_SCAN)

    @property
    def _by_key(self) -> dict[str, object]:
        return self._there.settings(enable_seqscan="off")


def batched(rows: Iterator[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    while some := list(islice(rows, size)):
        yield some
