"""Reading an adopted index: somebody else's vectors and search structure, our side table.

The foreign file is mapped and never written; it is watched, because what its owner changes in it
is not what was proven any more.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from embedmigrate.embedders.base import Vectors
from embedmigrate.errors import DamagedIndex
from embedmigrate.stores.base import Filter, Hit, IndexStatistics, Stamp, StoredState
from embedmigrate.stores.checking import check_queries
from embedmigrate.stores.faiss import exact
from embedmigrate.stores.faiss.ann import Effort
from embedmigrate.stores.faiss.checks import row_problems
from embedmigrate.stores.faiss.connections import Connections
from embedmigrate.stores.faiss.database import (
    FILE,
    BoolArray,
    Positions,
    damaged,
    gone,
    identity,
    read_manifest,
    read_states,
    read_through,
    snapshot,
    translated,
)
from embedmigrate.stores.faiss.external import ExternalFaiss
from embedmigrate.stores.faiss.rows import (
    SPARE,
    admitted,
    count_documents,
    count_stamps,
    ranked,
    read_live_states,
)
from embedmigrate.stores.faiss.side_table import Guarded
from embedmigrate.stores.faiss.similarity import Candidates, Similarity


class AdoptedReader:
    """An ``IndexReader`` over a foreign index. Nothing in it changes; safe for many threads."""

    def __init__(self, folder: Path, root: Path, effort: Effort) -> None:
        """``root`` is what relative paths of foreign files start from."""
        self._folder, self._file = folder, folder / FILE
        self._lock = threading.Lock()
        self._foreign = Guarded(folder, root)
        self._filtered: dict[tuple[str, ...], BoolArray] = {}
        with translated(self._file), ExitStack() as opened:
            self._identity = identity(folder)
            self._connections = Connections(folder)
            opened.callback(self._connections.close)
            self._foreign.check()
            self._external = ExternalFaiss.open(self._foreign.path, None, effort)
            opened.callback(self._external.close)
            with self._connections.taken() as connection, snapshot(connection):
                self.manifest = read_manifest(connection, folder)
                rows = read_through(connection)
            found = (len(self._external), self._external.dimensions)
            if found != (rows, self.manifest.dimensions):
                raise damaged(
                    self._file,
                    f"it does not belong to {self._foreign.path}",
                    found=f"{found[0]} vectors of {found[1]} dimensions",
                    expected=f"{rows} of {self.manifest.dimensions}",
                )
            opened.pop_all()
        self._similarity = Similarity.of(self.manifest)

    # -- search ---------------------------------------------------------------------------

    def search(
        self, queries: Vectors, k: int, filter: Filter | None = None, *, exact: bool = False
    ) -> list[list[Hit]]:
        check_queries(self.manifest, queries, k)
        queries = self._similarity.queries(np.ascontiguousarray(queries))
        with self._snapshot() as connection:
            allowed = self._allowed(connection, filter)
            candidates = self._candidates(allowed, queries, k, through_theirs=not (filter or exact))
            return ranked(
                connection, self._external.vectors, self._similarity, queries, candidates, k
            )

    def _allowed(self, connection: sqlite3.Connection, filter: Filter | None) -> BoolArray:
        if not filter:
            return np.ones(len(self._external), dtype=np.bool_)
        with self._lock:
            return admitted(connection, filter, len(self._external), self._filtered)

    def _candidates(
        self, allowed: BoolArray, queries: Vectors, k: int, *, through_theirs: bool
    ) -> Candidates:
        there = int(np.count_nonzero(allowed))
        wanted = min(k + SPARE, there)
        if wanted == 0 or len(queries) == 0:
            return Candidates.none(len(queries), wanted)
        if not through_theirs:
            return self._exact(allowed, queries, wanted)
        candidates = self._external.search(queries, wanted)
        # An approximate search may come back with too little: few lists probed.
        short = (candidates.positions >= 0).sum(axis=1) < min(k, there)
        if short.any():
            again = self._exact(allowed, queries[short], wanted)
            candidates.similarities[short] = again.similarities
            candidates.positions[short] = again.positions
        return candidates

    def _exact(self, allowed: BoolArray, queries: Vectors, k: int) -> Candidates:
        """Copies no vector that is not allowed."""
        chosen = np.flatnonzero(allowed)
        found = exact.nearest(
            _Chosen(self._external, chosen),
            np.ones(len(chosen), dtype=np.bool_),
            queries,
            k,
            self._similarity,
        )
        positions = np.where(found.positions < 0, -1, chosen[found.positions])
        return Candidates(found.similarities, positions)

    # -- scans ----------------------------------------------------------------------------

    def states(self) -> Iterator[StoredState]:
        with self._snapshot() as connection:
            yield from read_live_states(connection)

    def get(self, ids: Sequence[str]) -> list[StoredState]:
        with self._snapshot() as connection:
            return [state for _, state in read_states(connection, ids)]

    def vectors(self, keys: Sequence[tuple[str, int]]) -> Vectors:
        with self._snapshot() as connection:
            at = {
                (state.id, state.chunk): position
                for position, state in read_states(connection, [id for id, _ in keys])
            }
            return self._external.vectors(np.array([at[key] for key in keys], dtype=np.int64))

    def blocks(self, size: int = 8192) -> Iterator[Vectors]:
        with self._snapshot():
            pass
        yield from self._external.blocks(size)

    # -- figures --------------------------------------------------------------------------

    def stamps(self, sample: int | None = None) -> list[Stamp]:
        with self._snapshot() as connection:
            return count_stamps(connection, len(self._external), sample)

    def statistics(self) -> IndexStatistics:
        """``bytes`` counts the foreign file, too."""
        with self._snapshot() as connection:
            ours = sum(path.stat().st_size for path in self._folder.iterdir())
            return IndexStatistics(
                vectors=len(self._external),
                documents=count_documents(connection),
                dead=0,
                bytes=ours + self._foreign.recorded.size,
                ann_through=0 if self._external.factory == "Flat" else len(self._external),
            )

    def problems(self) -> list[str]:
        try:
            with self._snapshot() as connection:
                rows = list(row_problems(connection, len(self._external)))
            self._foreign.check_content()
        except DamagedIndex as error:
            return [error.message]
        return [f"{self._file}: {text}" for text in rows]

    def close(self) -> None:
        self._connections.close()
        self._external.close()

    # -- one moment -----------------------------------------------------------------------

    @contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        """A connection inside a snapshot; neither the side table nor the file has changed."""
        with translated(self._file), self._connections.taken() as connection:
            if identity(self._folder) != self._identity:
                raise gone(self._folder)
            with self._lock:
                self._foreign.check()
            connection.execute("BEGIN")
            yield connection


class _Chosen:
    """Some rows of a foreign index, counted from 0, as exact search wants them."""

    def __init__(self, external: ExternalFaiss, rows: Positions) -> None:
        self.dimensions = external.dimensions
        self._external, self._rows = external, rows

    def runs(self, first: int, until: int, size: int) -> Iterator[tuple[int, Vectors]]:
        for start in range(first, until, size):
            yield start, self._external.vectors(self._rows[start : min(start + size, until)])
