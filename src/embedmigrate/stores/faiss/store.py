"""The store: a folder of index folders."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import ClassVar

from pydantic import Field, field_validator

from embedmigrate.context import AdapterContext
from embedmigrate.durable import sync_folder
from embedmigrate.errors import ConfigError, IndexGone, MissingExtra, Refused, UsageError
from embedmigrate.stores.base import IndexManifest, IndexReader, StoreConfig
from embedmigrate.stores.faiss.adopted import AdoptedReader
from embedmigrate.stores.faiss.ann import Effort, Factory
from embedmigrate.stores.faiss.database import (
    FILE,
    create_database,
    open_database,
    read_manifest,
    read_marks,
    translated,
)
from embedmigrate.stores.faiss.external import ExternalFaiss
from embedmigrate.stores.faiss.reader import FaissReader
from embedmigrate.stores.faiss.side_table import describe, is_adopted, write_side_table
from embedmigrate.stores.faiss.writer import FaissWriter
from embedmigrate.stores.foreign import ForeignFile, ForeignIndex, ForeignRow
from embedmigrate.stores.recovering import Marks

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,127}")
_MAKING, _DROPPED = ".making-", ".dropped-"
"""Prefixes of folders that are not an index yet, or no longer; no index can be called so."""


class FaissConfig(StoreConfig):
    """``store = { kind = "faiss", path = "indexes" }``."""

    path: str = "indexes"
    """Folder of the indexes; relative to where the configuration lies."""
    factory: str = "Flat"
    """``Flat`` searches exactly; ``IVF<lists>,Flat`` and ``HNSW<links>`` are approximate."""
    nprobe: int | None = Field(default=None, ge=1)
    """Lists that an IVF search looks into; by default a sixteenth of them, at least 16."""
    ef_search: int | None = Field(default=None, ge=1)
    """Candidates that an HNSW search keeps; by default 128."""

    @field_validator("factory")
    @classmethod
    def _factory_is_supported(cls, factory: str) -> str:
        return str(Factory.parse(factory))


class FaissStore:
    """Indexes as folders below ``path``. Refuses a writer whose epoch was overtaken."""

    Config: ClassVar[type[StoreConfig]] = FaissConfig
    fenced = True

    def __init__(self, config: FaissConfig, context: AdapterContext) -> None:
        if find_spec("faiss") is None:
            raise MissingExtra("the FAISS store", "faiss")
        self.factory = config.factory
        self._root = context.root
        self._path = context.root / config.path
        self._effort = Effort(config.nprobe, config.ef_search)

    def create(self, manifest: IndexManifest) -> None:
        """Make an empty index; it appears complete or not at all.

        Raises ``Refused`` when another index has the name, ``ConfigError`` for a factory that this
        store cannot build, ``StorageUnavailable``.
        """
        try:
            Factory.parse(manifest.factory)
        except ValueError as error:
            raise ConfigError(str(error), next_step="correct `factory` in the script") from error
        folder = self._folder(manifest.index)
        with translated(self._path):
            self._path.mkdir(parents=True, exist_ok=True)
            self._remove_dropped()
            if not folder.exists():
                with self._making(manifest.index) as making:
                    create_database(making, manifest)
        existing = _manifest(folder)
        if replace(existing, generation=0) != replace(manifest, generation=0):
            raise Refused(
                f"{folder} holds another index",
                found=existing,
                expected=manifest,
                next_step="embedmigrate status",
            )

    def writer(
        self, index: str, *, epoch: int, run: str, accepts: Collection[str] = ()
    ) -> FaissWriter:
        folder = self._folder(index)
        if is_adopted(folder):
            raise Refused(
                f"index {index} is adopted: somebody else made it, and it is read only",
                found="a write",
                expected="a search",
                next_step="to change what is live, write a revision to another model",
            )
        return FaissWriter(folder, epoch, run, accepts)

    def reader(self, index: str) -> IndexReader:
        folder = self._folder(index)
        if is_adopted(folder):
            return AdoptedReader(folder, self._root, self._effort)
        return FaissReader(folder, self._effort)

    def foreign(self, index: Path, ids: Path) -> ExternalFaiss:
        return ExternalFaiss.open(index, ids, self._effort)

    def factory_like(self, foreign: ForeignIndex) -> str:
        try:
            return str(Factory.parse(foreign.factory))
        except ValueError:
            return "Flat"

    def describe(self, file: Path) -> ForeignFile:
        return describe(file, self._root)

    def adopt(
        self,
        manifest: IndexManifest,
        index: ForeignFile,
        ids: ForeignFile,
        rows: Iterable[ForeignRow],
    ) -> None:
        folder = self._folder(manifest.index)
        with translated(self._path):
            self._path.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            raise Refused(
                f"{folder} is there already",
                expected="no index of that name",
                next_step="embedmigrate status",
            )
        with translated(self._path), self._making(manifest.index) as making:
            write_side_table(making, manifest, index, ids, rows)

    def drop_adopted(self, index: str) -> None:
        folder = self._folder(index)
        if folder.exists() and not is_adopted(folder):
            raise Refused(
                f"{folder} is not the side table of an adopted index",
                found="an index of our own, which this catalog does not know",
                expected="no index of that name",
                next_step="use the right catalog, or move the folder of the index away",
            )
        self.drop(index)

    def manifests(self) -> Iterator[IndexManifest]:
        """The indexes found, in order of name. ``DamagedIndex`` for one that cannot be read."""
        if not self._path.is_dir():
            return
        with translated(self._path):
            folders = sorted(self._path.iterdir())
        for folder in folders:
            if _NAME.fullmatch(folder.name) and (folder / FILE).is_file():
                with suppress(IndexGone):  # dropped since it was listed
                    yield _manifest(folder)

    def marks(self, index: str) -> Marks:
        folder = self._folder(index)
        with translated(folder / FILE), closing(open_database(folder)) as connection:
            return read_marks(connection)._replace(adopted=is_adopted(folder))

    def drop(self, index: str) -> None:
        """Delete an index. It is gone at once; a crash leaves only files that nobody lists."""
        folder = self._folder(index)
        with translated(self._path):
            with suppress(FileNotFoundError):
                folder.rename(self._path / f"{_DROPPED}{index}-{uuid.uuid4().hex}")
                sync_folder(self._path)
            self._remove_dropped()

    def check_writable(self) -> None:
        with translated(self._path):
            self._path.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(prefix=".writable-", dir=self._path) as probe:
                probe.write(b"embedmigrate")
                probe.flush()
                os.fsync(probe.fileno())

    @contextmanager
    def _making(self, index: str) -> Iterator[Path]:
        """An empty folder that becomes the index's when the block ends; else it is removed."""
        making = self._path / f"{_MAKING}{index}"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir()
        try:
            yield making
            sync_folder(making)
            making.rename(self._path / index)
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise
        sync_folder(self._path)

    def _folder(self, index: str) -> Path:
        if not _NAME.fullmatch(index):
            raise UsageError(
                "an index name cannot be used as the name of a folder",
                found=repr(index),
                expected="letters, digits and _ . @ -, at most 128, not beginning with . @ or -",
            )
        return self._path / index

    def _remove_dropped(self) -> None:
        for folder in self._path.glob(f"{_DROPPED}*"):
            shutil.rmtree(folder, ignore_errors=True)


def _manifest(folder: Path) -> IndexManifest:
    with translated(folder / FILE), closing(open_database(folder)) as connection:
        return read_manifest(connection, folder)
