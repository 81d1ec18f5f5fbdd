"""Reading an index: search, and the scans that comparison and verification need."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from embedmigrate.embedders.base import Vectors
from embedmigrate.errors import DamagedIndex
from embedmigrate.stores.base import (
    Filter,
    Hit,
    IndexStatistics,
    Stamp,
    StoredState,
)
from embedmigrate.stores.checking import check_queries
from embedmigrate.stores.faiss import checks, exact
from embedmigrate.stores.faiss.ann import Ann, Effort, Factory, open_ann
from embedmigrate.stores.faiss.connections import Connections
from embedmigrate.stores.faiss.database import (
    FILE,
    AnnRecord,
    BoolArray,
    Positions,
    gone,
    identity,
    read_ann,
    read_states,
    snapshot,
    translated,
)
from embedmigrate.stores.faiss.library import load_faiss
from embedmigrate.stores.faiss.rows import (
    SPARE,
    count_documents,
    count_stamps,
    ranked,
    read_live_states,
)
from embedmigrate.stores.faiss.similarity import Candidates, Similarity
from embedmigrate.stores.faiss.view import View


class FaissReader:
    """Safe for many threads: they share one immutable view of the index and its mapped files.

    Each call reads ``rows.sqlite`` in one snapshot, and brings the view up to it first when the
    index has changed. FAISS runs outside every lock.
    """

    def __init__(self, folder: Path, effort: Effort) -> None:
        load_faiss()
        self._folder = folder
        self._file = folder / FILE
        self._effort = effort
        self._lock = threading.Lock()
        self._ann_lock = threading.Lock()
        self._ann: Ann | None = None
        with translated(self._file):
            self._identity = identity(folder)
            self._connections = Connections(folder)
            try:
                with self._connections.taken() as connection, snapshot(connection):
                    self._view = View.read(connection, folder)
                    checks.check_vectors(folder, connection, self._view.vectors)
                self.manifest = self._view.manifest
                self._similarity = Similarity.of(self.manifest)
                self._factory = Factory.parse(self.manifest.factory)
                self._current_ann(self._view)
            except BaseException:
                self._connections.close()
                raise

    # -- search ---------------------------------------------------------------------------

    def search(
        self, queries: Vectors, k: int, filter: Filter | None = None, *, exact: bool = False
    ) -> list[list[Hit]]:
        check_queries(self.manifest, queries, k)
        queries = self._similarity.queries(np.ascontiguousarray(queries))
        with self._snapshot() as (connection, view):
            allowed = view.allowed(connection, filter) if filter else view.live
            ann = None if filter or exact else self._current_ann(view)
            candidates = self._candidates(view, ann, allowed, queries, k)
            return ranked(connection, view.vectors.gather, self._similarity, queries, candidates, k)

    def _candidates(
        self, view: View, ann: Ann | None, allowed: BoolArray, queries: Vectors, k: int
    ) -> Candidates:
        there = int(np.count_nonzero(allowed))
        wanted = min(k + SPARE, there)
        if wanted == 0 or len(queries) == 0:
            return Candidates.none(len(queries), wanted)
        if ann is None:
            return exact.nearest(view.vectors, allowed, queries, wanted, self._similarity)
        bits = view.live_bits if view.deaths > ann.record.deaths else None
        known = ann.search(queries, wanted, self._similarity, self._effort, bits)
        tail = exact.nearest(
            view.vectors, allowed, queries, wanted, self._similarity, ann.record.through
        )
        candidates = known.merged(tail)
        # An ANN search may come back with too little: few lists probed, or dead rows in its way.
        short = (candidates.positions >= 0).sum(axis=1) < min(k, there)
        if short.any():
            again = exact.nearest(view.vectors, allowed, queries[short], wanted, self._similarity)
            candidates.similarities[short] = again.similarities
            candidates.positions[short] = again.positions
        return candidates

    # -- scans ----------------------------------------------------------------------------

    def states(self) -> Iterator[StoredState]:
        with self._snapshot() as (connection, _):
            yield from read_live_states(connection)

    def get(self, ids: Sequence[str]) -> list[StoredState]:
        with self._snapshot() as (connection, _):
            return [state for _, state in read_states(connection, ids)]

    def vectors(self, keys: Sequence[tuple[str, int]]) -> Vectors:
        with self._snapshot() as (connection, view):
            at = {
                (state.id, state.chunk): position
                for position, state in read_states(connection, [id for id, _ in keys])
            }
            return view.vectors.gather(np.array([at[key] for key in keys], dtype=np.int64))

    def blocks(self, size: int = 8192) -> Iterator[Vectors]:
        with self._snapshot() as (_, view):
            positions: Positions = np.flatnonzero(view.live)
        for start in range(0, len(positions), size):
            yield view.vectors.gather(positions[start : start + size])

    # -- figures --------------------------------------------------------------------------

    def stamps(self, sample: int | None = None) -> list[Stamp]:
        with self._snapshot() as (connection, view):
            return count_stamps(connection, view.through, sample)

    def statistics(self) -> IndexStatistics:
        with self._snapshot() as (connection, view):
            return IndexStatistics(
                vectors=view.through - view.deaths,
                documents=count_documents(connection),
                dead=view.deaths,
                bytes=sum(_size(path) for path in self._folder.iterdir()),
                ann_through=view.ann.through if view.ann else 0,
            )

    def problems(self) -> list[str]:
        try:
            with self._snapshot() as (connection, view):
                return checks.find_problems(self._folder, connection, view.vectors, view.ann)
        except DamagedIndex as error:
            return [error.message]

    def close(self) -> None:
        self._connections.close()

    # -- one moment -----------------------------------------------------------------------

    @contextmanager
    def _snapshot(self) -> Iterator[tuple[sqlite3.Connection, View]]:
        """A connection inside a snapshot of the rows, and the view of the same moment."""
        with translated(self._file), self._connections.taken() as connection:
            if identity(self._folder) != self._identity:
                raise gone(self._folder)
            # Snapshots begin one after the other, so none is older than the view that is shared.
            with self._lock:
                connection.execute("BEGIN")
                view = self._view = self._view.at(connection)
                self.manifest = view.manifest
            yield connection, view

    def _current_ann(self, view: View) -> Ann | None:
        """The newest ANN structure that is open and not newer than ``view``.

        A thread that finds a newer one recorded opens it; the others go on with what there is,
        which costs them time and no result.
        """
        record, ann = view.ann, self._ann
        if record is None:
            return None
        if (ann is None or ann.record.number < record.number) and self._ann_lock.acquire(False):
            try:
                self._ann = ann = self._open_ann(record)
            finally:
                self._ann_lock.release()
        return ann if ann is not None and ann.record.number <= record.number else None

    def _open_ann(self, record: AnnRecord) -> Ann | None:
        """Open a recorded structure; keep what is open when a later build removed it meanwhile."""
        try:
            checks.check_ann(self._folder, record)
            return open_ann(self._folder, record, self._factory)
        except DamagedIndex:
            with self._connections.taken() as connection:
                if read_ann(connection) == record:
                    raise
            return self._ann


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # removed since it was listed
        return 0
