"""ANN structures: built from the vectors up to a position, kept in ``ann-<n>.faiss``."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from embedmigrate.embedders.base import Vectors
from embedmigrate.stores.faiss.database import AnnRecord, BoolArray, damaged
from embedmigrate.stores.faiss.exact import faiss_metric
from embedmigrate.stores.faiss.library import load_faiss
from embedmigrate.stores.faiss.similarity import Candidates, Similarity
from embedmigrate.stores.faiss.vectors import MappedVectors

FACTORIES = "Flat, IVF<lists>,Flat (for example IVF1024,Flat) or HNSW<links> (for example HNSW32)"
CRC_BLOCK = 1 << 20
_FACTORY = re.compile(r"Flat|IVF(?P<lists>[1-9]\d{0,5}),Flat|HNSW(?P<links>[1-9]\d{0,2})(,Flat)?")
_MIN_LINKS, _MAX_LINKS = 4, 128
_TRAIN_MIN, _TRAIN_MAX = 39, 64
"""Vectors a list that k-means needs, and as many as it gets: its memory is bounded by them."""
_BUILD_ROWS = 16_384
_SEED = 20_240_229


@dataclass(frozen=True)
class Factory:
    """An index factory: ``size`` is the number of IVF lists, or of HNSW links a vector."""

    kind: Literal["Flat", "IVF", "HNSW"]
    size: int = 0

    @classmethod
    def parse(cls, text: str) -> Factory:
        """``ValueError`` for anything but the supported forms."""
        match = _FACTORY.fullmatch(text)
        if match and match["lists"]:
            return cls("IVF", int(match["lists"]))
        if match and match["links"] and _MIN_LINKS <= int(match["links"]) <= _MAX_LINKS:
            return cls("HNSW", int(match["links"]))
        if text == "Flat":
            return cls("Flat")
        raise ValueError(f"index factory {text!r} is not supported; expected {FACTORIES}")

    def __str__(self) -> str:
        return {"Flat": "Flat", "IVF": f"IVF{self.size},Flat", "HNSW": f"HNSW{self.size}"}[
            self.kind
        ]


@dataclass(frozen=True)
class Effort:
    """How hard an ANN search tries; None leaves it to the factory."""

    nprobe: int | None = None
    ef_search: int | None = None

    def parameters(self, factory: Factory, k: int, selector: Any) -> Any:
        """FAISS's search parameters, made anew for each search: they are not shareable."""
        faiss = load_faiss()
        if factory.kind == "IVF":
            nprobe = self.nprobe or max(16, factory.size // 16)
            return faiss.SearchParametersIVF(nprobe=min(nprobe, factory.size), sel=selector)
        return faiss.SearchParametersHNSW(efSearch=max(self.ef_search or 128, k), sel=selector)


class Ann:
    """An open ANN structure. Immutable, mapped where FAISS can; safe for many threads."""

    def __init__(self, record: AnnRecord, index: Any, factory: Factory) -> None:
        self.record = record
        self._index = index
        self._factory = factory

    def search(
        self,
        queries: Vectors,
        k: int,
        similarity: Similarity,
        effort: Effort,
        live: npt.NDArray[np.uint8] | None,
    ) -> Candidates:
        """The nearest among its vectors; ``live`` has a bit set for each position to admit."""
        selector = None if live is None else load_faiss().IDSelectorBitmap(live)
        parameters = effort.parameters(self._factory, k, selector)
        distances, labels = self._index.search(queries, k, params=parameters)
        return similarity.candidates(distances, labels)


def build(
    factory: Factory, vectors: MappedVectors, live: BoolArray, similarity: Similarity
) -> Any | None:
    """A FAISS index of the live vectors under their positions.

    None when there are too few of them to train on: exact search serves so small an index well.
    The structure is built in memory and takes as much of it as the file will have bytes.
    """
    faiss = load_faiss()
    positions = np.flatnonzero(live).astype(np.int64)
    metric = faiss_metric(similarity)
    if factory.kind == "IVF":
        if len(positions) < _TRAIN_MIN * factory.size:
            return None
        index = faiss.index_factory(vectors.dimensions, str(factory), metric)
        size = min(len(positions), _TRAIN_MAX * factory.size)
        sample = np.random.default_rng(_SEED).choice(positions, size, replace=False)
        index.train(similarity.rows(vectors.gather(np.sort(sample))))
    else:
        index = faiss.index_factory(vectors.dimensions, f"IDMap,{factory}", metric)
    for start in range(0, len(positions), _BUILD_ROWS):
        some = positions[start : start + _BUILD_ROWS]
        index.add_with_ids(similarity.rows(vectors.gather(some)), some)
    return index


class ChecksummedWriter:
    """A file that keeps the CRC-32 of each of its blocks of ``CRC_BLOCK`` bytes."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._crc = 0
        self._crcs: list[int] = []
        self.bytes = 0

    def write(self, data: bytes) -> int:
        self._file.write(data)
        view = memoryview(data)
        while view:
            part = view[: CRC_BLOCK - self.bytes % CRC_BLOCK]
            self._crc = zlib.crc32(part, self._crc)
            self.bytes += len(part)
            if self.bytes % CRC_BLOCK == 0:
                self._finish_block()
            view = view[len(part) :]
        return len(data)

    def checksums(self) -> bytes:
        """The CRCs as little-endian uint32, once everything is written."""
        if self.bytes % CRC_BLOCK:
            self._finish_block()
        return np.array(self._crcs, dtype="<u4").tobytes()

    def _finish_block(self) -> None:
        self._crcs.append(self._crc)
        self._crc = 0


def save(index: Any, file: Any) -> tuple[int, bytes]:
    """Write a FAISS index to a binary file; its size in bytes and its block checksums.

    Through a callback, because FAISS's own file writer overlooks a disk that fills up at the end.
    """
    faiss = load_faiss()
    writer = ChecksummedWriter(file)
    faiss.write_index(index, faiss.PyCallbackIOWriter(writer.write, CRC_BLOCK))
    return writer.bytes, writer.checksums()


def open_ann(folder: Path, record: AnnRecord, factory: Factory) -> Ann:
    """Open a recorded structure; ``DamagedIndex`` when FAISS cannot read it."""
    faiss = load_faiss()
    path = folder / record.file
    mapped = getattr(faiss, "IO_FLAG_MMAP_IFC", faiss.IO_FLAG_MMAP)
    try:
        index = faiss.read_index(str(path), mapped)
    except RuntimeError as error:
        raise damaged(path, "FAISS cannot read it") from error
    return Ann(record, index, factory)
