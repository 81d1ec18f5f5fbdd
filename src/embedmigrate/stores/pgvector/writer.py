"""Writing an index: one owner at a time, every write one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg import sql

from embedmigrate.embedders.base import Vectors
from embedmigrate.errors import FencedOut
from embedmigrate.stores.base import (
    BuildProgress,
    Row,
    StoredState,
    Written,
    refuse_other_space,
)
from embedmigrate.stores.checking import check_rows, check_vectors
from embedmigrate.stores.pgvector import statements
from embedmigrate.stores.pgvector.ann import BuildOptions, build
from embedmigrate.stores.pgvector.connections import (
    LOCK_MILLISECONDS,
    Connection,
    is_lost,
    settings,
)
from embedmigrate.stores.pgvector.encoding import (
    COLUMNS,
    VectorArray,
    copy_rows,
    decode_vectors,
    register,
)
from embedmigrate.stores.pgvector.factory import Factory
from embedmigrate.stores.pgvector.layout import Layout, find, manifest_json
from embedmigrate.stores.pgvector.metadata import stored_metadata
from embedmigrate.stores.pgvector.names import document_id, stored_id
from embedmigrate.stores.pgvector.wire import run_with_rows

_IDLE = psycopg.pq.TransactionStatus.IDLE
_BY_KEY = {"enable_seqscan": "off"}
"""A few documents are looked up by key, whatever is known of the size of a table that grows."""
_ALL_COLUMNS = sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
_SOME_COLUMNS: dict[str, sql.Composable] = {"vectors": sql.SQL(""), "embedding": sql.SQL("")}
_WITH_VECTORS: dict[str, sql.Composable] = {
    "vectors": sql.SQL(", %(vectors)s"),
    "embedding": sql.SQL(", embedding"),
}


class PgvectorWriter:
    """The owner of an index: its token stands in the row of the index until another one takes over.

    Documents of which nothing is stored go straight into the table with COPY; others are written
    by one statement that compares and replaces. A write that turns out to be of the other kind
    costs a round trip more, once: the next one begins as it ended.

    A connection that was lost is opened again by the next call; the token stays.
    """

    def __init__(
        self,
        layout: Layout,
        epoch: int,
        run: str,
        accepts: Collection[str],
        options: BuildOptions,
    ) -> None:
        self._layout, self._database = layout, layout.database
        self._epoch, self._token = epoch, uuid.uuid4().hex
        self._run, self._accepts = run, frozenset(accepts)
        self._options = options
        self._mostly_new = True
        self._closed = False
        self.on_progress: Callable[[BuildProgress], None] | None = None
        with self._database.translated(layout.index):
            connection = self._database.connect()
            try:
                self._found = find(connection, layout)
                register(connection, self._found.vector_oid, self._found.vector_array_oid)
                self._take(connection)
            except BaseException:
                connection.close()
                raise
        self._connection: Connection = connection
        self.manifest = self._found.manifest

    # -- ownership ------------------------------------------------------------------------

    def _take(self, connection: Connection) -> None:
        """Become the owner; ``FencedOut`` when a greater epoch is recorded."""
        name = sql.Literal(self._layout.table.as_string(connection))
        parameters = {"epoch": self._epoch}
        with connection.pipeline():
            connection.execute(settings({"lock_timeout": LOCK_MILLISECONDS}))
            connection.execute(
                self._statement(statements.END_BUILD_OF_OTHERS, table_text=name), parameters
            )
            taken = connection.execute(self._statement(statements.TAKE), parameters)
        if taken.fetchone() is None:
            raise self._refusal(connection)

    def _refusal(self, connection: Connection) -> Exception:
        """The error for a writer that does not own the index (any more)."""
        row = connection.execute(self._statement(statements.WHO_OWNS)).fetchone()
        if row is None:
            return self._database.gone(self._layout.index)
        return FencedOut(
            f"another writer took index {self._layout.index!r} over",
            found=f"owner epoch {row[0]}",
            expected=f"epoch {self._epoch}",
            next_step="embedmigrate status shows who works on it",
        )

    # -- writing --------------------------------------------------------------------------

    def begin(self, run: str) -> None:
        self._run = run

    def write(self, rows: Sequence[Row], vectors: Vectors, *, space: str) -> Written:
        refuse_other_space(self.manifest, space, self._accepts)
        seqs = check_rows(rows)
        check_vectors(self.manifest, rows, vectors)
        if rows and self._mostly_new and self._copy(list(seqs), rows, vectors, space):
            return Written(len(seqs), 0)
        parameters = _columns(rows)
        parameters |= {
            "vectors": VectorArray(vectors), "fingerprint": space, "run": self._run
        }  # fmt: skip
        outdated, replaced = self._change(statements.WRITE, parameters, _WITH_VECTORS)
        self._mostly_new = not outdated and not replaced
        return Written(len(seqs) - outdated, outdated)

    def _copy(self, ids: Sequence[str], rows: Sequence[Row], vectors: Vectors, space: str) -> bool:
        """Write documents of which nothing is stored; False, and nothing written, for others."""
        with self._database.translated(self._layout.index):
            connection = self._open()
            check = self._statement(
                statements.CHECK_NEW, ids=sql.Literal([stored_id(id) for id in ids])
            )
            copy = self._statement(statements.COPY, columns=_ALL_COLUMNS)
            begin = settings(self._found.settings(**_BY_KEY))
            message = sql.SQL("; ").join([begin, sql.SQL(statements.DURABLE), check, copy])
            data = copy_rows(rows, vectors, space, self._run)
            try:
                run_with_rows(connection, message.as_bytes(connection), data)
            except psycopg.Error as error:
                if error.sqlstate != statements.NOT_NEW:
                    raise
                self._mostly_new = False
                return False
        return True

    def write_metadata(self, rows: Sequence[Row]) -> Written:
        check_rows(rows)
        applied, outdated = self._change(statements.WRITE_METADATA, _columns(rows), _SOME_COLUMNS)
        return Written(applied, outdated)

    def delete(self, documents: Sequence[tuple[str, int]]) -> Written:
        seqs: dict[str, int] = {}
        for id, seq in documents:
            seqs[id] = max(seq, seqs.get(id, seq))
        parameters = {"ids": [stored_id(id) for id in seqs], "seqs": list(seqs.values())}
        applied, outdated = self._change(statements.DELETE, parameters)
        return Written(applied, outdated)

    def discard(self, run: str) -> int:
        (rows,) = self._change(statements.DISCARD, {"run": run}, by_key=False)
        return rows

    def forget_tombstones(self, before_seq: int) -> int:
        (tombstones,) = self._change(statements.FORGET, {"before": before_seq}, by_key=False)
        return tombstones

    def set_generation(self, generation: int) -> None:
        manifest = replace(self.manifest, generation=generation)
        self._change(statements.SET_MANIFEST, {"manifest": manifest_json(manifest)})
        self.manifest = manifest

    def _change(
        self,
        text: str,
        parameters: Mapping[str, Any],
        parts: Mapping[str, sql.Composable] = MappingProxyType({}),
        *,
        by_key: bool = True,
    ) -> tuple[int, ...]:
        """Run one statement of the owner; its numbers, but for the first. Raises ``FencedOut``."""
        with self._database.translated(self._layout.index):
            connection = self._open()
            needed = self._found.settings(**_BY_KEY) if by_key else self._found.settings()
            with connection.pipeline():
                connection.execute(settings(needed))
                connection.execute(statements.DURABLE)
                cursor = connection.execute(self._statement(text, **parts), parameters)
            numbers = cursor.fetchone()
            assert numbers is not None
            if not numbers[0]:
                raise self._refusal(connection)
        return tuple(numbers[1:])

    # -- reading --------------------------------------------------------------------------

    def find_vectors(self, hashes: Sequence[bytes]) -> dict[bytes, Vectors]:
        found = self._read(statements.FIND_VECTORS, {"hashes": list(set(hashes))})
        vectors = decode_vectors([vector for _, vector in found], self.manifest.dimensions)
        return {hash: vector for (hash, _), vector in zip(found, vectors, strict=True)}

    def existing(self, ids: Sequence[str]) -> list[StoredState]:
        stored = [stored_id(id) for id in dict.fromkeys(ids)]
        return [
            StoredState(document_id(id), *others)
            for id, *others in self._read(statements.STATES_OF, {"ids": stored})
        ]

    def _read(self, text: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """The rows of a statement; asked once more where the connection was dead."""

        def ask() -> list[tuple[Any, ...]]:
            connection = self._open()
            with connection.pipeline():
                connection.execute(settings(self._found.settings(enable_seqscan="off")))
                cursor = connection.execute(self._statement(text), parameters, binary=True)
            return cursor.fetchall()

        with self._database.translated(self._layout.index):
            connection = self._open()
            try:
                return ask()
            except psycopg.Error as error:
                if not is_lost(connection, error):
                    raise
                connection.close()
            return ask()

    # -- building -------------------------------------------------------------------------

    def build(self) -> None:
        with self._database.translated(self._layout.index):
            connection = self._open()
            # Which backend builds: the next owner ends it (statements.END_BUILD_OF_OTHERS).
            with connection.pipeline():
                connection.execute(settings(self._found.settings()))
                claimed = connection.execute(self._statement(statements.CLAIM))
            if claimed.fetchone() is None:
                raise self._refusal(connection)
            build(
                connection,
                self._found,
                Factory.parse(self.manifest.factory),
                self._options,
                self._check_owner,
                self.on_progress,
            )

    def _check_owner(self, connection: Connection) -> None:
        """``FencedOut`` unless this writer is the owner, and stays so through the transaction."""
        row = connection.execute(self._statement(statements.CHECK_OWNER)).fetchone()
        if row is None or not row[0]:
            raise self._refusal(connection)

    def close(self) -> None:
        """Idempotent. The index stays this writer's until another one asks for it."""
        self._closed = True
        self._connection.close()

    # -- helpers --------------------------------------------------------------------------

    def _open(self) -> Connection:
        """The connection, or a new one where it was lost."""
        connection = self._connection
        if self._closed:
            raise ValueError("the index writer is closed")
        if connection.closed or connection.info.transaction_status != _IDLE:
            connection.close()
            connection = self._connection = self._database.connect()
            register(connection, self._found.vector_oid, self._found.vector_array_oid)
        return connection

    def _statement(self, text: str, **parts: sql.Composable) -> sql.Composed:
        parts = {"columns": _ALL_COLUMNS, "token": sql.Literal(self._token), **parts}
        return self._layout.statement(text, **parts)


def _columns(rows: Sequence[Row]) -> dict[str, Any]:
    """Rows, without vectors, as a parameter for each of their columns."""
    metadata = [stored_metadata(row.metadata) for row in rows]
    return {
        "ids": [stored_id(row.id) for row in rows],
        "chunks": [row.chunk for row in rows],
        "seqs": [row.seq for row in rows],
        "content_hashes": [row.content_hash for row in rows],
        "metadata_hashes": [row.metadata_hash for row in rows],
        "metadata": [searched for searched, _ in metadata],
        "metadata_texts": [exact for _, exact in metadata],
    }
