"""A catalog that is lost, or an older copy: what is refused, what is rebuilt, what works then."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from embedmigrate import Collection, command
from embedmigrate.catalog import Catalog, events, locks, rebuilding, schema
from embedmigrate.catalog.rebuilding import Floor
from embedmigrate.engine.job import StopSignal
from embedmigrate.errors import (
    FencedOut,
    LockHeld,
    Refused,
    StickyState,
    Stopped,
    UnknownCatalog,
)
from embedmigrate.stores.recovering import RecoverableStore
from tests.command_line import run
from tests.workspace import ARTICLES, GENERAL, Workspace, documents

REBUILD = "embedmigrate doctor --rebuild-catalog"


@dataclass
class Losing:
    """A project whose catalog can be lost, in one kind of database."""

    workspace: Workspace
    url: str | None = None

    def lose(self) -> None:
        if self.url is None:
            for file in self.workspace.root.glob("catalog.db*"):
                file.unlink()
            return
        with psycopg.connect(self.url) as connection:
            for table in self._tables(connection):
                connection.execute(sql.SQL("DROP TABLE {} CASCADE").format(table))

    def copy(self) -> Callable[[], None]:
        """Take a backup of the catalog alone; what is returned restores it."""
        if self.url is None:
            path = self.workspace.root / "catalog.db"
            with (
                closing(sqlite3.connect(path)) as source,
                closing(sqlite3.connect(path.with_suffix(".backup"))) as target,
            ):
                source.backup(target)
            return self._restore_file
        with psycopg.connect(self.url) as connection:
            data = {it: connection.execute(_all_of(it)).fetchall() for it in _names()}
        return lambda: self._restore_rows(data)

    def _restore_file(self) -> None:
        self.lose()
        (self.workspace.root / "catalog.backup").rename(self.workspace.root / "catalog.db")

    def _restore_rows(self, data: dict[str, list[Any]]) -> None:
        assert self.url is not None
        with psycopg.connect(self.url) as connection:
            for name in reversed(_names()):
                connection.execute(sql.SQL("DELETE FROM {}").format(_table(name)))
            for name, rows in data.items():
                for (row,) in rows:
                    connection.execute(
                        sql.SQL(
                            "INSERT INTO {0} SELECT * FROM json_populate_record(NULL::{0}, %s)"
                        ).format(_table(name)),
                        (json.dumps(row),),
                    )

    def _tables(self, connection: psycopg.Connection[Any]) -> list[sql.Identifier]:
        found = connection.execute(
            "SELECT tablename FROM pg_tables"
            " WHERE schemaname = 'embedmigrate' AND tablename LIKE 'embedmigrate\\_%'"
        )
        return [_table(name) for (name,) in found]

    def rebuild(self, **options: Any) -> dict[str, Any]:
        return command.rebuild_catalog(self.workspace.settings, yes=True, **options)


def _names() -> list[str]:
    return [table.name for table in schema.metadata.sorted_tables] + ["embedmigrate_version"]


def _table(name: str) -> sql.Identifier:
    return sql.Identifier("embedmigrate", name)


def _all_of(name: str) -> sql.Composed:
    return sql.SQL("SELECT to_json(t) FROM {} AS t").format(_table(name))


def make_losing(root: Path, url: str | None) -> Losing:
    """`fake-a` was live, `fake-b` is; in PostgreSQL at ``url``, else in SQLite and FAISS."""
    collections, general = ARTICLES.replace('"wordllama"', '"fake-a"'), GENERAL
    if url is not None:
        store = f'{{ kind = "pgvector", url = "{url}" }}'
        collections = collections.replace('{ kind = "faiss", path = "indexes" }', store)
        general = general.replace('catalog = "sqlite:///catalog.db"\n', "")
    workspace = Workspace.make(
        root,
        collections=collections,
        general=general,
        pin=("fake-a", "fake-b"),
        corpus=documents(12),
    )
    with (workspace.root / "embedmigrate.toml").open("a", encoding="utf-8") as file:
        file.write('[models.fake-c]\nprovider = "hashing-not-a-model"\ndimensions = 16\n')
    command.pin(workspace.to_pin, "fake-c")
    workspace.revision("fake-a")
    workspace.upgrade()
    workspace.revision("fake-b")
    workspace.upgrade()
    return Losing(workspace, url)


@pytest.fixture(params=["sqlite and faiss", "postgresql and pgvector"])
def losing(request: pytest.FixtureRequest, tmp_path: Path) -> Losing:
    in_postgres = request.param == "postgresql and pgvector"
    url = request.getfixturevalue("postgres") if in_postgres else None
    return make_losing(tmp_path / "project", url)


def edited(workspace: Workspace, remark: str, *, without: int = 0) -> None:
    corpus = documents(12)
    corpus[0]["text"] = remark
    workspace.write_corpus(corpus[: len(corpus) - without])


# -- what is refused ----------------------------------------------------------------------------


WRITING: dict[str, Callable[[Workspace], object]] = {
    "upgrade": lambda it: it.upgrade(),
    "sync": lambda it: command.sync(it.settings),
    "rollback": lambda it: command.rollback(it.settings, "articles"),
    "rollback now": lambda it: command.rollback(it.settings, "articles", now=True),
    "downgrade": lambda it: command.downgrade(it.settings, "articles@-1"),
    "contract": lambda it: command.contract(it.settings),
}


def test_an_older_copy_of_the_catalog_is_refused_by_what_writes(losing: Losing) -> None:
    restore = losing.copy()
    command.rollback(losing.workspace.settings, "articles")
    losing.workspace.revision("fake-a", "again")
    restore()
    for write in WRITING.values():
        with pytest.raises(UnknownCatalog, match="live in a later generation") as refused:
            write(losing.workspace)
        assert refused.value.exit_code == 3
        assert REBUILD in str(refused.value)


def test_a_catalog_from_before_an_index_is_refused_by_what_writes(losing: Losing) -> None:
    losing.workspace.revision("fake-c", "a third")
    restore = losing.copy()
    losing.workspace.upgrade(until_ready=True)
    restore()
    for name in ("upgrade", "sync", "rollback"):
        with pytest.raises(UnknownCatalog, match="is not known to this catalog"):
            WRITING[name](losing.workspace)


def test_where_the_catalog_is_gone_none_is_made(losing: Losing) -> None:
    losing.lose()
    for write in WRITING.values():
        with pytest.raises(UnknownCatalog, match=r"no catalog|is gone") as refused:
            write(losing.workspace)
        assert REBUILD in str(refused.value)
        assert losing.url or not (losing.workspace.root / "catalog.db").exists()


def test_the_doctor_says_so(losing: Losing) -> None:
    losing.lose()
    answer = run(losing.workspace.root, "doctor")
    assert answer.code == 3
    assert "NO  catalog: " in answer.out and REBUILD in answer.out


def test_the_doctor_tells_an_older_copy(losing: Losing) -> None:
    restore = losing.copy()
    command.rollback(losing.workspace.settings, "articles")
    restore()
    answer = run(losing.workspace.root, "doctor")
    assert answer.code == 3
    assert "later generation" in answer.out and REBUILD in answer.out


# -- what is rebuilt ----------------------------------------------------------------------------


def test_without_yes_it_only_says_what_it_would_do(losing: Losing) -> None:
    losing.lose()
    before = losing.workspace.snapshot()
    found = command.rebuild_catalog(losing.workspace.settings)
    assert found["needed"] and not found["done"]
    assert losing.workspace.snapshot() == before
    with pytest.raises(UnknownCatalog):
        command.sync(losing.workspace.settings)


def test_everything_works_again(losing: Losing) -> None:
    """A document is edited and one deleted while there is no catalog: both are found."""
    workspace = losing.workspace
    losing.lose()
    edited(workspace, "The heron stands in the reeds.", without=1)

    found = losing.rebuild()

    (entry,) = found["collections"]
    assert found["done"] and len(entry["applied"]) == 2 and entry["live"] == "articles-0002"
    assert workspace.live() == "fake-b"
    assert [it["model"] for it in workspace.status()["retained"]] == ["fake-a"]
    with pytest.raises(Refused, match="past its grace"):
        command.contract(workspace.settings)
    (synced,) = command.sync(workspace.settings)["collections"]
    assert (synced["written"], synced["deleted"]) == (1, 1)
    assert command.verify(workspace.settings)["holds"]
    assert len(command.search(workspace.settings, "articles", "bread", 20)["hits"]) == 11
    assert workspace.upgrade() == []
    command.rollback(workspace.settings, "articles", reason="a test")
    assert workspace.live() == "fake-a"
    assert command.verify(workspace.settings)["holds"]
    with pytest.raises(StickyState):
        workspace.upgrade()
    workspace.upgrade(again="a test")
    assert workspace.live() == "fake-b" and command.verify(workspace.settings)["holds"]
    assert not command.rebuild_catalog(workspace.settings)["needed"]


def test_an_older_copy_is_kept_beside_the_new_one(losing: Losing) -> None:
    workspace = losing.workspace
    restore = losing.copy()
    command.rollback(workspace.settings, "articles")
    restore()
    assert workspace.live() == "fake-b"
    kept = losing.rebuild()["kept"]
    assert workspace.live() == "fake-a"
    if losing.url is None:
        with closing(sqlite3.connect(kept)) as copy:
            (live,) = copy.execute("SELECT live_index FROM embedmigrate_route").fetchone()
    else:
        name = sql.Identifier(kept.removeprefix("schema "), "embedmigrate_route")
        with psycopg.connect(losing.url) as connection:
            row = connection.execute(sql.SQL("SELECT live_index FROM {}").format(name)).fetchone()
            assert row is not None
            live = row[0]
    assert live == "articles-0002"


def test_what_a_person_rolled_back_stays_so(losing: Losing) -> None:
    command.rollback(losing.workspace.settings, "articles")
    losing.lose()
    (entry,) = losing.rebuild()["collections"]
    assert (entry["live"], len(entry["applied"]), len(entry["undone"])) == ("articles-0001", 1, 1)
    with pytest.raises(StickyState):
        losing.workspace.upgrade()


def test_it_takes_the_id_that_the_indexes_name_and_says_who_did_it(losing: Losing) -> None:
    with Catalog(losing.workspace.settings.catalog_url) as catalog:
        before = catalog.id
    losing.lose()
    assert losing.rebuild()["catalog_id"] == before
    with Catalog(losing.workspace.settings.catalog_url) as catalog, catalog.read() as connection:
        assert catalog.id == before
        events = connection.execute(schema.event.select()).all()
    assert {(it.kind, it.collection) for it in events} == {
        (rebuilding.REBUILT, None),
        (rebuilding.REBUILT, "articles"),
    }
    assert all("@" in it.actor for it in events)


def test_a_reader_sees_a_generation_that_no_other_index_had(losing: Losing) -> None:
    with Collection.open("articles", losing.workspace.settings) as articles:
        before = articles.search("bread", k=1)
    losing.lose()
    losing.rebuild()
    with Collection.open("articles", losing.workspace.settings) as articles:
        after = articles.search("bread", k=1)
    assert after.hits == before.hits and after.generation > before.generation


def test_a_second_time_there_is_nothing_to_do(losing: Losing) -> None:
    losing.lose()
    losing.rebuild()
    before = losing.workspace.snapshot()
    assert losing.rebuild() == {**command.rebuild_catalog(losing.workspace.settings), "done": False}
    assert losing.workspace.snapshot() == before


def test_a_run_that_was_cut_short_is_taken_up(losing: Losing) -> None:
    """Half of it is in the store; what is there is not embedded again."""
    workspace = losing.workspace
    workspace.edit_config("[embedmigrate]", "[embedmigrate]\nbatch_size = 4")
    workspace.revision("fake-c", "a third")
    stop = StopSignal()
    with pytest.raises(Stopped):
        workspace.upgrade(stop=stop, reporter=StopsAt(stop, 4))
    losing.lose()
    found = losing.rebuild()["collections"][0]
    assert [it["state"] for it in found["indexes"] if it["index"] == "articles-0003"] == [
        "building"
    ]
    assert workspace.status()["shadow"]["state"] == "failed"
    (entry,) = workspace.upgrade()
    assert entry["live"] and entry["index"] == "articles-0003" and entry["embedded"] < 12
    assert command.verify(workspace.settings)["holds"]


class StopsAt:
    """A reporter that asks the runner to stop once so many documents are done."""

    def __init__(self, stop: StopSignal, documents: int) -> None:
        self._stop, self._left = stop, documents

    def phase(self, collection: str, name: str, total: int | None = None, done: int = 0) -> None:
        pass

    def advance(self, documents: int) -> None:
        self._left -= documents
        if self._left <= 0:
            self._stop.set("a test")

    def note(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


# -- the numbers --------------------------------------------------------------------------------


def test_new_changes_replace_what_the_lost_journal_brought(losing: Losing) -> None:
    reached = sync_often(losing.workspace)
    losing.lose()
    (entry,) = losing.rebuild()["collections"]
    assert entry["journal_head"] == reached
    edited(losing.workspace, "The heron stands in the reeds.")
    (synced,) = command.sync(losing.workspace.settings)["collections"]
    assert synced["written"] == 1
    assert command.verify(losing.workspace.settings)["holds"]


def test_a_journal_that_began_at_nought_would_bring_no_change(
    losing: Losing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: what is stored looks newer than whatever comes."""
    sync_often(losing.workspace)
    losing.lose()
    over = Floor.over

    def forgetting(self: Floor, other: Floor) -> Floor:
        return over(self, Floor(**{**vars(other), "seq": 0}))

    monkeypatch.setattr(Floor, "over", forgetting)
    losing.rebuild()
    edited(losing.workspace, "The heron stands in the reeds.")
    (synced,) = command.sync(losing.workspace.settings)["collections"]
    assert synced["written"] == 0
    assert not command.verify(losing.workspace.settings)["holds"]


def sync_often(workspace: Workspace) -> int:
    """Changes that the journal numbers; the greatest seq that is stored."""
    for number in range(3):
        edited(workspace, f"Remark {number}.")
        command.sync(workspace.settings)
    store = workspace.settings.open_store("articles")
    assert isinstance(store, RecoverableStore)
    return store.marks("articles-0002").seq


def test_a_writer_that_still_lives_is_fenced_out(losing: Losing) -> None:
    store = losing.workspace.settings.open_store("articles")
    assert isinstance(store, RecoverableStore)
    zombie = store.writer("articles-0002", epoch=store.marks("articles-0002").epoch, run="zombie")
    losing.lose()
    losing.rebuild()
    with closing(zombie), pytest.raises(FencedOut):
        zombie.delete([("doc-000000", 99)])
    command.sync(losing.workspace.settings)


def test_a_tombstone_counts_as_well(losing: Losing) -> None:
    """The last thing that was written of a document may be that it is gone."""
    losing.workspace.write_corpus(documents(12)[:-1])
    command.sync(losing.workspace.settings)
    store = losing.workspace.settings.open_store("articles")
    assert isinstance(store, RecoverableStore)
    with closing(store.reader("articles-0002")) as reader:
        rows = max(state.seq for state in reader.states())
    assert store.marks("articles-0002").seq > rows


# -- what stays open ----------------------------------------------------------------------------


def test_an_index_that_no_script_wants_is_left_alone(losing: Losing) -> None:
    """Its script was deleted before it was cut over. Everything goes on beside it."""
    workspace = losing.workspace
    third = workspace.revision("fake-c", "a third")
    workspace.upgrade(until_ready=True)
    next(workspace.settings.script_location.glob(f"versions/{third}*")).unlink()
    losing.lose()
    found = losing.rebuild()
    assert [it["index"] for it in found["left_alone"]] == ["articles-0003"]
    command.sync(workspace.settings)
    workspace.revision("fake-c", "a third again")
    (entry,) = workspace.upgrade()
    assert entry["index"] == "articles-0004" and entry["live"]
    names = [it.index for it in workspace.settings.open_store("articles").manifests()]
    assert names == ["articles-0001", "articles-0002", "articles-0003", "articles-0004"]
    assert not command.rebuild_catalog(workspace.settings)["needed"]


def test_what_is_live_and_has_no_script_is_refused(losing: Losing) -> None:
    second = losing.workspace.status()["revision"]
    next(losing.workspace.settings.script_location.glob(f"versions/{second}*")).unlink()
    losing.lose()
    with pytest.raises(UnknownCatalog, match="which revision made what is live") as refused:
        losing.rebuild()
    assert "articles-0002 (generation 2), which is of no script" in str(refused.value)


def test_while_somebody_works_it_waits_for_them_to_end(losing: Losing) -> None:
    restore = losing.copy()
    command.rollback(losing.workspace.settings, "articles")
    restore()
    with Catalog(losing.workspace.settings.catalog_url) as catalog:
        locks.acquire(catalog, "articles", 30)
    with pytest.raises(LockHeld, match="somebody works"):
        losing.rebuild()


def test_two_indexes_of_one_generation_are_refused(losing: Losing) -> None:
    store = losing.workspace.settings.open_store("articles")
    assert isinstance(store, RecoverableStore)
    with closing(
        store.writer("articles-0001", epoch=store.marks("articles-0001").epoch, run="test")
    ) as writer:
        writer.set_generation(2)
    losing.lose()
    with pytest.raises(UnknownCatalog, match="which of its indexes is live") as refused:
        losing.rebuild()
    assert "articles-0001 (generation 2), articles-0002 (generation 2)" in str(refused.value)
    assert "--applied" in str(refused.value)


def test_a_model_that_came_back_is_asked_for(losing: Losing) -> None:
    """`fake-a` is live: by its first revision, after a rollback, or by its second?"""
    workspace = losing.workspace
    third = workspace.revision("fake-a", "back again")
    workspace.upgrade()
    losing.lose()
    with pytest.raises(UnknownCatalog, match="which revision made what is live") as refused:
        losing.rebuild()
    assert third in str(refused.value)
    (entry,) = losing.rebuild(applied=[third])["collections"]
    assert len(entry["applied"]) == 3 and entry["live"] == "articles-0001"
    assert workspace.live() == "fake-a" and workspace.upgrade() == []
    command.rollback(workspace.settings, "articles")
    assert workspace.live() == "fake-b"


# -- one kind of database alone -----------------------------------------------------------------


def test_a_file_that_is_no_catalog_any_more_is_set_aside(tmp_path: Path) -> None:
    workspace = fake(tmp_path / "project")
    file = workspace.root / "catalog.db"
    file.write_bytes(b"what a broken disk gives" * 500)
    kept = command.rebuild_catalog(workspace.settings, yes=True)["kept"]
    assert Path(kept).read_bytes().startswith(b"what a broken disk gives")
    assert workspace.live() == "fake-a"
    command.sync(workspace.settings)
    assert command.verify(workspace.settings)["holds"]


def test_a_newer_catalog_is_not_replaced(tmp_path: Path) -> None:
    workspace = fake(tmp_path / "project")
    with closing(sqlite3.connect(workspace.root / "catalog.db")) as catalog, catalog:
        catalog.execute("UPDATE embedmigrate_catalog SET schema_version = 99")
    with pytest.raises(UnknownCatalog, match="newer"):
        command.rebuild_catalog(workspace.settings, yes=True)


def test_a_catalog_that_is_whole_is_left_as_it_is(tmp_path: Path) -> None:
    workspace = fake(tmp_path / "project")
    before = workspace.snapshot()
    assert not command.rebuild_catalog(workspace.settings, yes=True)["needed"]
    assert workspace.snapshot() == before


def test_an_empty_catalog_that_somebody_made_is_replaced(tmp_path: Path) -> None:
    workspace = fake(tmp_path / "project")
    with Catalog(workspace.settings.catalog_url) as catalog:
        before = catalog.id
    for file in workspace.root.glob("catalog.db*"):
        file.unlink()
    Catalog(workspace.settings.catalog_url).close()
    with pytest.raises(UnknownCatalog, match="belongs to another catalog"):
        workspace.revision("fake-b")
        workspace.upgrade()
    result = command.rebuild_catalog(workspace.settings, yes=True)
    assert (result["catalog_id"], workspace.live()) == (before, "fake-a")


def test_what_is_written_meanwhile_is_not_written_over(tmp_path: Path) -> None:
    workspace = fake(tmp_path / "project")
    with Catalog(workspace.settings.catalog_url) as catalog:
        with catalog.read() as connection:
            seen = rebuilding.Copy(connection, catalog).state()
        with catalog.write() as connection:
            events.record(connection, "resumed", "articles")
        with pytest.raises(Refused, match="written meanwhile"):
            rebuilding.rebuild(catalog, catalog.id, [], [], seen, lambda _connection: None)
    assert workspace.live() == "fake-a"
    assert not list(workspace.root.glob("catalog.db.before-*"))


def test_a_rebuild_that_fails_changes_nothing(losing: Losing) -> None:
    """The new catalog and the copy of the old one are one transaction, or the copy is a file."""
    restore = losing.copy()
    command.rollback(losing.workspace.settings, "articles")
    restore()

    def fails(_connection: object) -> None:
        raise RuntimeError("a test")

    with Catalog(losing.workspace.settings.catalog_url) as catalog:
        with catalog.read() as connection:
            seen = rebuilding.Copy(connection, catalog).state()
        with pytest.raises(RuntimeError, match="a test"):
            rebuilding.rebuild(catalog, "another", [], [], seen, fails)
        with catalog.read() as connection:
            assert rebuilding.Copy(connection, catalog).state() == seen
    assert losing.workspace.live() == "fake-b"
    losing.rebuild()
    assert losing.workspace.live() == "fake-a"


def test_a_catalog_without_its_version_row_is_rebuilt(tmp_path: Path) -> None:
    """As a dump of some of its tables leaves it: everything would seem to be pending."""
    workspace = fake(tmp_path / "project")
    with closing(sqlite3.connect(workspace.root / "catalog.db")) as catalog, catalog:
        catalog.execute("DROP TABLE embedmigrate_version")
    command.rebuild_catalog(workspace.settings, yes=True)
    assert workspace.upgrade() == [] and workspace.live() == "fake-a"


def test_indexes_of_two_catalogs_are_asked_about(tmp_path: Path) -> None:
    ours, theirs = (fake(tmp_path / name) for name in ("ours", "theirs"))
    (index,) = ours.settings.open_store("articles").manifests()
    shutil.copytree(
        theirs.root / "indexes" / "articles-0001", ours.root / "indexes" / "elsewhere-1"
    )
    manifest = replace(index, index="elsewhere-1", catalog_id="another")
    with closing(sqlite3.connect(ours.root / "indexes" / "elsewhere-1" / "rows.sqlite")) as rows:
        rows.execute("UPDATE state SET manifest = ?", (json.dumps(asdict(manifest)),))
        rows.commit()
    (ours.root / "catalog.db").unlink()
    with pytest.raises(UnknownCatalog, match="do not name one catalog") as refused:
        command.rebuild_catalog(ours.settings)
    assert "--catalog-id" in str(refused.value)
    result = command.rebuild_catalog(ours.settings, yes=True, catalog_id=index.catalog_id)
    assert [it["index"] for it in result["left_alone"]] == ["elsewhere-1"]
    command.sync(ours.settings)


def test_it_asks_on_the_command_line_and_prints_one_document(tmp_path: Path) -> None:
    workspace = fake(tmp_path / "project")
    (workspace.root / "catalog.db").unlink()
    shown = run(workspace.root, "doctor", "--rebuild-catalog")
    assert shown.code == 0 and "index articles-0001 is live" in shown.out
    assert "nothing was changed; with --yes" in shown.out
    assert not (workspace.root / "catalog.db").exists()
    done = run(workspace.root, "doctor", "--rebuild-catalog", "--yes", "--json")
    assert done.code == 0 and json.loads(done.out)["done"]
    again = run(workspace.root, "doctor", "--rebuild-catalog")
    assert "nothing is lost" in again.out
    assert run(workspace.root, "doctor", "--yes").code == 2


def test_readers_in_sql_go_on(postgres: str, tmp_path: Path) -> None:
    """The view of the route goes with the tables, and is there again."""
    losing = make_losing(tmp_path / "project", postgres)
    losing.lose()
    losing.rebuild()
    with psycopg.connect(postgres) as connection:
        found = connection.execute("SELECT collection, index FROM embedmigrate.route").fetchall()
        query = json.dumps([1.0] * 48)
        hits = connection.execute(
            "SELECT id FROM embedmigrate.search('articles', (SELECT fingerprint FROM"
            " embedmigrate.route), %s::vector, 3)",
            (query,),
        ).fetchall()
    assert found == [("articles", "articles-0002")] and len(hits) == 3


def fake(root: Path) -> Workspace:
    """`fake-a` live, in SQLite and FAISS."""
    workspace = Workspace.make(
        root,
        collections=ARTICLES.replace('"wordllama"', '"fake-a"'),
        pin=("fake-a", "fake-b"),
        corpus=documents(12),
    )
    workspace.revision("fake-a")
    workspace.upgrade()
    return workspace
