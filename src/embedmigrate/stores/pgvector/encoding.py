"""PostgreSQL's binary formats: a batch of rows as COPY reads it, vectors as pgvector sends them.

pgvector's ``vector`` is a 16-bit dimension, 16 unused bits and 32-bit floats, all big-endian. A
whole batch is turned into it, and out of it, in one step of numpy.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import psycopg
from psycopg.adapt import Dumper

from embedmigrate.embedders.base import Vectors
from embedmigrate.stores.base import Row
from embedmigrate.stores.pgvector.metadata import stored_metadata
from embedmigrate.stores.pgvector.names import stored_id

COLUMNS = (
    "id", "chunk", "seq", "content_hash", "metadata_hash", "fingerprint", "run", "metadata",
    "metadata_text", "embedding",
)  # fmt: skip
"""What a row is written with, in the order of ``copy_rows``."""
_ROWS_A_PIECE = 64
_COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
_COPY_END = struct.pack("!h", -1)
_NULL = struct.pack("!i", -1)
_size = struct.Struct("!i").pack
_fields_and_size = struct.Struct("!hi").pack
_chunk_and_seq = struct.Struct("!iiiq").pack
_size_and_version = struct.Struct("!ib").pack
_JSONB_VERSION = 1
_ONE_DIMENSION, _NO_NULLS, _FIRST = 1, 0, 1


def copy_rows(rows: Sequence[Row], vectors: Vectors, fingerprint: str, run: str) -> Iterator[bytes]:
    """Rows in the binary format of COPY. ``vectors`` is ``(len(rows), dimensions)``, float32.

    In pieces, so that the server stores one while the next is made. ``ValueError`` and
    ``TypeError`` for metadata that is no JSON.
    """
    encoded = _sized_vectors(vectors)
    width, data = encoded.dtype.itemsize, memoryview(encoded.tobytes())
    provenance = _field(fingerprint.encode()) + _field(run.encode())
    yield _COPY_HEADER
    for start in range(0, len(rows), _ROWS_A_PIECE):
        parts: list[bytes | memoryview] = []
        for at, row in enumerate(rows[start : start + _ROWS_A_PIECE], start):
            id = stored_id(row.id).encode()
            metadata, exact = stored_metadata(row.metadata)
            json = metadata.encode()
            parts += (
                _fields_and_size(len(COLUMNS), len(id)), id,
                _chunk_and_seq(4, row.chunk, 8, row.seq),
                _size(len(row.content_hash)), row.content_hash,
                _size(len(row.metadata_hash)), row.metadata_hash,
                provenance,
                _size_and_version(len(json) + 1, _JSONB_VERSION), json,
                _NULL if exact is None else _field(exact.encode()),
                data[at * width : (at + 1) * width],
            )  # fmt: skip
        yield b"".join(parts)
    yield _COPY_END


class VectorArray:
    """Vectors ``(n, dimensions)`` as a parameter of type ``vector[]``."""

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors


def register(connection: psycopg.Connection[Any], vector_oid: int, vector_array_oid: int) -> None:
    """Let ``connection`` take a ``VectorArray``; pgvector's types have other numbers everywhere."""

    class VectorArrayDumper(Dumper):
        format = psycopg.pq.Format.BINARY
        oid = vector_array_oid

        def dump(self, obj: VectorArray) -> bytes:
            n = len(obj.vectors)
            if n == 0:
                return struct.pack("!iii", 0, _NO_NULLS, vector_oid)
            head = struct.pack("!iiiii", _ONE_DIMENSION, _NO_NULLS, vector_oid, n, _FIRST)
            return head + bytes(_sized_vectors(obj.vectors).tobytes())

    connection.adapters.register_dumper(VectorArray, VectorArrayDumper)


def decode_vectors(values: Sequence[bytes], dimensions: int) -> Vectors:
    """Values of a column of type ``vector(dimensions)`` in binary format as ``(n, dimensions)``."""
    there = np.frombuffer(b"".join(values), dtype=_vector(dimensions))
    return np.ascontiguousarray(there["values"], dtype=np.float32)


def _field(value: bytes) -> bytes:
    return _size(len(value)) + value


def _sized_vectors(vectors: Vectors) -> Any:
    """Each vector with the number of its bytes in front, as fields and array elements have it."""
    n, dimensions = vectors.shape
    vector = _vector(dimensions)
    encoded = np.zeros(n, dtype=[("size", ">i4"), ("vector", vector)])
    encoded["size"] = vector.itemsize
    encoded["vector"]["dimensions"] = dimensions
    encoded["vector"]["values"] = vectors
    return encoded


def _vector(dimensions: int) -> np.dtype[Any]:
    return np.dtype([("dimensions", ">i2"), ("unused", ">i2"), ("values", ">f4", (dimensions,))])
