"""An open project: settings, catalog and the jobs of its collections."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress

import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext

from embedmigrate import resolve
from embedmigrate.catalog import Catalog, indexes, routes
from embedmigrate.catalog.database import catalog_exists
from embedmigrate.catalog.locks import Lease, Role
from embedmigrate.catalog.records import IndexRecord, RunRecord
from embedmigrate.config import Settings
from embedmigrate.engine.control import Control, comply
from embedmigrate.engine.intake import TOLD
from embedmigrate.engine.job import Job, Reporter, Silent, StopSignal
from embedmigrate.engine.lock import held
from embedmigrate.engine.occasion import Hooks, of_error
from embedmigrate.engine.settle import settle
from embedmigrate.engine.throttle import Asked, Command, Throttle, Url
from embedmigrate.errors import (
    BadAnswer,
    ConfigError,
    DamagedIndex,
    DigestMismatch,
    Drifted,
    EmbedMigrateError,
    IndexGone,
    ModelMismatch,
    Temporary,
    UnknownCatalog,
    UsageError,
)
from embedmigrate.hooks.runner import HookRunner
from embedmigrate.logs import say
from embedmigrate.migration.environment import VERSION_TABLE
from embedmigrate.postgres import same_database
from embedmigrate.sources.cutting import seen_through
from embedmigrate.stores.publishing import PublishingStore

_log = logging.getLogger(__name__)

FAR_STORES = (
    "the catalog is a file of this machine, and the indexes of {} are not: applications and "
    "runners on other machines cannot know what is live; leave `catalog` out, or name a database"
)
ROUND_PATIENCE = 60.0
"""Seconds that whoever switches the route waits for a round of `sync` to end."""


class Project:
    """What the commands share. Use as a context manager."""

    def __init__(
        self,
        settings: Settings,
        *,
        reporter: Reporter | None = None,
        stop: StopSignal | None = None,
        create_catalog: bool = False,
        allow_mass_delete: bool = False,
    ) -> None:
        self.settings = settings
        self.reporter: Reporter = reporter or Silent()
        self.stop = stop or StopSignal()
        if create_catalog:
            refuse_to_begin_anew(settings)
        self.catalog = Catalog(settings.catalog_url, create=create_catalog)
        if settings.far_stores:
            self.reporter.note(FAR_STORES.format(", ".join(settings.far_stores)))
        self.hooks = hooks_of(settings, self.catalog, self.reporter, self.stop)
        self._allow_mass_delete = allow_mass_delete
        self._jobs: dict[str, Job] = {}
        self._controls: dict[str, Control] = {}
        if create_catalog:
            try:
                self._offer_to_readers()
            except BaseException:
                self.close()
                raise

    @classmethod
    def if_any(cls, settings: Settings) -> Project | None:
        """The project, or None when it has no catalog yet: reading never makes one."""
        return cls(settings) if catalog_exists(settings.catalog_url) else None

    def job(self, collection: str) -> Job:
        """The engine's view of a collection; ``UnknownCollection`` if it is not configured."""
        if collection not in self._jobs:
            general = self.settings.general
            self.settings.collection(collection)
            self._jobs[collection] = Job(
                collection=collection,
                catalog=self.catalog,
                store=self.settings.open_store(collection),
                open_source=lambda recipe: seen_through(
                    recipe, self.settings.open_source(collection, recipe)
                ),
                load_embedder=lambda model: resolve.load_embedder(self.settings, model),
                work_dir=self.settings.work_dir,
                pinned_witness=lambda model: resolve.witness_of(self.settings, model),
                batch_size=general.batch_size,
                witness_batches=general.witness_batches,
                proof_sample=general.proof_sample,
                lease_seconds=general.lease_seconds,
                told_by_application=self.settings.collection(collection).changes == TOLD,
                call_seconds=general.call_seconds,
                away_seconds=general.away_seconds,
                reporter=self.reporter,
                stop=self.stop,
                hooks=self.hooks,
                allow_mass_delete=self._allow_mass_delete,
            )
        return self._jobs[collection]

    def index_of(self, collection: str, index: str | None = None) -> IndexRecord:
        """The index that is named, else the live one; ``IndexGone`` when there is none."""
        with self.catalog.read() as connection:
            chosen = index or routes.get(connection, collection).live_index
            known = {it.name: it for it in indexes.of_collection(connection, collection)}
        if chosen is None:
            raise IndexGone(
                f"{collection!r} has no live index",
                expected="a first index",
                next_step="embedmigrate upgrade",
            )
        if chosen not in known:
            raise UsageError(
                f"{collection!r} has no index {chosen!r}",
                found=chosen,
                expected=", ".join(known) or "a first index",
                next_step="embedmigrate status",
            )
        return known[chosen]

    @contextmanager
    def locked(
        self, collections: Iterable[str], *, anyway: bool = False
    ) -> Iterator[dict[str, Lease]]:
        """Hold the runner's locks of several collections, taken in one order by everybody.

        ``UnknownCatalog`` for a catalog that is not that of the indexes, unless it is ``anyway``
        only the catalog that is written to.
        """
        with ExitStack() as stack:
            yield {
                collection: stack.enter_context(held(self.job(collection), anyway=anyway))
                for collection in sorted(set(collections))
            }

    @contextmanager
    def locked_for_a_person(
        self, collections: Iterable[str], *, anyway: bool = False
    ) -> Iterator[dict[str, Lease]]:
        """The same, for what prepares nothing: a cancel that was asked meanwhile goes with it.

        It would stand until the next upgrade otherwise, and cancel that.
        """
        with self.locked(collections, anyway=anyway) as leases:
            try:
                yield leases
            finally:
                for lease in leases.values():
                    with suppress(EmbedMigrateError):
                        comply(self.catalog, lease)

    @contextmanager
    def following(
        self, collections: Iterable[str], *, patience: float = ROUND_PATIENCE
    ) -> Iterator[dict[str, Lease]]:
        """Hold the follower's locks too: nobody else writes to what is live until the block ends.

        Waits ``patience`` seconds for the end of a round of `sync`.
        """
        with ExitStack() as stack:
            yield {
                collection: stack.enter_context(
                    held(self.job(collection), Role.FOLLOWER, patience=patience)
                )
                for collection in sorted(set(collections))
            }

    def take_orders(self, leases: Mapping[str, Lease]) -> None:
        """From now on the jobs of these collections obey requests, and their throttles."""
        for collection, lease in leases.items():
            throttle = self._throttle(collection)
            control = Control(self.stop, self.catalog, lease, throttle)
            self.job(collection).stop = self._controls[collection] = control

    def look(self, collection: str) -> None:
        """``AskedToStop`` when a person asks something of a collection now."""
        self._controls[collection].look()

    def _throttle(self, collection: str) -> Throttle | None:
        config = self.settings.collection(collection).throttle
        if config is None:
            return None
        asked: list[Asked] = []
        if config.command is not None:
            asked.append(Command(config.command, self.settings.root, config.timeout_seconds))
        if config.url is not None:
            asked.append(Url(config.url, config.timeout_seconds))
        return Throttle(config.documents_per_second, asked, every_seconds=config.every_seconds)

    def unsettled(self) -> set[str]:
        """Collections that were switched by a runner that died before it followed up."""
        with self.catalog.read() as connection:
            found = [routes.get(connection, name) for name in self.settings.collections]
        return {route.collection for route in found if route.settled_generation != route.generation}

    def settle(self, collection: str, lease: Lease) -> None:
        """Finish the last switch of a collection, if that is still to be done; as its follower.

        An index whose model cannot answer any more is served as it is, and said to be.
        """
        try:
            settle(self.job(collection), lease)
        except (ConfigError, DigestMismatch, Drifted, ModelMismatch, BadAnswer) as error:
            self.reporter.note(f"{collection}: served as it is: {error}")
            if isinstance(error, Drifted):
                tell_drift(self.hooks, collection, error)

    def publish(self, connection: sa.Connection, collection: str) -> None:
        """Let readers in SQL follow the route of a collection, in the caller's transaction."""
        store = self._publishing(collection)
        if store is not None:
            live = routes.get(connection, collection).live_index
            index = None if live is None else indexes.get(connection, live).container
            store.publish(connection.connection.driver_connection, collection, index)

    def _offer_to_readers(self) -> None:
        """Make what readers in SQL use."""
        found = [self._publishing(name) for name in self.settings.collections]
        for store in filter(None, found):
            with self.catalog.write() as connection:
                store.offer(connection.connection.driver_connection)

    def _publishing(self, collection: str) -> PublishingStore | None:
        """The store of a collection, if its indexes are in the database of the catalog."""
        database = self.settings.collection(collection).store.database
        if database is None or not same_database(database, self.settings.catalog_url):
            return None
        store = self.job(collection).store
        return store if isinstance(store, PublishingStore) else None

    def applied_heads(self) -> tuple[str, ...]:
        """The revisions in the version table."""
        with self.catalog.read() as connection:
            opts = {"version_table": VERSION_TABLE, "version_table_schema": self.catalog.schema}
            context = MigrationContext.configure(connection, opts=opts)
            return context.get_current_heads()

    def close(self) -> None:
        for job in self._jobs.values():
            job.close()
        self.reporter.close()
        self.catalog.close()

    def __enter__(self) -> Project:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def refuse_to_begin_anew(settings: Settings) -> None:
    """``UnknownCatalog`` where there is no catalog, and an index that one has made (I14)."""
    if catalog_exists(settings.catalog_url):
        return
    for name in settings.collections:
        with suppress(Temporary, ConfigError, DamagedIndex):  # who needs the store will say so
            for manifest in settings.open_store(name).manifests():
                if catalog_exists(settings.catalog_url):  # another process was faster
                    return
                raise UnknownCatalog(
                    f"the catalog of index {manifest.index} in the store is gone",
                    found="no catalog, and an index that one has made",
                    expected=f"catalog {manifest.catalog_id}",
                    next_step="restore it, or correct `catalog` in the configuration; if it is "
                    "lost: embedmigrate doctor --rebuild-catalog",
                )


def hooks_of(
    settings: Settings,
    catalog: Catalog | None,
    reporter: Reporter | None = None,
    stop: StopSignal | None = None,
) -> HookRunner:
    """The hooks that ``settings`` name, for one command."""
    return HookRunner(
        settings.hooks,
        {name: collection.hooks for name, collection in settings.collections.items()},
        settings.root,
        catalog=catalog,
        reporter=reporter or Silent(),
        stop=stop or StopSignal(),
        masked=settings.substituted,
    )


def tell_drift(
    hooks: Hooks, collection: str | None, drift: Drifted, run: RunRecord | None = None
) -> None:
    """Log, and tell hooks, that a model is not itself any more."""
    fields = {"collection": collection, "found": str(drift.found)}
    say(_log, logging.WARNING, "drift", drift.message, fields)
    hooks.tell(of_error("on_drift", collection, drift, run))


version_table = sa.Table(
    VERSION_TABLE, sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True)
)
"""Alembic's version table, for the one write that happens without Alembic."""


def branch_targets(settings: Settings, targets: Sequence[str]) -> list[str]:
    """Targets in Alembic's grammar, where the bare name of a collection stands for its head."""
    return [f"{name}@head" if name in settings.collections else name for name in targets]
