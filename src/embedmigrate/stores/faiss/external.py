"""Somebody else's FAISS index, with its id list: read, searched, and never written.

Row ``i`` is the vector of the document ``ids[i]``. Rows are in the order in which the index keeps
its vectors; an IVF index, which keeps them by list, has them in the order of its FAISS ids.
``id_list`` says how FAISS ids become document ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from embedmigrate.embedders.base import Vectors
from embedmigrate.errors import ConfigError, Refused
from embedmigrate.models.index_spec import Metric
from embedmigrate.stores.faiss.ann import Effort, Factory
from embedmigrate.stores.faiss.external_file import keep, open_index, truncated
from embedmigrate.stores.faiss.id_list import Labels, assign, read_id_list, shown
from embedmigrate.stores.faiss.library import load_faiss
from embedmigrate.stores.faiss.similarity import Candidates, Similarity

Rows = npt.NDArray[np.int64]

_EF_SEARCH, _NPROBE, _LISTS_A_PROBE = 128, 16, 16
_EXACT = frozenset(
    {
        "IndexFlat",
        "IndexFlatIP",
        "IndexFlatL2",
        "IndexIVFFlat",
        "IndexHNSWFlat",
        "IndexRefineFlat",
    }
)
_LOSSY = frozenset(
    {
        "IndexPQ",
        "IndexIVFPQ",
        "IndexHNSWPQ",
        "IndexScalarQuantizer",
        "IndexIVFScalarQuantizer",
        "IndexHNSWSQ",
    }
)
"""Classes whose vectors FAISS gives back. Some of the others end the process when asked for one."""


class ExternalFaiss:
    """An index file that is not ours. Safe for many threads.

    The file is mapped, not loaded. Who replaces it renames another file over it; a mapped file
    that is written over or shortened in place ends the process that reads it (SIGBUS).
    """

    ids: Sequence[str]
    """Document id of each row; every id once. Empty when it was opened without a list."""
    dimensions: int
    metric: Metric
    """What the file says: ``inner_product`` or ``l2``. FAISS has no word for cosine."""
    factory: str
    """``Flat``, ``IVF<lists>,Flat``, ``HNSW<links>``; of any other kind the name of its class."""
    lossy: bool
    """Whether ``vectors`` gives reconstructions of compressed or transformed vectors."""

    @classmethod
    def open(cls, index: Path, ids: Path | None, effort: Effort | None = None) -> Self:
        """Open ``index`` with the id list ``ids``; both stay as they are.

        Without ``ids`` the rows have no names, and nobody waits for a long list to be read.
        ``effort`` is how hard an approximate search tries; left out, at least as hard as the file
        says. Raises ``ConfigError`` for files that are missing or something else, ``DamagedIndex``
        for a truncated index, and ``Refused`` (``DuplicateId``) for an empty index, a kind that
        does not give its vectors back, and an id list that does not fit.
        """
        return cls(index, open_index(index), ids, effort or Effort())

    def __init__(self, path: Path, index: Any, ids: Path | None, effort: Effort) -> None:
        self.path = path
        self.dimensions = int(index.d)
        self.metric = _metric(path, index)
        if index.ntotal == 0:
            raise Refused(
                f"the index {path} is empty",
                found="0 vectors",
                expected="a vector for every document",
                next_step="correct the path of the index",
            )
        core, labels = _unwrapped(index)
        self.factory, self.lossy = _kind(path, core)
        self._keys = _own_keys(path, core)
        """What the core calls each row, where that is not the row's number; ascending."""
        if labels is None:
            labels = np.arange(index.ntotal) if self._keys is None else self._keys
        elif self._keys is not None:
            raise _unsupported(path, f"two layers of FAISS ids, the lower {self.factory}")
        else:
            _refuse_repeated(path, np.sort(labels))
        _try_hard(core, effort)
        self._opened: Any = core
        self._similarity = Similarity(self.metric, unit_rows=False)
        in_order = self._keys is None
        self.ids = assign(read_id_list(ids), labels, in_order_of_adding=in_order) if ids else ()
        self._rows = int(index.ntotal)

    def __len__(self) -> int:
        return self._rows

    def vectors(self, rows: Rows) -> Vectors:
        """Copies of the vectors of these rows, float32 ``(len(rows), dimensions)``."""
        rows = np.asarray(rows, np.int64)
        if not rows.size:
            return np.empty((0, self.dimensions), np.float32)
        # FAISS ends the process for a row that it does not have.
        if rows.min() < 0 or rows.max() >= len(self):
            raise IndexError(f"rows are 0 to {len(self) - 1}, found {rows.min()} to {rows.max()}")
        keys = rows if self._keys is None else self._keys[rows]
        vectors: Vectors = self._core.reconstruct_batch(keys)
        return vectors

    def blocks(self, size: int = 8192) -> Iterator[Vectors]:
        """Every vector in the order of the rows, at most ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.vectors(np.arange(start, min(start + size, len(self))))

    def search(self, queries: Vectors, k: int) -> Candidates:
        """The ``k`` nearest rows of each query ``(n, dimensions)``, by the metric of the file."""
        if queries.ndim != 2 or queries.shape[1] != self.dimensions or queries.dtype != np.float32:
            raise ValueError(
                f"queries for {self.path} are float32 (n, {self.dimensions}),"
                f" found {queries.dtype} {queries.shape}"
            )
        if k < 1:
            raise ValueError(f"k is at least 1, found {k}")
        if not len(queries):
            return Candidates.none(0, k)
        distances, found = self._core.search(np.ascontiguousarray(queries), k)
        if self._keys is not None:
            found = np.where(found < 0, -1, np.searchsorted(self._keys, found))
        return self._similarity.candidates(distances, found)

    def close(self) -> None:
        """Release the file. Idempotent; a search that is under way ends undisturbed."""
        self._opened = None

    @property
    def _core(self) -> Any:
        if self._opened is None:
            raise ValueError(f"the index {self.path} is closed")
        return self._opened


def _metric(path: Path, index: Any) -> Metric:
    faiss = load_faiss()
    known: dict[int, Metric] = {faiss.METRIC_INNER_PRODUCT: "inner_product", faiss.METRIC_L2: "l2"}
    if index.metric_type not in known:
        raise ConfigError(
            f"the index {path} has a metric that is not supported",
            found=f"FAISS metric {index.metric_type}",
            expected="inner product or L2",
            next_step="build the index with one of them",
        )
    return known[index.metric_type]


def _unwrapped(index: Any) -> tuple[Any, Labels | None]:
    """The index below a map of FAISS ids, and that map in the order of the rows."""
    faiss = load_faiss()
    if not isinstance(index, faiss.IndexIDMap):  # IndexIDMap2 is one too
        return index, None
    core = faiss.downcast_index(index.index)
    keep(core, index)
    return core, faiss.vector_to_array(index.id_map)


def _kind(path: Path, core: Any) -> tuple[str, bool]:
    """The factory string, or the name of the class; and whether its vectors are reconstructions."""
    faiss = load_faiss()
    name, below = type(core).__name__, core
    while isinstance(below, faiss.IndexPreTransform):
        below = faiss.downcast_index(below.index)
    storing = type(below).__name__
    if storing not in _EXACT | _LOSSY:
        raise _unsupported(path, storing)
    if isinstance(core, faiss.IndexFlat):
        name = str(Factory("Flat"))
    elif isinstance(core, faiss.IndexIVFFlat):
        name = str(Factory("IVF", core.nlist))
    elif isinstance(core, faiss.IndexHNSWFlat):
        name = str(Factory("HNSW", core.hnsw.nb_neighbors(1)))
    return name, storing in _LOSSY or below is not core


def _own_keys(path: Path, core: Any) -> Labels | None:
    """The FAISS ids that an IVF index keeps, ascending; None where they are 0 to n - 1.

    Makes the index able to find a vector by its FAISS id, in memory.
    """
    faiss = load_faiss()
    ivf = faiss.try_extract_index_ivf(core)
    if ivf is None:
        return None
    lists = ivf.invlists
    parts = [_list_ids(faiss, lists, number) for number in range(lists.nlist)]
    keys = np.sort(np.concatenate(parts))
    if len(keys) != core.ntotal:
        raise truncated(path, f"{len(keys)} vectors in its lists, and {core.ntotal} by its count")
    _refuse_repeated(path, keys)
    plain = bool(np.array_equal(keys, np.arange(len(keys))))
    ivf.set_direct_map_type(faiss.DirectMap.Array if plain else faiss.DirectMap.Hashtable)
    return None if plain else keys


def _list_ids(faiss: Any, lists: Any, number: int) -> Labels:
    size = lists.list_size(number)
    if not size:
        return np.empty(0, np.int64)
    pointer = lists.get_ids(number)
    ids: Labels = faiss.rev_swig_ptr(pointer, size).copy()
    lists.release_ids(number, pointer)
    return ids


def _refuse_repeated(path: Path, ascending: Labels) -> None:
    repeated = ascending[1:][ascending[1:] == ascending[:-1]]
    if len(repeated):
        raise Refused(
            f"the index {path} has FAISS ids more than once",
            found=shown(np.unique(repeated).tolist()),
            expected="every FAISS id once: adding an id again does not replace its vector",
            next_step="build the index again without the older vectors",
        )


def _try_hard(core: Any, effort: Effort) -> None:
    """Set how hard searches try: on the opened index, which is ours alone."""
    faiss = load_faiss()
    ivf = faiss.try_extract_index_ivf(core)
    if ivf is not None:
        least = max(_NPROBE, ivf.nlist // _LISTS_A_PROBE, ivf.nprobe)
        ivf.nprobe = min(ivf.nlist, effort.nprobe or least)
    if isinstance(core, faiss.IndexHNSW):
        core.hnsw.efSearch = effort.ef_search or max(_EF_SEARCH, core.hnsw.efSearch)


def _unsupported(path: Path, found: str) -> Refused:
    return Refused(
        f"the index {path} is of a kind that cannot be read vector by vector",
        found=found,
        expected="Flat, IVF, HNSW, PQ or SQ, or one of these in an IndexIDMap",
        next_step="build one of these kinds from the vectors, or embed the documents again",
    )
