"""What must hold whatever happens, by the numbers of the design; what other tests prove is not
repeated here."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from embedmigrate import Collection, command
from embedmigrate.catalog import Catalog, indexes, journal, locks, routes, runs, schema
from embedmigrate.catalog.records import RunState
from embedmigrate.embedders.base import Vectors
from embedmigrate.embedders.static import StaticEmbedder
from embedmigrate.engine.diff import Comparison
from embedmigrate.engine.follow import follow
from embedmigrate.engine.prepare import Transition, prepare
from embedmigrate.engine.verify import verify
from embedmigrate.errors import (
    BadAnswer,
    DigestMismatch,
    FencedOut,
    ModelMismatch,
    Refused,
    ScriptError,
    StorageUnavailable,
    UnknownCatalog,
    UsageError,
    VerificationFailed,
)
from embedmigrate.migration.walk import UpgradeWalk
from embedmigrate.serving import OpenIndex
from embedmigrate.stores.base import Row, Written
from embedmigrate.stores.faiss.ownership import Ownership
from embedmigrate.stores.faiss.reader import FaissReader
from embedmigrate.stores.faiss.writer import FaissWriter
from tests.engine.parts import CANARY_TEXTS, Bench, ListSource
from tests.workspace import Workspace, documents, wait_for

QUERY = "a night with a telescope"
FIRST = "r1"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Thirty documents, not built yet."""
    made = Bench(tmp_path, ListSource({f"d{number:02d}": f"text {number}" for number in range(30)}))
    yield made
    made.close()


def build(bench: Bench) -> str:
    with bench.locked() as lease:
        return prepare(
            bench.job, lease, Transition(FIRST, bench.spec, None, allow_lag=True)
        ).index_name


@contextmanager
def rows_of(folder: Path, index: str) -> Iterator[sqlite3.Connection]:
    """The rows of an index, for somebody who should keep away from them."""
    with closing(sqlite3.connect(folder / index / "rows.sqlite")) as rows, rows:
        yield rows


def broken(bench: Bench, index: str, recall_target: float = 0.9) -> list[int]:
    """The invariants that verification finds broken."""
    with closing(bench.job.store.reader(index)) as reader:
        findings = verify(
            bench.spec,
            reader,
            bench.source,
            bench.embedder,
            Comparison(source=30, index=30),
            recall_target=recall_target,
        )
    return [finding.invariant for finding in findings if not finding.holds]


# -- I1 to I7: what verification must notice --------------------------------------------------


@pytest.mark.parametrize(
    ("lost", "change", "invariant"),
    [
        ("write", lambda texts: texts.update(new="added"), "I1"),
        ("delete", lambda texts: texts.pop("d05"), "I2"),
        ("write", lambda texts: texts.update(d05="edited"), "I5"),
    ],
)
def test_a_change_that_the_store_loses_stops_before_ready(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
    change: Callable[[dict[str, str]], object],
    invariant: str,
) -> None:
    build(bench)
    change(bench.source.texts)
    monkeypatch.setattr(FaissWriter, lost, lambda *_, **__: Written(0, 0))
    with pytest.raises(VerificationFailed, match=invariant):
        build(bench)


def test_a_sound_index_breaks_nothing_and_the_catalog_keeps_the_evidence(bench: Bench) -> None:
    index = build(bench)
    assert broken(bench, index) == []
    evidence = schema.evidence.c
    with bench.catalog.read() as connection:
        kept = connection.execute(
            sa.select(evidence.invariant, evidence.holds).where(evidence.index_name == index)
        ).all()
    assert [tuple(row) for row in kept] == [(number, True) for number in range(1, 8)]


def test_i3_a_document_that_is_there_twice(bench: Bench, tmp_path: Path) -> None:
    index = build(bench)
    with rows_of(tmp_path / "indexes", index) as rows:
        rows.execute("DROP INDEX live_rows")
        rows.execute("CREATE INDEX live_rows ON rows (id, chunk) WHERE deleted = 0")
        rows.execute("UPDATE rows SET id = 'd01' WHERE id = 'd02'")
    assert 3 in broken(bench, index)


def test_i4_a_vector_that_says_it_is_of_another_space(bench: Bench, tmp_path: Path) -> None:
    index = build(bench)
    with rows_of(tmp_path / "indexes", index) as rows:
        rows.execute("INSERT INTO stamps (fingerprint, run) VALUES (?, '1')", ["0" * 32])
        rows.execute("UPDATE rows SET stamp = (SELECT MAX(stamp) FROM stamps) WHERE id = 'd07'")
    assert broken(bench, index) == [4]


def test_i6_a_vector_of_another_length(bench: Bench) -> None:
    index = build(bench)
    write_vector(bench, index, "d07", lambda vector: vector * 2)
    assert broken(bench, index) == [6]


def test_i6_a_vector_of_another_text(bench: Bench) -> None:
    index = build(bench)
    write_vector(bench, index, "d07", lambda vector: -vector)
    assert broken(bench, index) == [6]


def write_vector(bench: Bench, index: str, id: str, spoil: Callable[[Vectors], Vectors]) -> None:
    """Write one vector past every check that a runner makes."""
    document = bench.source._document(id)
    row = Row(id, 0, 99, document.content_hash, document.metadata_hash, document.metadata)
    vectors = bench.embedder.embed_documents([document.text])
    with bench.locked() as lease:
        writer = bench.job.store.writer(index, epoch=lease.epoch, run="1")
        with closing(writer):
            writer.write([row], spoil(vectors), space=bench.spec.model.fingerprint)


def test_i7_an_index_that_does_not_find_its_own_documents(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = build(bench)
    search = FaissReader.search

    def far_ones_first(self: FaissReader, queries: Vectors, k: int, **options: Any) -> Any:
        return [hits[: -k - 1 : -1] for hits in search(self, queries, 30, **options)]

    monkeypatch.setattr(FaissReader, "search", far_ones_first)
    monkeypatch.setattr("embedmigrate.engine.verify.EXACT_RECALL", 1.01)
    assert 7 in broken(bench, index)


def test_i6_a_model_that_answers_nonsense_proves_nothing(bench: Bench) -> None:
    index = build(bench)
    bench.embedder.spoil = lambda vectors: vectors * np.float32(np.nan)
    with pytest.raises(BadAnswer):
        broken(bench, index)


def test_an_index_that_is_not_ready_cannot_be_cut_over_to(bench: Bench) -> None:
    with bench.locked() as lease, bench.catalog.write() as connection:
        index = indexes.create(connection, "things", bench.spec)
        run = runs.create(connection, lease, FIRST, index.name, None)
        with pytest.raises(Refused, match="cannot become live"):
            routes.cut_over(
                connection,
                lease,
                revision=FIRST,
                down_revision=None,
                index_name=index.name,
                run_id=run.id,
            )


# -- I8: one pair ------------------------------------------------------------------------------


def test_i8_an_index_that_cannot_be_searched_does_not_take_over(
    migrated: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, refused = FaissReader.search, threading.Event()

    def refuse_to_warm_up(
        self: FaissReader, queries: Vectors, k: int, *rest: Any, **how: Any
    ) -> Any:
        if k == 1 and self.manifest.index == "articles-0002":
            refused.set()
            raise StorageUnavailable("not now")
        return search(self, queries, k, *rest, **how)

    with Collection.open("articles", migrated.settings) as articles:
        with monkeypatch.context() as patch:
            patch.setattr(FaissReader, "search", refuse_to_warm_up)
            migrated.upgrade()
            assert refused.wait(20)
            assert articles.search(QUERY).generation == 1
        wait_for(lambda: articles.search(QUERY).generation, lambda found: found == 2)


def test_i8_an_index_of_another_space_than_the_catalog_says_is_not_served(
    migrated: Workspace,
) -> None:
    with rows_of(migrated.root / "indexes", "articles-0001") as rows:
        rows.execute(
            "UPDATE state SET manifest = json_set(manifest, '$.fingerprint', ?)", ["0" * 32]
        )
    with pytest.raises(ModelMismatch, match="does not hold what the catalog says"):
        Collection.open("articles", migrated.settings)


def test_i8_closing_waits_for_those_who_are_inside(
    migrated: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    monkeypatch.setattr(StaticEmbedder, "close", lambda self: closed.append(self.model.name))
    articles = Collection.open("articles", migrated.settings)
    with articles.route() as route:
        articles.close()
        assert closed == []
        assert route.search_vector(route.embed_query(QUERY), k=1)
    assert closed == ["wordllama"]


def test_i8_an_index_that_was_closed_lets_nobody_in(bench: Bench) -> None:
    index = build(bench)
    with bench.catalog.read() as connection:
        record = indexes.get(connection, index)
    reader = bench.job.store.reader(index)
    opened = OpenIndex(record, reader, bench.embedder, ExitStack())
    assert opened.enter()
    opened.retire()
    assert opened.enter(), "closing waits for the one who is inside"
    opened.leave()
    opened.leave()
    assert not opened.enter()
    reader.close()


def test_a_model_that_is_not_served_any_more_is_released(
    migrated: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    with Collection.open("articles", migrated.settings) as articles:
        with monkeypatch.context() as patch:
            patch.setattr(StaticEmbedder, "close", lambda self: closed.append(self.model.name))
            migrated.upgrade(until_ready=True)
            wait_for(lambda: len(articles._server._open), lambda opened: opened == 2)
            del closed[:]  # those of the runner
            command.cutover(migrated.settings)
            wait_for(lambda: articles.search(QUERY).generation, lambda found: found == 2)
            wait_for(lambda: len(articles._server._open), lambda opened: opened == 1)
        assert closed.count("wordllama") == 1


def test_a_collection_refuses_to_serve_in_a_forked_process(
    migrated: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Collection.open("articles", migrated.settings) as articles:
        pid = os.getpid()
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: pid + 1)
            with pytest.raises(UsageError, match="forked"):
                articles.search(QUERY)
        assert articles.search(QUERY).hits


# -- I9: what changes around the switch -------------------------------------------------------


def test_i9_a_change_between_verification_and_switch_is_served_after_the_upgrade(
    migrated: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_over = UpgradeWalk.reembed

    def change_and_cut_over(self: UpgradeWalk, *step: Any) -> None:
        migrated.write_corpus([*documents(40), {"_id": "late", "title": "late", "text": "news"}])
        cut_over(self, *step)

    monkeypatch.setattr(UpgradeWalk, "reembed", change_and_cut_over)
    migrated.upgrade()
    assert migrated.status()["live"]["documents"] == 41


# -- I10: route and version row --------------------------------------------------------------


@pytest.mark.parametrize("way", ["upgrade", "downgrade", "rollback without scripts"])
def test_i10_no_version_row_no_switch(migrated: Workspace, way: str) -> None:
    if way != "upgrade":
        migrated.upgrade()
    if way == "rollback without scripts":
        for script in (migrated.root / "migrations" / "versions").glob("*.py"):
            script.unlink()
    before = migrated.status()
    with closing(sqlite3.connect(migrated.root / "catalog.db")) as catalog:
        for change in ("INSERT", "UPDATE", "DELETE"):
            catalog.execute(
                f"CREATE TRIGGER no_{change} BEFORE {change} ON embedmigrate_version"
                " BEGIN SELECT RAISE(ABORT, 'no version row today'); END"
            )

    with pytest.raises(Exception, match="no version row today"):
        if way == "upgrade":
            migrated.upgrade()
        elif way == "downgrade":
            command.downgrade(migrated.settings, "articles@-1")
        else:
            command.rollback(migrated.settings, "articles")

    after = migrated.status()
    assert (after["live"], after["revision"]) == (before["live"], before["revision"])


def test_a_rollback_would_not_know_where_to_from_a_merge(migrated: Workspace) -> None:
    versions = migrated.root / "migrations" / "versions"
    (script,) = versions.glob("*shorter_vectors.py")
    parent = script.read_text("utf-8").partition('down_revision = "')[2][:12]
    (versions / "other.py").write_text(
        'revision = "other"\ndown_revision = None\ndef upgrade(): pass\ndef downgrade(): pass\n',
        "utf-8",
    )
    text = script.read_text("utf-8")
    script.write_text(
        text.replace(f'down_revision = "{parent}"', f'down_revision = ("{parent}", "other")'),
        "utf-8",
    )
    with pytest.raises(ScriptError, match="merges branches and holds an embedding operation"):
        migrated.upgrade()


# -- I13: bounded waste -----------------------------------------------------------------------


def test_i13_a_text_that_is_still_being_saved_is_not_paid_for_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.source.texts = {f"d{number:02d}": f"text {number % 8}" for number in range(16)}
    write = FaissWriter.write

    def slowly(self: FaissWriter, rows: Sequence[Row], vectors: Vectors, *, space: str) -> Written:
        time.sleep(0.3)
        return write(self, rows, vectors, space=space)

    monkeypatch.setattr(FaissWriter, "write", slowly)
    monkeypatch.setattr(FaissWriter, "find_vectors", lambda self, hashes: {})
    with bench.locked() as lease:
        run = prepare(bench.job, lease, Transition(FIRST, bench.spec, None, allow_lag=True))
    assert run.embedded == 8


# -- I14: the catalog is never ahead of the store --------------------------------------------


def test_i14_a_batch_counts_after_it_is_stored(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.job.batch_size = 8
    counted: list[int] = []
    write = FaissWriter.write

    def noting(self: FaissWriter, rows: Sequence[Row], vectors: Vectors, *, space: str) -> Written:
        with bench.catalog.read() as connection:
            run = runs.latest(connection, "things")
        assert run is not None
        counted.append(run.done)
        return write(self, rows, vectors, space=space)

    monkeypatch.setattr(FaissWriter, "write", noting)
    build(bench)
    assert counted == [0, 8, 16, 24]


def test_i14_the_position_follows_what_is_stored(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = build(bench)
    bench.source.texts["d05"] = "edited"

    def full(*_: object, **__: object) -> Written:
        raise StorageUnavailable("the disk is full")

    monkeypatch.setattr(FaissWriter, "write", full)
    with bench.locked() as lease:
        with bench.catalog.write() as connection:
            journal.append(connection, "things", [("d05", "changed")])
        writer = bench.job.store.writer(index, epoch=lease.epoch, run="1")
        with closing(writer), pytest.raises(StorageUnavailable):
            follow(bench.job, lease, bench.source, writer, index)
    with bench.catalog.read() as connection:
        assert indexes.get(connection, index).position == 0


def test_i14_vectors_are_on_the_disk_before_a_row_names_them(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = build(bench)
    (vectors,) = (tmp_path / "indexes" / index).glob("vectors-*.f32")
    happened: list[str] = []
    commit, fsync = Ownership.commit, os.fsync

    @contextmanager
    def noting_commit(self: Ownership) -> Iterator[None]:
        happened.append("commit")
        with commit(self):
            yield

    def noting_fsync(descriptor: int) -> None:
        fsync(descriptor)
        if os.path.samestat(os.fstat(descriptor), vectors.stat()):
            happened.append("vectors")

    monkeypatch.setattr(Ownership, "commit", noting_commit)
    monkeypatch.setattr(os, "fsync", noting_fsync)
    write_vector(bench, index, "d07", lambda vector: vector)
    assert happened == ["vectors", "commit"]


def test_i14_a_catalog_that_was_restored_from_before_a_switch_is_refused(
    migrated: Workspace,
) -> None:
    migrated.upgrade()
    backup = (migrated.root / "catalog.db").read_bytes()
    command.rollback(migrated.settings, "articles")
    migrated.revision("wordllama", "again")
    restore(migrated, backup)
    with pytest.raises(UnknownCatalog, match="live in a later generation"):
        migrated.upgrade()


def test_i14_a_catalog_that_was_restored_from_before_an_index_is_refused(
    migrated: Workspace,
) -> None:
    backup = (migrated.root / "catalog.db").read_bytes()
    migrated.upgrade()
    restore(migrated, backup)
    with pytest.raises(UnknownCatalog, match="is not known to this catalog"):
        migrated.upgrade()


def restore(workspace: Workspace, backup: bytes) -> None:
    for leftover in workspace.root.glob("catalog.db*"):
        leftover.unlink()
    (workspace.root / "catalog.db").write_bytes(backup)


def test_i14_what_is_committed_survives_a_power_cut(bench: Bench) -> None:
    full = 2
    with bench.catalog.write() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == full
    with closing(bench.job.store.writer(build(bench), epoch=99, run="1")) as writer:
        assert isinstance(writer, FaissWriter)
        (found,) = writer._connection.execute("PRAGMA synchronous").fetchone()
        assert found == full


# -- I5, I15: who may change what -------------------------------------------------------------


def test_i5_a_batch_is_as_old_as_the_journal_was_before_it_was_read(bench: Bench) -> None:
    def change_while_reading() -> None:
        bench.source.before_scan = lambda: None
        with bench.catalog.write() as connection:
            journal.append(connection, "things", [("d00", "changed")])

    bench.source.before_scan = change_while_reading
    index = build(bench)
    with closing(bench.job.store.reader(index)) as reader:
        assert {state.seq for state in reader.get(["d00", "d01"])} == {0}


@pytest.mark.parametrize("what", ["state", "epoch"])
def test_i15_a_run_that_somebody_else_moved_on_is_left_alone(bench: Bench, what: str) -> None:
    build(bench)
    with bench.locked() as lease:
        with bench.catalog.read() as connection:
            run = runs.latest(connection, "things")
        assert run is not None
        if what == "state":
            with bench.catalog.write() as connection:
                run = runs.take_over(connection, lease, run)
            run = replace(run, state=RunState.VERIFYING)
        with pytest.raises(FencedOut), bench.catalog.write() as connection:
            runs.move(connection, lease, run, RunState.FAILED)


def test_i15_a_runner_that_lost_its_lock_does_not_follow(bench: Bench) -> None:
    index = build(bench)
    lost = locks.acquire(bench.catalog, "things", 0.0)
    writer = bench.job.store.writer(index, epoch=lost.epoch, run="1")
    with bench.catalog.write() as connection:
        journal.append(connection, "things", [("d05", "changed")])
    locks.acquire(bench.catalog, "things", 30)
    with closing(writer), pytest.raises(FencedOut):
        follow(bench.job, lost, bench.source, writer, index)
    with bench.catalog.read() as connection:
        assert indexes.get(connection, index).position == 0


def test_i15_a_guard_and_its_change_are_one_transaction_from_the_start(
    bench: Bench, tmp_path: Path
) -> None:
    with (
        bench.catalog.write(),
        closing(sqlite3.connect(tmp_path / "catalog.db", timeout=0)) as other,
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):
        other.execute("BEGIN IMMEDIATE")


# -- I16, I18, I21 ----------------------------------------------------------------------------


def test_i16_the_accounts_balance_although_the_source_changed_under_the_plan(bench: Bench) -> None:
    def shrink() -> None:
        bench.source.before_scan = lambda: None
        del bench.source.texts["d29"]
        bench.source.texts["d28"] = ""

    bench.source.before_scan = shrink
    with bench.locked() as lease:
        run = prepare(bench.job, lease, Transition(FIRST, bench.spec, None, allow_lag=True))
    assert (run.total, run.done, run.skipped, run.pending) == (29, 28, 1, 0)


def test_i18_a_query_prompt_that_was_not_pinned_is_another_model(migrated: Workspace) -> None:
    migrated.edit_config("[models.wordllama]", '[models.wordllama]\nquery_prompt = "question: "')
    for use in (
        lambda: command.check(migrated.settings),
        lambda: Collection.open("articles", migrated.settings),
    ):
        with pytest.raises(DigestMismatch, match="query_prompt 'question: ', pinned ''"):
            use()


def test_i21_no_text_of_a_document_is_in_the_catalog_or_in_an_error(
    migrated: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = documents(40)
    for number, document in enumerate(corpus):
        document["text"] = f"Zanzibar {number}"
    migrated.write_corpus(corpus)
    embed = StaticEmbedder.embed_documents
    said = ""
    for factor in (np.nan, 0.0, 2.0):

        def spoilt(self: StaticEmbedder, texts: Sequence[str], factor: float = factor) -> Vectors:
            vectors = embed(self, texts)
            return vectors if CANARY_TEXTS.issuperset(texts) else vectors * np.float32(factor)

        with monkeypatch.context() as patch:
            patch.setattr(StaticEmbedder, "embed_documents", spoilt)
            with pytest.raises(BadAnswer) as refusal:
                migrated.upgrade()
        said += "".join(traceback.format_exception(refusal.value))
    migrated.upgrade()
    assert "not finite" in said and "zero vectors" in said and "not normalised" in said
    with Catalog(migrated.settings.catalog_url) as catalog, catalog.read() as connection:
        dumped = "\n".join(connection.connection.iterdump())
    assert "Zanzibar" not in said + dumped
