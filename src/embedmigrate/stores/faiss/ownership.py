"""Who may write an index: the latest writer that asked, with no smaller epoch than any before."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedmigrate.errors import FencedOut
from embedmigrate.stores.faiss.database import gone, identity, read_ann, transaction


class Ownership:
    """One writer's claim to an index; made by ``take``, lost when another writer takes over.

    A writer that was overtaken may still run. It does no harm: ``commit`` refuses it, and nobody
    appends to a vector file that another writer has claimed and not released.
    """

    def __init__(self, connection: sqlite3.Connection, folder: Path, epoch: int) -> None:
        self.epoch = epoch
        self.token = uuid.uuid4().hex
        self._connection = connection
        self._folder = folder
        self._identity = identity(folder)

    def take(self) -> tuple[int, str] | None:
        """Become the owner; ``FencedOut`` when a greater epoch is recorded.

        Returns first position and name of the last vector file if its writer released it: this
        writer has claimed it and may go on in it. Otherwise it has to make a file of its own.
        """
        with transaction(self._connection):
            (epoch,) = self._connection.execute("SELECT owner_epoch FROM state").fetchone()
            if self.epoch < epoch:
                raise self._fenced_out(epoch)
            self._connection.execute(
                "UPDATE state SET owner_epoch = ?, owner_token = ?", (self.epoch, self.token)
            )
            first, file, claimed = self._connection.execute(
                "SELECT first, file, writer FROM segments"
                " UNION ALL SELECT -1, '', '' ORDER BY first DESC LIMIT 1"
            ).fetchone()
            self._remove_leftovers()
            if claimed is not None:
                return None
            self._connection.execute(
                "UPDATE segments SET writer = ? WHERE first = ?", (self.token, first)
            )
            return first, file

    def _remove_leftovers(self) -> None:
        """Remove files that no commit names; under the write lock nobody can be making one."""
        known = {file for (file,) in self._connection.execute("SELECT file FROM segments")}
        if (ann := read_ann(self._connection)) is not None:
            known.add(ann.file)
        for pattern in ("vectors-*.f32", "ann-*.faiss"):
            for path in self._folder.glob(pattern):
                if path.name not in known:
                    path.unlink(missing_ok=True)

    def release(self) -> None:
        """Let the next writer go on in the file that this one has stopped appending to."""
        self._connection.execute(
            "UPDATE segments SET writer = NULL WHERE writer = ?", (self.token,)
        )

    def check(self) -> None:
        """``FencedOut`` unless this writer still owns the index, ``IndexGone`` if it is no more."""
        if identity(self._folder) != self._identity:
            raise gone(self._folder)
        epoch, token = self._connection.execute(
            "SELECT owner_epoch, owner_token FROM state"
        ).fetchone()
        if token != self.token:
            raise self._fenced_out(epoch)

    @contextmanager
    def commit(self) -> Iterator[None]:
        """A transaction of the owner, that readers notice. Raises ``FencedOut``."""
        with transaction(self._connection):
            self.check()
            yield
            self._connection.execute("UPDATE state SET version = version + 1")

    def _fenced_out(self, epoch: int) -> FencedOut:
        return FencedOut(
            f"another writer took index {self._folder.name!r} over",
            found=f"owner epoch {epoch}",
            expected=f"epoch {self.epoch}",
            next_step="embedmigrate status shows who works on it",
        )
