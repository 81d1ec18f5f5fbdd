"""Damage: found by a sample whenever an index is opened, by reading everything when asked."""

from __future__ import annotations

import os
import random
import sqlite3
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from embedmigrate.errors import DamagedIndex
from embedmigrate.stores.faiss.ann import CRC_BLOCK
from embedmigrate.stores.faiss.database import AnnRecord, damaged, read_deaths
from embedmigrate.stores.faiss.vectors import MappedVectors

_SAMPLE = 32
_CRC_ROWS = 4096
_DUPLICATES_SHOWN = 10


def check_vectors(folder: Path, connection: sqlite3.Connection, vectors: MappedVectors) -> None:
    """``DamagedIndex`` names a vector file whose contents are not what was written.

    Reads the first and the last batch and up to 32 others; that the files are there and long
    enough was found out when they were mapped.
    """
    for batch in _sampled_batches(connection, vectors.through):
        _check_batch(folder, batch, vectors)


def check_ann(folder: Path, ann: AnnRecord) -> None:
    """The same for an ANN file: its size, the first and the last block and up to 32 others."""
    for damage in _ann_damage(folder, ann, _sample(len(ann.crcs) // 4)):
        raise damage


def find_problems(
    folder: Path, connection: sqlite3.Connection, vectors: MappedVectors, ann: AnnRecord | None
) -> list[str]:
    """Every kind of damage, found by reading every byte; memory does not grow with the index."""
    problems = [error.message for error in _all_damage(folder, connection, vectors, ann)]
    problems += [
        f"{folder / 'rows.sqlite'}: {text}" for text in row_problems(connection, vectors.through)
    ]
    return problems


def _all_damage(
    folder: Path, connection: sqlite3.Connection, vectors: MappedVectors, ann: AnnRecord | None
) -> Iterator[DamagedIndex]:
    expected = 0
    for batch in connection.execute("SELECT first, count, crc32 FROM writes ORDER BY first"):
        if batch[0] != expected:
            yield damaged(folder / "rows.sqlite", f"no write covers position {expected}")
        expected = batch[0] + batch[1]
        try:
            _check_batch(folder, batch, vectors)
        except DamagedIndex as error:
            yield error
    if expected != vectors.through:
        yield damaged(folder / "rows.sqlite", f"no write covers position {expected}")
    if ann is not None:
        yield from _ann_damage(folder, ann, range(len(ann.crcs) // 4))


def _sampled_batches(
    connection: sqlite3.Connection, through: int
) -> Iterator[tuple[int, int, int]]:
    """The batches that hold the first, the last and some random positions."""
    seen = set()
    for position in _sample(through):
        row = connection.execute(
            "SELECT first, count, crc32 FROM writes WHERE first <= ? ORDER BY first DESC LIMIT 1",
            (position,),
        ).fetchone()
        if row is not None and row[0] not in seen:
            seen.add(row[0])
            yield row


def _check_batch(folder: Path, batch: tuple[int, int, int], vectors: MappedVectors) -> None:
    first, count, recorded = batch
    crc = 0
    for _, rows in vectors.runs(first, first + count, _CRC_ROWS):
        crc = zlib.crc32(rows.data, crc)
    if crc != recorded:
        file = next(s.file for s in reversed(vectors.segments) if s.first <= first)
        raise damaged(
            folder / file,
            f"vectors {first} to {first + count - 1} are not what was written",
            found=f"crc32 {crc:08x}",
            expected=f"crc32 {recorded:08x}",
        )


def _ann_damage(folder: Path, ann: AnnRecord, numbers: Iterable[int]) -> Iterator[DamagedIndex]:
    path = folder / ann.file
    recorded = struct.unpack(f"<{len(ann.crcs) // 4}I", ann.crcs)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != ann.size:
                yield damaged(
                    path,
                    "it was truncated or edited",
                    found=f"{size} bytes",
                    expected=f"{ann.size} bytes",
                )
                return
            for number in numbers:
                file.seek(number * CRC_BLOCK)
                crc = zlib.crc32(file.read(CRC_BLOCK))
                if crc != recorded[number]:
                    yield damaged(
                        path,
                        f"the bytes from {number * CRC_BLOCK} on are not what was written",
                        found=f"crc32 {crc:08x}",
                        expected=f"crc32 {recorded[number]:08x}",
                    )
    except FileNotFoundError:
        yield damaged(path, "the file is missing", expected=f"{ann.size} bytes")


def _sample(size: int) -> list[int]:
    """First, last and up to 32 other numbers below ``size``."""
    if size == 0:
        return []
    chosen = random.sample(range(size), min(_SAMPLE, size))
    return sorted({0, size - 1, *chosen})


def row_problems(connection: sqlite3.Connection, through: int) -> Iterator[str]:
    """What is wrong with the rows of an index with ``through`` positions."""
    for (text,) in connection.execute("PRAGMA quick_check"):
        if text != "ok":
            yield text
    duplicates = connection.execute(
        "SELECT id, chunk, COUNT(*) FROM rows NOT INDEXED WHERE deleted = 0"
        " GROUP BY id, chunk HAVING COUNT(*) > 1 LIMIT ?",
        (_DUPLICATES_SHOWN,),
    )
    for id, chunk, times in duplicates:
        yield f"document {id!r}, chunk {chunk} is there {times} times"
    rows, dead = connection.execute("SELECT COUNT(*), TOTAL(deleted) FROM rows").fetchone()
    if rows != through:
        yield f"{rows} rows for {through} positions"
    if dead != read_deaths(connection):
        yield f"{int(dead)} rows are dead, {read_deaths(connection)} deaths are recorded"
