"""JSON Lines: one object a line, plain or gzipped.

Lines end at ``\\n`` alone: the other characters that Unicode calls line ends may stand in a text.
Blank lines are skipped; a ``\\r`` before the end and a byte order mark are tolerated. A plain file
is read back at offsets; a gzipped one has none, so the spool keeps its documents.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import Any, ClassVar, Literal

from embedmigrate.context import AdapterContext
from embedmigrate.errors import Refused
from embedmigrate.models import Recipe
from embedmigrate.sources.base import Document, SourceConfig, content_hash, metadata_hash
from embedmigrate.sources.files import (
    FileSource,
    FileSourceConfig,
    fields_missing,
    missing,
    pack,
    stale,
)
from embedmigrate.sources.spool import SpoolRow
from embedmigrate.sources.values import UnusableId, UnusableRecord, make_id

_BOM = b"\xef\xbb\xbf"
_WINDOW_ROWS = 1024
_WINDOW_BYTES = 8 << 20
_KNOWN_FIELDS = 100
_decode = json.JSONDecoder().decode


class JsonlConfig(FileSourceConfig):
    """``{ kind = "jsonl", path, id, text, metadata }``."""

    kind: Literal["jsonl"]


class JsonlSource(FileSource):
    """A JSON Lines file. Fields that a record lacks count as empty."""

    Config: ClassVar[type[SourceConfig]] = JsonlConfig

    def __init__(self, config: JsonlConfig, recipe: Recipe, context: AdapterContext) -> None:
        super().__init__(config, recipe, context)
        self._gzipped = self._path.suffix == ".gz"

    def _files(self) -> list[Path]:
        return [self._path]

    def _place(self, number: int) -> str:
        return f"line {number} of {self._path}"

    def _rows(self, files: Sequence[Path]) -> Iterator[SpoolRow]:
        try:
            with self._open() as file:
                yield from self._index(file)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise Refused(
                f"{self._path} cannot be decompressed: {error}",
                expected="a complete gzip file",
                next_step="write the file again",
            ) from error

    def _open(self) -> BufferedIOBase:
        try:
            return gzip.open(self._path) if self._gzipped else self._path.open("rb")
        except OSError as error:
            raise missing(self._path, error) from error

    def _index(self, file: BufferedIOBase) -> Iterator[SpoolRow]:
        end = len(_BOM) if file.read(len(_BOM)) == _BOM else file.seek(0)
        unseen = set(self._maker.fields)
        known: set[str] = set()
        for number, line in enumerate(file, start=1):
            offset, end = end, end + len(line)
            if not line.strip():
                continue
            try:
                record = _parse(line)
                id, text, metadata = self._content(record)
            except UnusableRecord as error:
                raise error.at(self._place(number)) from None
            if unseen:
                unseen.difference_update(record)
                known.update(list(record)[: _KNOWN_FIELDS - len(known)])
            hashes = content_hash(text), metadata_hash(metadata)
            if self._gzipped:
                yield SpoolRow(number, id, *hashes, 0, 0, pack(text, metadata))
            else:
                yield SpoolRow(number, id, *hashes, offset, len(line), None)
        if unseen and known:
            raise fields_missing(self._path, unseen, known)

    def _read(self, rows: Iterable[SpoolRow]) -> Iterator[Document]:
        if self._gzipped:
            yield from super()._read(rows)
            return
        with self._open() as file:
            for window in _windows(rows):
                # in order of offset for the disk, in order of id for the caller
                lines = {}
                for row in sorted(window, key=lambda row: row.offset):
                    lines[row.number] = os.pread(file.fileno(), row.length, row.offset)
                for row in window:
                    yield self._again(row, lines.pop(row.number))

    def _again(self, row: SpoolRow, line: bytes) -> Document:
        """The document of a line that was indexed before: it must still be the same."""
        try:
            document = Document.make(*self._content(_parse(line)))
        except UnusableRecord:
            raise stale(self._path) from None
        if document.state != row.state:
            raise stale(self._path)
        return document

    def _content(self, record: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
        """Id, text and metadata of a record."""
        if self._id not in record:
            raise UnusableId(
                f"there is no field {self._id!r} for the id",
                found=", ".join(map(repr, list(record)[:20])) or "an empty object",
                expected="a string or an integer in it",
            )
        try:
            text, metadata = self._maker.content(
                [record.get(field) for field in self._maker.text],
                [record.get(field) for field in self._maker.metadata],
            )
        except RecursionError:
            raise _not_an_object("values nested too deeply") from None
        return make_id(record[self._id]), text, metadata


def _parse(line: bytes) -> dict[str, Any]:
    try:
        record = _decode(line.decode("utf-8", "surrogatepass"))
    except UnicodeDecodeError as error:
        raise _not_an_object(f"no UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise _not_an_object(f"{error.msg.removesuffix(' at')} at column {error.colno}") from None
    except ValueError:
        raise _not_an_object("a number with too many digits") from None
    except RecursionError:
        raise _not_an_object("values nested too deeply") from None
    if not isinstance(record, dict):
        raise _not_an_object(f"a JSON value of type {type(record).__name__}")
    return record


def _not_an_object(found: str) -> UnusableRecord:
    return UnusableRecord(
        "the line is not a JSON object", found=found, expected="one JSON object in UTF-8 a line"
    )


def _windows(rows: Iterable[SpoolRow]) -> Iterator[list[SpoolRow]]:
    """Consecutive rows, so many that their lines are at most some megabytes, and one at least."""
    window: list[SpoolRow] = []
    size = 0
    for row in rows:
        if window and (len(window) == _WINDOW_ROWS or size + row.length > _WINDOW_BYTES):
            yield window
            window, size = [], 0
        window.append(row)
        size += row.length
    if window:
        yield window
