"""Vector files: appended by one writer each, mapped by readers."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from embedmigrate.durable import sync_folder
from embedmigrate.embedders.base import Vectors
from embedmigrate.stores.faiss.database import Positions, damaged

STORED = np.dtype("<f4")


class Segment(NamedTuple):
    """A vector file: it holds the vectors at positions ``first`` to ``end`` - 1."""

    first: int
    end: int
    file: str


def read_segments(connection: sqlite3.Connection, through: int) -> list[Segment]:
    """The segments of the positions below ``through``, in order."""
    found = connection.execute("SELECT first, file FROM segments ORDER BY first").fetchall()
    ends = [*(first for first, _ in found[1:]), through]
    return [Segment(first, end, file) for (first, file), end in zip(found, ends, strict=False)]


class MappedVectors:
    """The vectors at positions 0 to ``through`` - 1, mapped: no copy of them is in memory.

    Immutable, so that threads share it; to follow an index that grows, make the next one from the
    one ``before``. Raises ``DamagedIndex`` for a file that is missing or too short.
    """

    def __init__(
        self,
        folder: Path,
        dimensions: int,
        segments: Sequence[Segment],
        before: MappedVectors | None = None,
    ) -> None:
        self.dimensions = dimensions
        self.segments = tuple(segments)
        self.through = segments[-1].end if segments else 0
        mapped = dict(zip(before.segments, before._maps, strict=True)) if before else {}
        self._maps: list[Vectors] = [
            mapped[segment] if segment in mapped else _map(folder, segment, dimensions)
            for segment in segments
        ]
        self._firsts = np.array([segment.first for segment in segments], dtype=np.int64)

    def runs(self, first: int, until: int, size: int) -> Iterator[tuple[int, Vectors]]:
        """Views of at most ``size`` rows over ``first <= position < until``, with their first."""
        for segment, rows in zip(self.segments, self._maps, strict=True):
            end = min(until, segment.end)
            for start in range(max(first, segment.first), end, size):
                offset = start - segment.first
                yield start, rows[offset : offset + min(size, end - start)]

    def gather(self, positions: Positions) -> Vectors:
        """A copy of the vectors at these positions ``(len(positions), dimensions)``."""
        gathered = np.empty((len(positions), self.dimensions), dtype=np.float32)
        owners = np.searchsorted(self._firsts, positions, side="right") - 1
        for owner in np.unique(owners):
            chosen = owners == owner
            gathered[chosen] = self._maps[owner][positions[chosen] - self._firsts[owner]]
        return gathered


def _map(folder: Path, segment: Segment, dimensions: int) -> Vectors:
    path = folder / segment.file
    shape = (segment.end - segment.first, dimensions)
    expected = shape[0] * shape[1] * STORED.itemsize
    try:
        size = path.stat().st_size
        if size >= expected:
            return np.asarray(np.memmap(path, dtype=STORED, mode="r", shape=shape))
    except FileNotFoundError:
        raise damaged(path, "the file is missing", expected=f"{expected} bytes") from None
    raise damaged(
        path, "it was truncated", found=f"{size} bytes", expected=f"at least {expected} bytes"
    )


class VectorFile:
    """The file that one writer appends to. Raises ``OSError``; a failed append is repeatable."""

    def __init__(self, path: Path, dimensions: int, *, create: bool) -> None:
        """Open ``path``; ``create`` makes it, and ``FileExistsError`` says that it is taken."""
        flags = os.O_RDWR | (os.O_CREAT | os.O_EXCL if create else 0)
        self.path = path
        self._row = dimensions * STORED.itemsize
        self._descriptor = os.open(path, flags, 0o644)
        if create:
            sync_folder(path.parent)

    def write(self, offset: int, vectors: Vectors) -> None:
        """Put ``vectors`` at row ``offset`` and make them durable.

        The offset comes from the committed rows and never from the length of the file, which may
        end with what a crash left behind.
        """
        data = vectors.data.cast("B")
        at = offset * self._row
        while data:
            written = os.pwrite(self._descriptor, data, at)
            data, at = data[written:], at + written
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)
