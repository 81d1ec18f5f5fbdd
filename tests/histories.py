"""Random histories of one collection, told next to a simple model of what must be true.

A history is any sequence of writes, syncs, upgrades, rollbacks and what a person may ask, driven
through the real commands on a real catalog, store and managed source. After each step the
invariants are measured; the model knows the documents, what each was before, and which revisions
are applied.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from embedmigrate import Collection, command, resolve
from embedmigrate.catalog import Catalog, indexes, journal, locks, routes, runs, schema
from embedmigrate.catalog.records import IndexRecord, IndexState
from embedmigrate.config import Settings, load_settings
from embedmigrate.errors import (
    EmbedMigrateError,
    IndexGone,
    Irreversible,
    Refused,
    StickyState,
    UnknownRevision,
)
from embedmigrate.sources.base import content_hash, metadata_hash
from tests.workspace import GENERAL, Workspace

COLLECTION = """
[collections.notes]
model = "fake-a"
also_accept = []
store = { kind = "faiss", path = "indexes" }

[collections.notes.source]
kind = "managed"
id = "id"
text = ["text"]
metadata = ["topic"]
"""
MODELS = ("fake-a", "fake-b", "fake-a", "fake-b")
"""What the revisions move to, the first one from nothing."""
IDS = [f"n{number}" for number in range(6)]
STEPS = 12
"""Steps of a history, at most."""
Version = tuple[str, str]
GONE: Version = ("", "")


def template(folder: Path) -> list[str]:
    """A project with a script for each move and no catalog; returns the revision ids."""
    workspace = Workspace.make(
        folder, corpus=[], collections=COLLECTION, general=GENERAL, pin=("fake-a", "fake-b")
    )
    return [workspace.revision(name, f"move {n}", "notes") for n, name in enumerate(MODELS)]


class History(RuleBasedStateMachine):
    """The commands, and beside them what they must have led to."""

    root: ClassVar[Path]
    """The template."""
    revisions: ClassVar[list[str]]
    told: ClassVar[int] = 0
    """Histories of this class so far."""

    def __init__(self) -> None:
        super().__init__()
        type(self).told += 1
        self.folder = Path(tempfile.mkdtemp(prefix="history-", dir=_fast_folder()))
        shutil.copytree(self.root, self.folder, dirs_exist_ok=True)
        self.settings: Settings = load_settings(self.folder / "embedmigrate.toml")
        self.documents: dict[str, Version] = {}
        self.versions: dict[str, list[Version]] = {id: [GONE] for id in IDS}
        self.floors: dict[str, dict[str, int]] = {}
        """By index, then id: the version at its last catching up; it never holds an older one."""
        self.blocks: list[list[int]] = []
        """Applied revisions by number: each block was cut over as one."""
        self.sticky: set[int] = set()
        self.paused = False
        self.generation = 0
        self.served: dict[int, str | None] = {}
        """Generation -> index that was live in it."""
        self.writer = Collection.open("notes", self.settings)
        self.catalog = Catalog(self.settings.catalog_url)

    def teardown(self) -> None:
        self.catalog.close()
        self.writer.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- writing ----------------------------------------------------------------------------

    @initialize(
        ids=st.lists(st.sampled_from(IDS), min_size=1, unique=True), revisions=st.integers(0, 2)
    )
    def begin(self, ids: list[str], revisions: int) -> None:
        self.write(ids, 0)
        for _ in range(revisions):
            self.upgrade(1, again=False, stop=False)

    @rule(
        ids=st.lists(st.sampled_from(IDS), min_size=1, max_size=4, unique=True),
        text=st.integers(0, 3),
    )
    def write(self, ids: list[str], text: int) -> None:
        """New, edited and unchanged documents; two of them often share a text."""
        self.writer.upsert([{"id": id, "text": f"text {text}", "topic": "a"} for id in ids])
        for id in ids:
            self._now(id, (f"text {text}", "a"))

    @rule(id=st.sampled_from(IDS), topic=st.sampled_from(["b", "c"]))
    def edit_metadata(self, id: str, topic: str) -> None:
        if id in self.documents:
            text = self.documents[id][0]
            self.writer.upsert([{"id": id, "text": text, "topic": topic}])
            self._now(id, (text, topic))

    @rule(ids=st.lists(st.sampled_from(IDS), min_size=1, max_size=3, unique=True))
    def delete(self, ids: list[str]) -> None:
        assert self.writer.delete(ids) == len(self.documents.keys() & set(ids))
        for id in ids:
            if id in self.documents:
                del self.documents[id]
                self.versions[id].append(GONE)

    # -- moving -----------------------------------------------------------------------------

    @rule(id=st.sampled_from(IDS), text=st.integers(0, 3))
    def write_and_sync(self, id: str, text: int) -> None:
        self.write([id], text)
        self.sync()

    @rule(id=st.sampled_from(IDS))
    def delete_and_sync(self, id: str) -> None:
        self.delete([id])
        self.sync()

    @rule()
    def sync(self) -> None:
        if not self.blocks:
            _refused(IndexGone, lambda: command.sync(self.settings))
            return
        command.sync(self.settings, allow_mass_delete=True)
        self._caught_up(self._live())
        self._repeat(lambda: command.sync(self.settings))

    @rule(steps=st.integers(1, 2), again=st.booleans(), stop=st.booleans())
    def upgrade(self, steps: int, again: bool, stop: bool) -> None:
        pending = [number for number in range(len(MODELS)) if number >= self.applied][:steps]
        if not pending:
            return
        target = self.revisions[pending[-1]]

        def go() -> None:
            command.upgrade(
                self.settings,
                [target],
                until_ready=stop,
                again="a test" if again else None,
                allow_mass_delete=True,
            )

        if not self.paused and pending[-1] in self.sticky and not again:
            _refused(StickyState, go)
            return
        go()
        if self.paused:
            return
        if again or pending[-1] in self.sticky:
            self.sticky.discard(pending[-1])
        if stop:
            return
        self.blocks.append(pending)
        self._moved()
        self._caught_up(self._live())
        self._repeat(lambda: command.upgrade(self.settings, [target]))

    @rule(now=st.booleans(), rebuild=st.booleans())
    def rollback(self, now: bool, rebuild: bool) -> None:
        def go() -> None:
            command.rollback(
                self.settings,
                "notes",
                reason="a test",
                now=now,
                rebuild=rebuild,
                allow_mass_delete=True,
            )

        if not self.blocks:
            _refused(UnknownRevision, go)
            return
        if self._way_back_is_dropped() and not rebuild:
            _refused(Irreversible, go)
            return
        go()
        self.sticky.update(self.blocks.pop())
        self._moved()
        if self.blocks:
            self._caught_up(self._live())  # before the switch, or right behind it

    @rule()
    def contract(self) -> None:
        with self.catalog.write() as connection:
            aged = schema.index.c.retained_at - 30 * 86_400
            connection.execute(schema.index.update().values(retained_at=aged))
        live = self._live()
        try:
            command.contract(self.settings)
        except Refused:
            raise AssertionError("everything retained is past its grace") from None
        assert self._live() == live, "I20"

    @rule(resume=st.booleans())
    def pause(self, resume: bool) -> None:
        """Also left paused, for what comes next to be refused or held."""
        if self._has_catalog_row():
            command.pause(self.settings, "notes", reason="a test")
            self.paused = True
        if self.paused and resume:
            command.resume(self.settings, "notes")
            self.paused = False

    @rule()
    def resume(self) -> None:
        if self.paused:
            command.resume(self.settings, "notes")
            self.paused = False

    # -- what always holds ------------------------------------------------------------------

    @invariant()
    def route_and_rows_agree(self) -> None:
        """I10, I14, I15, I16, and the model of the walk."""
        if not self._has_catalog_row():
            return
        with self.catalog.read() as connection:
            route = routes.get(connection, "notes")
            assert route.generation == self.generation
            applied = [it.revision for it in reversed(routes.applied_of(connection, "notes"))]
            assert applied == [self.revisions[n] for block in self.blocks for n in block]
            heads = _heads(connection)
            assert heads == applied[-1:], "I10"
            live = None if route.live_index is None else indexes.get(connection, route.live_index)
            wanted = MODELS[self.applied - 1] if self.blocks else None
            assert (None if live is None else self._name(live)) == wanted
            head = journal.head(connection, "notes")
            for index in indexes.of_collection(connection, "notes"):
                assert index.position <= head
                for run in runs.of_index(connection, index.name):
                    assert run.pending >= 0, "I16"
            assert locks.holder(connection, "notes") is None, "I15"

    @invariant()
    def indexes_hold_what_they_say(self) -> None:
        """I2 to I6 of every index, as of its last catching up."""
        if not self._has_catalog_row():
            return
        store = self.settings.open_store("notes")
        for index in self._indexes():
            if index.state is IndexState.BUILDING:
                continue
            with closing(store.reader(index.container)) as reader:
                assert reader.problems() == [], "I3"
                stamps = {stamp.fingerprint for stamp in reader.stamps()}
                assert stamps <= {index.fingerprint} == {reader.manifest.fingerprint}, "I4"
                states = list(reader.states())
                floors = self.floors.get(index.name, {})
                for state in states:
                    versions = self.versions[state.id]
                    floor = floors.get(state.id, 0)
                    hashes = [_hashes(it) for it in versions[floor:]]
                    assert (state.content_hash, state.metadata_hash) in hashes, "I2, I5"
                if states:
                    self._vectors_are_of_their_texts(index, reader, states)

    @invariant()
    def readers_are_answered_by_what_is_live(self) -> None:
        """I8."""
        if not self.blocks:
            return
        result = self.writer.search("text 1", k=len(IDS))
        # the pair before is served until the new one is open, and never half of each
        assert self.served[result.generation] == result.index, "I8"

    # -- within -----------------------------------------------------------------------------

    @property
    def applied(self) -> int:
        """How many revisions are applied."""
        return self.blocks[-1][-1] + 1 if self.blocks else 0

    def _moved(self) -> None:
        self.generation += 1
        self.served[self.generation] = self._live()

    def _now(self, id: str, version: Version) -> None:
        self.documents[id] = version
        self.versions[id].append(version)

    def _caught_up(self, index: str | None) -> None:
        """I1, I2, I5, I9: the index holds the source, no more and no less."""
        assert index is not None
        with closing(self.settings.open_store("notes").reader(self._container(index))) as reader:
            found = {it.id: (it.content_hash, it.metadata_hash) for it in reader.states()}
        assert found == {id: _hashes(it) for id, it in self.documents.items()}, "I1, I2, I5"
        self.floors[index] = {id: len(it) - 1 for id, it in self.versions.items()}

    def _repeat(self, go: Callable[[], Any]) -> None:
        """I12: nothing is left to do, so that nothing is done."""
        before = self._fingerprints()
        go()
        assert self._fingerprints() == before, "I12"

    def _fingerprints(self) -> list[Any]:
        tables = (schema.route, schema.index, schema.run, schema.applied, schema.journal)
        with self.catalog.read() as connection:
            return [connection.execute(sa.select(table)).all() for table in tables]

    def _vectors_are_of_their_texts(self, index: IndexRecord, reader: Any, states: Any) -> None:
        texts = {_hashes(it)[0]: it[0] for versions in self.versions.values() for it in versions}
        with closing(resolve.load_embedder(self.settings, index.model)) as embedder:
            made = embedder.embed_documents([texts[it.content_hash] for it in states])
        stored = reader.vectors([(it.id, it.chunk) for it in states])
        assert np.allclose(made, stored, atol=1e-6), "I6"

    def _name(self, index: IndexRecord) -> str:
        names = {"fake-a", "fake-b"}
        return next(
            it for it in names if resolve.pinned(self.settings, it).fingerprint == index.fingerprint
        )

    def _indexes(self) -> list[IndexRecord]:
        with self.catalog.read() as connection:
            return indexes.of_collection(connection, "notes")

    def _container(self, index: str) -> str:
        with self.catalog.read() as connection:
            return indexes.get(connection, index).container

    def _live(self) -> str | None:
        with self.catalog.read() as connection:
            return routes.get(connection, "notes").live_index

    def _way_back_is_dropped(self) -> bool:
        with self.catalog.read() as connection:
            block = len(self.blocks[-1])
            applied = routes.applied_of(connection, "notes")[:block]
            target = next(it for it in applied if it.superseded_by is None).previous_index
            if target is None:
                return False
            return indexes.get(connection, target).state is IndexState.DROPPED

    def _has_catalog_row(self) -> bool:
        with self.catalog.read() as connection:
            chosen = sa.select(schema.collection.c.name)
            return connection.execute(chosen).first() is not None


def _heads(connection: sa.Connection) -> list[str]:
    if not sa.inspect(connection).has_table("embedmigrate_version"):
        return []
    return list(connection.execute(sa.text("SELECT * FROM embedmigrate_version")).scalars())


def _hashes(version: Version) -> tuple[bytes, bytes]:
    text, topic = version
    return content_hash(text), metadata_hash({"topic": topic})


def _refused(error: type[EmbedMigrateError], go: Callable[[], Any]) -> None:
    try:
        go()
    except error:
        return
    raise AssertionError(f"{error.__name__} was expected")


def _fast_folder() -> str | None:
    """Where a file costs no disk: thousands of histories would wait for it otherwise."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
