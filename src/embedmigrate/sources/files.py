"""What file sources share: the files are indexed once into a spool and read through it."""

from __future__ import annotations

import json
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from embedmigrate.context import AdapterContext
from embedmigrate.errors import ConfigError, DuplicateId, Refused, SourceChanged
from embedmigrate.models import Recipe
from embedmigrate.models.canonical import digest
from embedmigrate.sources.base import (
    Capture,
    ChangedSince,
    Document,
    DocumentState,
    KeyRange,
    SourceConfig,
)
from embedmigrate.sources.keys import cut
from embedmigrate.sources.spool import RepeatedId, Spool, SpoolRow
from embedmigrate.sources.values import DocumentMaker

_ATTEMPTS = 3
"""How often a file is indexed that is replaced each time before its end is reached."""
_RACY_NS = 2 * 10**9
"""A file modified less than this before it was read may change again under the same time stamp."""


class FileSourceConfig(SourceConfig):
    """``path`` starts from the folder of the configuration; ``id`` is the field of the id."""

    path: str = Field(min_length=1)
    id: str
    text: tuple[str, ...] = Field(min_length=1)


class FileSource(ABC):
    """A source that reads files: ids in order of their bytes, reading through a spool.

    What a subclass must say: which files there are (``_files``), what stands in them (``_rows``),
    where row ``number`` stands (``_place``), and, unless ``_rows`` packs each document into
    the spool, how to read documents back (``_read``).
    """

    Config: ClassVar[type[SourceConfig]] = FileSourceConfig
    bytewise = True

    def __init__(self, config: FileSourceConfig, recipe: Recipe, context: AdapterContext) -> None:
        self._maker = DocumentMaker(recipe, config.metadata)
        self._id = config.id
        self._path = context.root / config.path
        identity = digest(
            "spool/1",
            {
                "kind": config.kind,
                "path": str(self._path.absolute()),
                "id": config.id,
                "recipe": recipe.digest,
                "metadata": list(config.metadata),
            },
        )
        name = f"{context.collection}-{identity[:16]}.sqlite"
        self._made = Spool(context.work_dir / "spool" / name)
        self._prepared: str | None = None
        """The signature of the files that the spool is known to be of."""

    # -- the protocol -------------------------------------------------------------------------

    @property
    def capture(self) -> Capture | None:
        return None

    @property
    def changed_since(self) -> ChangedSince | None:
        return None

    def prepare(self) -> int:
        for _ in range(_ATTEMPTS):
            with suppress(_Replaced):
                return self._index_files()
        raise SourceChanged(
            f"{self._path} was replaced each time it was indexed",
            found=f"{_ATTEMPTS} replacements",
            expected="a file that stays for as long as it takes to read it",
            next_step="run the same command again when the file is replaced less often",
        )

    def _index_files(self) -> int:
        """Build the spool of the files that there are now, unless it is there already."""
        files = self._files()
        signature, settled = self._sign(files)
        documents = self._made.documents(signature)
        if documents is None:
            try:
                documents = self._made.build(signature, settled, self._steady(files, signature))
            except RepeatedId as error:
                raise DuplicateId(
                    f"{self._path} holds {error.ids} id(s) more than once",
                    found=f"{error.id!r} at {self._place(error.first)} "
                    f"and at {self._place(error.second)}",
                    expected=f"every value of {self._id!r} once",
                    next_step="remove the duplicates from the file",
                ) from None
        self._prepared = signature
        return documents

    def partition(self, size: int) -> Iterator[KeyRange]:
        return cut(self._spool.ids(), size)

    def scan(self, after: str | None = None, until: str | None = None) -> Iterator[Document]:
        return self._read(self._spool.rows(after, until))

    def get(self, ids: Sequence[str]) -> dict[str, Document]:
        if self._prepared is not None and self._sign(self._files())[0] != self._prepared:
            self.prepare()  # whoever asks was told of a change that may have come since
        return {document.id: document for document in self._read(self._spool.find(ids))}

    def states(self) -> Iterator[DocumentState]:
        return self._spool.states()

    def close(self) -> None:
        self._prepared = None

    # -- what a subclass says -----------------------------------------------------------------

    @abstractmethod
    def _files(self) -> list[Path]:
        """The files that there are now, in order; ``ConfigError`` when there is none."""

    @abstractmethod
    def _rows(self, files: Sequence[Path]) -> Iterator[SpoolRow]:
        """Every document of the files, in their order, with ``number`` ascending."""

    @abstractmethod
    def _place(self, number: int) -> str:
        """Where row ``number`` stands, for people."""

    def _read(self, rows: Iterable[SpoolRow]) -> Iterator[Document]:
        """The documents of spool rows, in the order of the rows."""
        for row in rows:
            assert row.payload is not None
            text, metadata = json.loads(zlib.decompress(row.payload))
            yield Document(row.id, text, metadata, row.content_hash, row.metadata_hash)

    # -- within -------------------------------------------------------------------------------

    @property
    def _spool(self) -> Spool:
        if self._prepared is None:
            self.prepare()
        return self._made

    def _sign(self, files: Sequence[Path]) -> tuple[str, bool]:
        """What tells whether the files changed, and whether it can be trusted from now on."""
        now = time.time_ns()
        facts = []
        settled = True
        for path in files:
            try:
                stat = path.stat()
            except OSError as error:
                raise missing(path, error) from error
            facts.append([str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino])
            settled = settled and stat.st_mtime_ns < now - _RACY_NS
        return json.dumps(facts), settled

    def _steady(self, files: Sequence[Path], signature: str) -> Iterator[SpoolRow]:
        """The rows of the files, unless they are written or replaced while they are read."""
        try:
            yield from self._rows(files)
        except (ConfigError, Refused) as error:
            # half a line, or half a file, is no fault of the content
            self._check_steady(files, signature, error)
            raise
        except OSError as error:
            raise missing(self._path, error) from error
        self._check_steady(files, signature)

    def _check_steady(
        self, files: Sequence[Path], signature: str, cause: Exception | None = None
    ) -> None:
        now = self._sign(files)[0]
        if now == signature:
            return
        if _inodes(now) != _inodes(signature):
            raise _Replaced from cause
        raise SourceChanged(
            f"{self._path} was written while it was read",
            expected="a file that is replaced as a whole (write another, then rename it)",
            next_step="run the same command again when nobody writes the file",
        ) from cause


class _Replaced(Exception):
    """Another file has the name of one that was being indexed: what was read is of the past."""


def _inodes(signature: str) -> list[int]:
    return [inode for *_, inode in json.loads(signature)]


def pack(text: str, metadata: dict[str, Any]) -> bytes:
    """A document as the spool itself keeps it, because its file cannot be read at an offset."""
    return zlib.compress(json.dumps([text, metadata], ensure_ascii=False).encode(), 1)


def missing(path: Path, error: OSError) -> ConfigError:
    """The error for a file that cannot be opened."""
    return ConfigError(
        f"source file {path} cannot be read: {error.strerror}",
        expected="a file that exists and may be read",
        next_step="correct `path` of the source in the configuration",
    )


def stale(path: Path) -> SourceChanged:
    """The error for a file that is not any more what the spool says."""
    return SourceChanged(
        f"{path} was replaced or written since it was indexed",
        expected="the content that was indexed",
        next_step="run the same command again",
    )


def fields_missing(path: Path, fields: Iterable[str], known: Iterable[str]) -> ConfigError:
    """The error for fields that the configuration or the recipe names and the file lacks."""
    return ConfigError(
        f"no record of {path} has the field(s) {', '.join(map(repr, sorted(fields)))}",
        found=", ".join(map(repr, sorted(known)[:50])) or "no fields at all",
        expected="every text and metadata field in at least one record",
        next_step="correct the field names in the configuration, or use the recipe of the file",
    )
