"""One moment of an index in memory: which positions are live, and where their vectors are."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedmigrate.stores.base import Filter, IndexManifest
from embedmigrate.stores.faiss.database import (
    AnnRecord,
    BoolArray,
    read_ann,
    read_dead,
    read_manifest,
    read_through,
)
from embedmigrate.stores.faiss.rows import admitted
from embedmigrate.stores.faiss.vectors import MappedVectors, read_segments


@dataclass(frozen=True)
class View:
    """Immutable; one byte a position, and mappings. Made inside a snapshot of the rows."""

    folder: Path
    version: int
    manifest: IndexManifest
    deaths: int
    live: BoolArray
    vectors: MappedVectors
    ann: AnnRecord | None
    _filtered: dict[tuple[str, ...], BoolArray] = field(default_factory=dict, compare=False)

    @classmethod
    def read(cls, connection: sqlite3.Connection, folder: Path, before: View | None = None) -> View:
        """What ``connection`` sees; only what came after ``before`` is read anew."""
        manifest = read_manifest(connection, folder)
        through = read_through(connection)
        live = np.ones(through, dtype=np.bool_)
        if before is not None:
            live[: before.through] = before.live
        died = read_dead(connection, after=before.deaths if before else 0)
        live[died] = False
        return cls(
            folder=folder,
            version=_version(connection),
            manifest=manifest,
            deaths=len(died) + (before.deaths if before else 0),
            live=live,
            vectors=MappedVectors(
                folder,
                manifest.dimensions,
                read_segments(connection, through),
                before.vectors if before else None,
            ),
            ann=read_ann(connection),
        )

    def at(self, connection: sqlite3.Connection) -> View:
        """This view, or the one that ``connection`` sees when the index has changed."""
        if _version(connection) == self.version:
            return self
        return View.read(connection, self.folder, self)

    @property
    def through(self) -> int:
        return len(self.live)

    def allowed(self, connection: sqlite3.Connection, filter: Filter) -> BoolArray:
        """The positions that a metadata filter admits ``(through,)``; the last few are kept."""
        return admitted(connection, filter, self.through, self._filtered)

    @cached_property
    def live_bits(self) -> npt.NDArray[np.uint8]:
        """``live`` as FAISS reads it: bit ``i % 8`` of byte ``i // 8``."""
        return np.packbits(self.live, bitorder="little")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT version FROM state").fetchone()[0])
