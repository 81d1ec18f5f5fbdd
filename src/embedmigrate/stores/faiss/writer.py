"""Writing an index: one owner at a time, every write all or nothing."""

from __future__ import annotations

import json
import os
import sqlite3
import time
import zlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from io import BufferedWriter
from pathlib import Path

import numpy as np

from embedmigrate.durable import sync_folder
from embedmigrate.embedders.base import Vectors
from embedmigrate.stores.base import Row, StoredState, Written, refuse_other_space
from embedmigrate.stores.checking import check_rows, check_vectors
from embedmigrate.stores.faiss import ann, checks
from embedmigrate.stores.faiss.database import (
    FILE,
    ann_file,
    in_parts,
    marks,
    metadata_json,
    open_database,
    read_states,
    read_through,
    snapshot,
    translated,
)
from embedmigrate.stores.faiss.ownership import Ownership
from embedmigrate.stores.faiss.similarity import Similarity
from embedmigrate.stores.faiss.vectors import STORED, VectorFile
from embedmigrate.stores.faiss.view import View

_REBUILD_SHARE = 0.05
"""An ANN structure is built anew when more than this share of vectors is new, or died, since."""


class FaissWriter:
    """The owner of an index; see ``Ownership``. Vectors are durable before rows name them."""

    def __init__(self, folder: Path, epoch: int, run: str, accepts: Collection[str] = ()) -> None:
        self._folder = folder
        self._file = folder / FILE
        self._run, self._accepts = run, frozenset(accepts)
        self._vector_file: VectorFile | None = None
        with translated(self._file):
            self._connection = open_database(folder)
            self._owner = Ownership(self._connection, folder, epoch)
            try:
                with snapshot(self._connection):
                    self._view = View.read(self._connection, folder)
                    checks.check_vectors(folder, self._connection, self._view.vectors)
                self.manifest = self._view.manifest
                if claimed := self._owner.take():
                    self._first, name = claimed
                    self._vector_file = VectorFile(
                        folder / name, self.manifest.dimensions, create=False
                    )
            except BaseException:
                self._connection.close()
                raise

    # -- writing --------------------------------------------------------------------------

    def begin(self, run: str) -> None:
        self._run = run

    def write(self, rows: Sequence[Row], vectors: Vectors, *, space: str) -> Written:
        refuse_other_space(self.manifest, space, self._accepts)
        seqs = check_rows(rows)
        check_vectors(self.manifest, rows, vectors)
        with translated(self._file):
            stored = read_states(self._connection, list(seqs))
            newest = _newest(stored, self._tombstones(list(seqs)))
            outdated = {id for id, seq in seqs.items() if seq < newest.get(id, seq)}
            replaced = [position for position, state in stored if state.id not in outdated]
            applied = [i for i, row in enumerate(rows) if row.id not in outdated]
            if not applied:
                self._owner.check()
            elif not outdated:
                self._append(rows, vectors, replaced, space)
            else:
                self._append([rows[i] for i in applied], vectors[applied], replaced, space)
        return Written(len(seqs) - len(outdated), len(outdated))

    def _append(
        self,
        rows: Sequence[Row],
        vectors: Vectors,
        replaced: Sequence[int],
        space: str,
    ) -> None:
        """Make vectors durable, then rows true, in place of those at the ``replaced`` positions."""
        vectors = np.ascontiguousarray(vectors, dtype=STORED)
        first, now = read_through(self._connection), int(time.time())
        values = [
            (row.id, row.chunk, row.seq, row.content_hash, row.metadata_hash,
             metadata_json(row.metadata), now)
            for row in rows
        ]  # fmt: skip
        file = self._vector_file or self._new_vector_file(first)
        file.write(first - self._first, vectors)
        with self._owner.commit():
            self._connection.execute(
                "INSERT OR IGNORE INTO segments (first, file, writer) VALUES (?, ?, ?)",
                (self._first, file.path.name, self._owner.token),
            )
            self._connection.execute(
                "INSERT INTO writes (first, count, crc32) VALUES (?, ?, ?)",
                (first, len(rows), zlib.crc32(vectors.data)),
            )
            self._bury(replaced)
            stamp = self._stamp(space)
            self._connection.executemany(
                "INSERT INTO rows (position, stamp, id, chunk, seq, content_hash, metadata_hash,"
                " metadata, written_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                ((first + i, stamp, *value) for i, value in enumerate(values)),
            )

    def _new_vector_file(self, first: int) -> VectorFile:
        """A file of this writer's own, for the vectors from position ``first`` on."""
        name, number = f"vectors-{self._owner.epoch}", 0
        while True:
            path = self._folder / (f"{name}-{number}.f32" if number else f"{name}.f32")
            try:
                file = VectorFile(path, self.manifest.dimensions, create=True)
            except FileExistsError:  # of a writer of the same epoch that never closed
                number += 1
                continue
            self._vector_file, self._first = file, first
            return file

    def write_metadata(self, rows: Sequence[Row]) -> Written:
        check_rows(rows)
        now = int(time.time())
        with translated(self._file):
            stored = read_states(self._connection, [row.id for row in rows])
            at = {(state.id, state.chunk): position for position, state in stored}
            newest = _newest(stored, {})
            newer = [row for row in rows if row.seq >= newest.get(row.id, row.seq)]
            values = [
                (row.seq, row.content_hash, row.metadata_hash, metadata_json(row.metadata), now,
                 at[row.id, row.chunk])
                for row in newer
                if (row.id, row.chunk) in at
            ]  # fmt: skip
            if values:
                with self._owner.commit():
                    self._connection.executemany(
                        "UPDATE rows SET seq = ?, content_hash = ?, metadata_hash = ?,"
                        " metadata = ?, written_at = ? WHERE position = ?",
                        values,
                    )
            else:
                self._owner.check()
        applied = newest.keys() & {row.id for row in newer}
        return Written(len(applied), len(newest) - len(applied))

    def delete(self, documents: Sequence[tuple[str, int]]) -> Written:
        seqs: dict[str, int] = {}
        for id, seq in documents:
            seqs[id] = max(seq, seqs.get(id, seq))
        with translated(self._file):
            stored = read_states(self._connection, list(seqs))
            newest = _newest(stored, {})
            outdated = {id for id, seq in newest.items() if seq > seqs[id]}
            dead = [position for position, state in stored if state.id not in outdated]
            buried = self._tombstones(list(seqs))
            deeper = [(id, seq) for id, seq in seqs.items() if seq > buried.get(id, -1)]
            if dead or deeper:
                with self._owner.commit():
                    self._bury(dead)
                    self._connection.executemany(
                        "INSERT OR REPLACE INTO tombstones (id, seq) VALUES (?, ?)", deeper
                    )
            else:
                self._owner.check()
        return Written(len(newest) - len(outdated), len(outdated))

    def discard(self, run: str) -> int:
        with translated(self._file):
            found = self._connection.execute(
                "SELECT position FROM rows JOIN stamps USING (stamp) WHERE run = ? AND deleted = 0",
                (run,),
            ).fetchall()
            if found:
                with self._owner.commit():
                    self._bury([position for (position,) in found])
            else:
                self._owner.check()
        return len(found)

    def forget_tombstones(self, before_seq: int) -> int:
        with translated(self._file):
            (old,) = self._connection.execute(
                "SELECT COUNT(*) FROM tombstones WHERE seq < ?", (before_seq,)
            ).fetchone()
            if old:
                with self._owner.commit():
                    self._connection.execute("DELETE FROM tombstones WHERE seq < ?", (before_seq,))
        return int(old)

    def set_generation(self, generation: int) -> None:
        manifest = replace(self.manifest, generation=generation)
        with translated(self._file):
            if manifest == self.manifest:
                self._owner.check()
                return
            with self._owner.commit():
                self._connection.execute(
                    "UPDATE state SET manifest = ?", (json.dumps(asdict(manifest)),)
                )
        self.manifest = manifest

    # -- reading --------------------------------------------------------------------------

    def find_vectors(self, hashes: Sequence[bytes]) -> dict[bytes, Vectors]:
        with translated(self._file), snapshot(self._connection):
            view = self._view = self._view.at(self._connection)
            at: dict[bytes, int] = {}
            for some in in_parts(hashes):
                at.update(
                    self._connection.execute(
                        "SELECT content_hash, position FROM rows"
                        f" WHERE deleted = 0 AND content_hash IN ({marks(some)})",
                        some,
                    )
                )
        vectors = view.vectors.gather(np.fromiter(at.values(), dtype=np.int64))
        return dict(zip(at, vectors, strict=True))

    def existing(self, ids: Sequence[str]) -> list[StoredState]:
        with translated(self._file):
            return [state for _, state in read_states(self._connection, ids)]

    # -- building -------------------------------------------------------------------------

    def build(self) -> None:
        factory = ann.Factory.parse(self.manifest.factory)
        with translated(self._file):
            with snapshot(self._connection):
                self._owner.check()
                view = self._view = self._view.at(self._connection)
            if factory.kind == "Flat" or _good_enough(view):
                return
            similarity = Similarity.of(self.manifest)
            index = ann.build(factory, view.vectors, view.live, similarity)
            if index is not None:
                self._publish(index, view)

    def _publish(self, index: object, view: View) -> None:
        """Save a structure under a number that was never used, then record it: that publishes it.

        The one before is removed last. Readers that have it open keep it until they see the new.
        """
        number, file = self._new_ann_file(view.ann.number + 1 if view.ann else 1)
        path = Path(file.name)
        try:
            with file:
                size, crcs = ann.save(index, file)
                file.flush()
                os.fsync(file.fileno())
            sync_folder(self._folder)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        with self._owner.commit():
            self._connection.execute("DELETE FROM ann")
            self._connection.execute(
                "INSERT INTO ann (number, through, deaths, vectors, size, crcs)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (number, view.through, view.deaths, view.through - view.deaths, size, crcs),
            )
        if view.ann is not None:
            (self._folder / view.ann.file).unlink(missing_ok=True)

    def _new_ann_file(self, number: int) -> tuple[int, BufferedWriter]:
        while True:
            try:
                return number, (self._folder / ann_file(number)).open("xb")
            except FileExistsError:  # of a writer that was overtaken while it built
                number += 1

    def close(self) -> None:
        """Let the next writer go on in this one's file. Idempotent; a full disk does not matter."""
        if self._vector_file is not None:
            self._vector_file.close()
            self._vector_file = None
            with suppress(sqlite3.Error):  # then the next writer begins a file of its own
                self._owner.release()
        self._connection.close()

    # -- helpers --------------------------------------------------------------------------

    def _tombstones(self, ids: Sequence[str]) -> dict[str, int]:
        """Document -> seq of its tombstone, where there is one."""
        found: dict[str, int] = {}
        for some in in_parts(ids):
            found.update(
                self._connection.execute(
                    f"SELECT id, seq FROM tombstones WHERE id IN ({marks(some)})", some
                )
            )
        return found

    def _bury(self, positions: Sequence[int]) -> None:
        """Mark rows as dead. What they said is forgotten; their positions are not used again."""
        some = [(position,) for position in positions]
        self._connection.executemany(
            "UPDATE rows SET deleted = 1, metadata = '{}' WHERE position = ?", some
        )
        self._connection.executemany("INSERT INTO deaths (position) VALUES (?)", some)

    def _stamp(self, space: str) -> int:
        """The number of this writer's provenance."""
        provenance = (space, self._run)
        self._connection.execute(
            "INSERT OR IGNORE INTO stamps (fingerprint, run) VALUES (?, ?)", provenance
        )
        row = self._connection.execute(
            "SELECT stamp FROM stamps WHERE fingerprint = ? AND run = ?", provenance
        ).fetchone()
        return int(row[0])


def _newest(stored: Sequence[tuple[int, StoredState]], buried: Mapping[str, int]) -> dict[str, int]:
    """Document -> the greatest seq of its rows and its tombstone."""
    newest = dict(buried)
    for _, state in stored:
        newest[state.id] = max(state.seq, newest.get(state.id, state.seq))
    return newest


def _good_enough(view: View) -> bool:
    """Whether the ANN structure that there is covers nearly all and holds nearly nothing dead."""
    if view.through == view.deaths:
        return True
    if view.ann is None:
        return False
    new, died = view.through - view.ann.through, view.deaths - view.ann.deaths
    return max(new, died) <= _REBUILD_SHARE * (view.ann.vectors + new)
