"""The project that is broken: made anew in a folder, with two models and one collection."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from embedmigrate.config import Settings, load_settings
from embedmigrate.testing.changes import ANCHORS, Writer

COLLECTION = "documents"
SourceKind = Literal["managed", "sql"]

MODELS = """
[models.first]
provider = "hashing-not-a-model"
dimensions = 32

# as wide as the first, so that a mix of the two raises nothing
[models.second]
provider = "hashing-not-a-model"
dimensions = 32
seed = 1
"""
_GENERAL = """
[embedmigrate]
script_location = "migrations"
{catalog}
batch_size = {batch_size}
witness_batches = 2
lease_seconds = {lease_seconds}

[collections.documents]
model = "first"
also_accept = ["first", "second"]
store = {store}

[collections.documents.source]
{source}
text = ["title", "text"]
metadata = ["topic"]
"""
_SOURCES: dict[SourceKind, str] = {
    "managed": 'kind = "managed"\npath = "documents.db"\nid = "id"',
    "sql": 'kind = "sql"\nurl = "{library}"\ntable = "documents"\nkey = "id"',
}


_CATALOG_FILE = "sqlite:///catalog.db"
_DATABASE = "database.url"
"""File in which the URL of a project's database stands."""


@dataclass(frozen=True)
class Recipe:
    """How a project is made.

    ``store`` is the TOML table of the store; ``models`` are the tables ``[models.first]`` and
    ``[models.second]``. ``writers`` share ``documents`` between them, besides those that nobody
    changes.
    """

    source: SourceKind = "managed"
    store: str = '{ kind = "faiss", path = "indexes" }'
    models: str = MODELS
    documents: int = 64
    writers: int = 1
    batch_size: int = 8
    lease_seconds: float = 30.0
    seed: int = 0
    with_index: bool = True
    """Whether ``first`` is live and a revision to ``second`` pending; else ``first`` is pending."""
    captured: bool = True
    """Whether an SQL source records its changes by triggers."""
    server: str | None = None
    """URL of a PostgreSQL server on which each project gets a database, for its catalog and its
    SQL source; ``$DATABASE`` in ``store`` is its URL. None: both are SQLite files."""


@dataclass(frozen=True)
class Subject:
    """A project in a folder of its own."""

    root: Path

    @classmethod
    def make(cls, root: Path, recipe: Recipe) -> Subject:
        from embedmigrate import command

        root.mkdir(parents=True)
        subject = cls(root)
        url, library = _CATALOG_FILE, "sqlite:///library.db"
        if recipe.server is not None:
            from embedmigrate.testing import database

            url = library = database.create(recipe.server)
            (root / _DATABASE).write_text(url, "utf-8")
        configured = _GENERAL.format(
            catalog=f'catalog = "{url}"',
            batch_size=recipe.batch_size,
            lease_seconds=recipe.lease_seconds,
            store=recipe.store.replace("$DATABASE", url),
            source=_SOURCES[recipe.source].format(library=library),
        )
        (root / "embedmigrate.toml").write_text(configured + recipe.models, "utf-8")
        command.init(Path("migrations"), root=root)
        for name in ("first", "second"):
            to_pin = load_settings(root / "embedmigrate.toml", allow_unpinned=True)
            command.pin(to_pin, name)
        subject._fill(recipe)
        settings = subject.settings
        if recipe.source == "sql" and recipe.captured:
            command.capture_install(settings, COLLECTION)
        command.revision(settings, "first", collection=COLLECTION, to="first")
        if recipe.with_index:
            command.upgrade(settings)
            command.revision(settings, "second", collection=COLLECTION, to="second")
        return subject

    def _fill(self, recipe: Recipe) -> None:
        if recipe.source == "sql":
            self._make_table()
        with self.writer(0, recipe.seed) as anchors:
            anchors.insert(ANCHORS)
        for number in range(1, recipe.writers + 1):
            share = recipe.documents // recipe.writers
            with self.writer(number, recipe.seed) as writer:
                writer.insert(share)

    def _make_table(self) -> None:
        table = "CREATE TABLE documents (id TEXT PRIMARY KEY, title TEXT, text TEXT, topic TEXT)"
        if self.database is not None:
            import psycopg

            with psycopg.connect(self.database, autocommit=True) as server:
                server.execute(table)
            return
        with closing(sqlite3.connect(self.root / "library.db")) as library, library:
            library.execute("PRAGMA journal_mode = WAL")
            library.execute(table)

    @property
    def database(self) -> str | None:
        """The URL of its database on a server; None where everything is a file."""
        path = self.root / _DATABASE
        return path.read_text("utf-8") if path.exists() else None

    def copy(self, root: Path) -> Subject:
        """The same project in another folder, with a copy of its database."""
        other = Subject(Path(shutil.copytree(self.root, root)))
        if self.database is not None:
            from embedmigrate.testing import database

            url = database.copy(self.database)
            configured = (root / "embedmigrate.toml").read_text("utf-8")
            (root / "embedmigrate.toml").write_text(configured.replace(self.database, url), "utf-8")
            (root / _DATABASE).write_text(url, "utf-8")
        return other

    def remove(self) -> None:
        if self.database is not None:
            from embedmigrate.testing import database

            database.drop(self.database)
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def settings(self) -> Settings:
        return load_settings(self.root / "embedmigrate.toml")

    @property
    def asked(self) -> Path:
        """Where every text is noted before a model sees it."""
        return self.root / "asked.log"

    @property
    def over(self) -> Path:
        """A file that tells writers and readers to end."""
        return self.root / "over"

    def writer(self, number: int, seed: int = 0) -> Writer:
        """Whoever changes the documents of this number; see ``Writer``."""
        return Writer(self.root, number, seed)

    def status(self) -> dict[str, Any]:
        from embedmigrate import command

        (entry,) = command.status(self.settings)["collections"]
        found: dict[str, Any] = entry
        return found

    def live(self) -> str | None:
        """Name of the model that is live."""
        live = self.status()["live"]
        return None if live is None else live["model"]

    def is_settled_at(self, model: str) -> bool:
        """Whether this model is live, and whoever switched to it finished that."""
        from embedmigrate.command.project import Project

        with Project(self.settings) as project:
            served = project.index_of(COLLECTION).model.name
            return served == model and not project.unsettled()

    def is_behind(self) -> bool:
        """Whether a follower has something to do."""
        from embedmigrate.command.project import Project
        from embedmigrate.command.syncing import has_work

        with Project(self.settings) as project:
            return has_work(project.job(COLLECTION))

    def let_grace_pass(self) -> None:
        """Make every retained index look as if it had been retained for a year."""
        from embedmigrate.catalog import Catalog, schema

        with Catalog(self.settings.catalog_url) as catalog, catalog.write() as connection:
            long_ago = schema.index.c.retained_at - 31_536_000
            connection.execute(schema.index.update().values(retained_at=long_ago))

    def moments(self) -> list[tuple[str, float]]:
        """What was noted by events, with the monotonic clock, in order."""
        path = self.root / "moments.log"
        lines = path.read_text("ascii").splitlines() if path.exists() else []
        return [(name, at) for name, at in map(json.loads, lines)]
