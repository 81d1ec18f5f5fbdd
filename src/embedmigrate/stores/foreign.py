"""The Protocols of a store that can take somebody else's container as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from embedmigrate.embedders.base import Vectors
from embedmigrate.models.index_spec import Metric
from embedmigrate.stores.base import IndexManifest, Row, Store

UNKNOWN_CONTENT = b""
"""Content hash of a row whose vector is not of a known text: no text has it, so that every
comparison finds the row stale."""


class ForeignIndex(Protocol):
    """Somebody else's index with the document id of each of its rows. It is only read."""

    ids: Sequence[str]
    """Document id of each row; every id once."""
    dimensions: int
    metric: Metric
    """What the container compares by: ``inner_product`` or ``l2``."""
    factory: str
    lossy: bool
    """Whether its vectors are reconstructions of compressed ones."""

    def __len__(self) -> int: ...

    def vectors(self, rows: npt.NDArray[np.int64]) -> Vectors:
        """Copies of the vectors of these rows, float32 ``(len(rows), dimensions)``."""

    def close(self) -> None: ...


class ForeignFile(NamedTuple):
    """A file that is not ours, as it was when it was proven."""

    path: str
    """Relative to where the configuration lies, if the file lies below it; else absolute."""
    size: int
    mtime_ns: int
    sha256: str


class ForeignRow(NamedTuple):
    """What belongs to the vector in row ``position`` of a foreign index."""

    position: int
    row: Row
    run: str
    """What its stamp says of where it comes from."""


@runtime_checkable
class AdoptingStore(Store, Protocol):
    """A store that can serve a foreign index, with a side table of its own beside it."""

    def foreign(self, index: Path, ids: Path) -> ForeignIndex:
        """Open a foreign index with its id list."""

    def factory_like(self, foreign: ForeignIndex) -> str:
        """The index factory with which this store would build it, from the same vectors."""

    def describe(self, file: Path) -> ForeignFile:
        """What the file is now; reads all of it."""

    def adopt(
        self,
        manifest: IndexManifest,
        index: ForeignFile,
        ids: ForeignFile,
        rows: Iterable[ForeignRow],
    ) -> None:
        """Write the side table of a foreign index; durable on return, complete or not there.

        ``rows`` holds each row of the foreign index once. From then on ``reader`` serves it,
        ``writer`` refuses it, and ``drop`` removes the side table alone.
        """

    def drop_adopted(self, index: str) -> None:
        """As ``drop``, and ``Refused`` for an index that is not adopted."""
