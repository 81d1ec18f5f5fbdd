"""The store: a schema of a PostgreSQL database."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from embedmigrate import postgres
from embedmigrate.context import AdapterContext
from embedmigrate.errors import ConfigError
from embedmigrate.examining import Observation
from embedmigrate.stores.base import IndexManifest, IndexReader, IndexWriter, StoreConfig
from embedmigrate.stores.pgvector.factory import Factory
from embedmigrate.stores.pgvector.names import SCHEMA_NAME, table_name
from embedmigrate.stores.recovering import Marks

with warnings.catch_warnings():
    # `schema` is what PostgreSQL calls it, and what a method of pydantic 1 was called.
    warnings.filterwarnings("ignore", message='Field name "schema"')

    class PgvectorConfig(StoreConfig):
        """``store = { kind = "pgvector", url = "${DATABASE_URL}" }``."""

        url: SecretStr
        """Of the database: ``postgresql://user@host/database``."""
        schema: str = Field(  # type: ignore[assignment]
            default=postgres.SCHEMA, pattern=f"^{SCHEMA_NAME}$"
        )
        """Where the tables are made; the schema too, unless it is there."""
        index: Literal["hnsw", "ivfflat", "none"] = "hnsw"
        """``none`` searches exactly; the others are approximate."""
        m: int = 16
        """Links of a vector in HNSW."""
        ef_construction: int = 64
        """Candidates that HNSW looks at when it places a vector."""
        lists: int | None = None
        """Lists of IVFFlat; by default a thousandth of the rows, over a million their root."""
        ef_search: int | None = Field(default=None, ge=1, le=1000)
        """Candidates that an HNSW search keeps; by default 128."""
        probes: int | None = Field(default=None, ge=1, le=32_768)
        """Lists that an IVFFlat search looks into; by default a sixteenth, at least 16."""
        maintenance_work_mem: str | None = Field(default=None, pattern=r"^[1-9]\d{0,6}(kB|MB|GB)$")
        """Memory for building; by default the server's setting, or half its shared buffers."""
        view: bool = False
        """Whether a view ``live_<collection>`` shows the rows of the live index. Who reads it and
        leaves the transaction open keeps the cut-over waiting."""
        build_workers: int | None = Field(default=None, ge=0, le=1024)
        """Parallel workers for building; by default the server's setting."""

        @field_validator("schema")
        @classmethod
        def _schema_is_not_the_servers(cls, schema: str) -> str:
            if schema.startswith("pg_") or schema == "information_schema":
                raise ValueError("a schema of the server's own; expected one like `embedmigrate`")
            return schema

        @model_validator(mode="after")
        def _index_can_be_built(self) -> Self:
            self.factory()
            return self

        @property
        def database(self) -> str:
            return self.url.get_secret_value()

        def factory(self) -> Factory:
            """The index factory; ``ValueError`` for one that pgvector does not build."""
            if self.index == "hnsw":
                return Factory("hnsw", m=self.m, ef_construction=self.ef_construction)
            if self.index == "ivfflat":
                return Factory("ivfflat", lists=self.lists)
            return Factory("none")


class PgvectorStore:
    """Indexes as tables of one schema. Refuses a writer whose epoch was overtaken."""

    Config: ClassVar[type[StoreConfig]] = PgvectorConfig
    fenced = True

    def __init__(self, config: PgvectorConfig, context: AdapterContext) -> None:
        postgres.require_driver("the pgvector store")
        from embedmigrate.stores.pgvector.connections import Database

        self.factory = str(config.factory())
        self._config, self._collection = config, context.collection
        self._database = Database(config.database, config.schema)

    def create(self, manifest: IndexManifest) -> None:
        """Make an empty index, and the schema if it is missing.

        Raises ``Refused`` when another index has the name, ``ConfigError`` for a factory that this
        store cannot build, for a server without pgvector and for a role that may not, and
        ``StorageUnavailable``.
        """
        from embedmigrate.stores.pgvector.tables import create

        try:
            factory = Factory.parse(manifest.factory)
        except ValueError as error:
            raise ConfigError(str(error), next_step="correct `factory` in the script") from error
        factory.check(manifest.dimensions)
        create(self._database, manifest)

    def writer(
        self, index: str, *, epoch: int, run: str, accepts: Collection[str] = ()
    ) -> IndexWriter:
        from embedmigrate.stores.pgvector.ann import BuildOptions
        from embedmigrate.stores.pgvector.layout import Layout
        from embedmigrate.stores.pgvector.writer import PgvectorWriter

        options = BuildOptions(self._config.maintenance_work_mem, self._config.build_workers)
        return PgvectorWriter(Layout(self._database, index), epoch, run, accepts, options)

    def reader(self, index: str) -> IndexReader:
        from embedmigrate.stores.pgvector.layout import Layout
        from embedmigrate.stores.pgvector.reader import PgvectorReader
        from embedmigrate.stores.pgvector.search import Effort

        effort = Effort(self._config.probes, self._config.ef_search)
        return PgvectorReader(Layout(self._database, index), effort)

    def manifests(self) -> Iterator[IndexManifest]:
        """The indexes found, in order of name. ``DamagedIndex`` for one that cannot be read."""
        from embedmigrate.stores.pgvector.tables import manifests

        return iter(manifests(self._database))

    def marks(self, index: str) -> Marks:
        from embedmigrate.stores.pgvector.tables import marks

        return marks(self._database, index)

    def drop(self, index: str) -> None:
        """Delete an index in one transaction; ``StorageUnavailable`` while somebody is in the way.

        Whoever searches meanwhile waits for half a second at most, never behind a transaction that
        somebody left open.
        """
        from embedmigrate.stores.pgvector.tables import drop

        table_name(index)
        drop(self._database, index)

    def offer(self, connection: Any) -> None:
        from embedmigrate.stores.pgvector.published import offer
        from embedmigrate.stores.pgvector.tables import ensure_common

        ensure_common(self._database)
        with postgres.translated(self._database.place):
            offer(self._database, connection, [self._config.schema])

    def publish(self, connection: Any, collection: str, index: str | None) -> None:
        from embedmigrate.stores.pgvector.published import publish

        if self._config.view:
            with postgres.translated(self._database.place):
                publish(self._database, connection, collection, index)

    def examine(self) -> Iterator[Observation]:
        from embedmigrate.stores.pgvector.examining import examine

        return examine(self._database, self._config.maintenance_work_mem, self._collection)

    def check_writable(self) -> None:
        from embedmigrate.stores.pgvector.tables import check_writable

        check_writable(self._database)
