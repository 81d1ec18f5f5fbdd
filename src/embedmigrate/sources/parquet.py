"""Parquet: one file, every file of a folder, or every file that a glob pattern finds.

Only the columns that are needed are read, a thousand rows at a time. Ids need not be sorted in the
files, and jumping between row groups would decode each of them many times: so the spool keeps
the documents, compressed, and reading in order of ids does not touch the files again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from embedmigrate.context import AdapterContext
from embedmigrate.errors import ConfigError, MissingExtra, Refused
from embedmigrate.models import Recipe
from embedmigrate.sources.base import SourceConfig, content_hash, metadata_hash
from embedmigrate.sources.files import FileSource, FileSourceConfig, fields_missing, pack
from embedmigrate.sources.spool import SpoolRow
from embedmigrate.sources.values import UnusableRecord, make_id

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

_BATCH_ROWS = 1024
_READ_BUFFER = 1 << 20


class ParquetConfig(FileSourceConfig):
    """``{ kind = "parquet", path, id, text, metadata }``; ``path``: a file, folder or glob."""

    kind: Literal["parquet"]


class ParquetSource(FileSource):
    """Parquet files, taken together in order of their names; every file has every field."""

    Config: ClassVar[type[SourceConfig]] = ParquetConfig

    def __init__(self, config: ParquetConfig, recipe: Recipe, context: AdapterContext) -> None:
        super().__init__(config, recipe, context)
        pattern = Path(config.path)
        self._base = Path(pattern.anchor) if pattern.is_absolute() else context.root

    def _files(self) -> list[Path]:
        if self._path.is_dir():
            files = sorted(self._path.rglob("*.parquet"))
        elif self._path.exists():
            files = [self._path]
        else:
            files = sorted(self._base.glob(str(self._path.relative_to(self._base))))
        if not files:
            raise ConfigError(
                f"there is no Parquet file at {self._path}",
                expected="a file, a folder that holds *.parquet, or a pattern that finds files",
                next_step="correct `path` of the source in the configuration",
            )
        return files

    def _place(self, number: int) -> str:
        for path in self._files():
            with _open(path) as file:
                rows = file.metadata.num_rows
            if number <= rows:
                return f"row {number} of {path}"
            number -= rows
        return str(self._path)

    def _rows(self, files: Sequence[Path]) -> Iterator[SpoolRow]:
        number = 0
        for path in files:
            first = number
            for id, texts, metadata in self._records(path):
                number += 1
                try:
                    text, extra = self._maker.content(texts, metadata)
                    hashes = content_hash(text), metadata_hash(extra)
                    yield SpoolRow(number, make_id(id), *hashes, 0, 0, pack(text, extra))
                except UnusableRecord as error:
                    raise error.at(f"row {number - first} of {path}") from None

    def _records(self, path: Path) -> Iterator[tuple[object, list[Any], list[Any]]]:
        """Id, text values and metadata values of every row of a file."""
        wanted = tuple(dict.fromkeys((self._id, *self._maker.fields)))
        with _open(path) as file:
            known = file.schema_arrow.names
            if unknown := set(wanted).difference(known):
                raise fields_missing(path, unknown, known)
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(wanted), use_threads=False):
                columns = {name: _values(name, batch.column(name), path) for name in wanted}
                ids = columns[self._id]
                texts = [columns[name] for name in self._maker.text]
                metadata = [columns[name] for name in self._maker.metadata]
                for row, id in enumerate(ids):
                    yield id, [text[row] for text in texts], [value[row] for value in metadata]


@contextmanager
def _open(path: Path) -> Iterator[ParquetFile]:
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise MissingExtra("a Parquet source", "parquet") from None
    try:
        # so a row group is read page by page; the default is to load it whole
        with ParquetFile(path, buffer_size=_READ_BUFFER, pre_buffer=False) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise Refused(
            f"{path} cannot be read as Parquet: {error}",
            expected="a complete Parquet file",
            next_step="write the file again, or correct `path` in the configuration",
        ) from error


def _values(name: str, column: pa.Array, path: Path) -> list[Any]:
    """The values of a column as Python objects; nanoseconds are cut to microseconds."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        column = column.cast(pa.timestamp("us", kind.tz), safe=False)
    elif pa.types.is_time64(kind) and kind.unit == "ns":
        column = column.cast(pa.time64("us"), safe=False)
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError) as error:
        raise Refused(
            f"column {name!r} of {path} holds values that Python cannot hold",
            found=str(kind),
            expected="dates between the years 1 and 9999, at most microseconds",
        ) from error
    return values
