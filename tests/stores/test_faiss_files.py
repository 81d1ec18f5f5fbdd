"""The files of a FAISS index: what a crash, an editor or a full disk can do to them."""

from __future__ import annotations

import os
import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedmigrate.errors import (
    DamagedIndex,
    FencedOut,
    IndexGone,
    StorageUnavailable,
    UnknownCatalog,
)
from embedmigrate.stores.faiss.ann import Ann, open_ann
from embedmigrate.stores.faiss.store import FaissStore
from tests.stores.store_helpers import (
    DIMENSIONS,
    SPACE,
    faiss_store,
    ids,
    make_index,
    manifest,
    row,
    rows,
    vectors,
)

INDEX = "articles-0001"


@pytest.fixture
def store(tmp_path: Path) -> FaissStore:
    return faiss_store(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "indexes" / INDEX


def files(folder: Path, pattern: str = "*") -> list[str]:
    return sorted(path.name for path in folder.glob(pattern))


def states(store: FaissStore) -> list[tuple[str, int]]:
    with closing(store.reader(INDEX)) as reader:
        assert reader.problems() == []
        return [(state.id, state.seq) for state in reader.states()]


def edit(path: Path, offset: int) -> None:
    """Flip one bit."""
    with path.open("r+b") as file:
        file.seek(offset, os.SEEK_SET if offset >= 0 else os.SEEK_END)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def execute(folder: Path, sql: str) -> None:
    """Change rows.sqlite behind the store's back."""
    with closing(sqlite3.connect(folder / "rows.sqlite")) as connection, connection:
        connection.execute(sql)


@contextmanager
def disk_full_after(size: int) -> Iterator[None]:
    """No file can grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# -- layout -----------------------------------------------------------------------------------


def test_an_index_is_a_folder_of_rows_and_raw_vectors(store: FaissStore, folder: Path) -> None:
    make_index(store, manifest(), rows(range(10)), vectors(10))
    assert files(folder) == ["rows.sqlite", "vectors-1.f32"]
    stored = np.fromfile(folder / "vectors-1.f32", dtype="<f4").reshape(10, DIMENSIONS)
    np.testing.assert_array_equal(stored, vectors(10))


def test_a_writer_that_was_closed_hands_its_file_on(store: FaissStore, folder: Path) -> None:
    """However often a small change is synchronised, the number of files stays what it is."""
    make_index(store, manifest(), rows(range(10)), vectors(10))
    for epoch in range(2, 6):
        with closing(store.writer(INDEX, epoch=epoch, run="run-2")) as writer:
            writer.write([row(f"new-{epoch}")], vectors(1, seed=epoch), space=SPACE)
            assert len(writer.find_vectors([row(f"new-{epoch}").content_hash])) == 1
    assert files(folder, "vectors-*") == ["vectors-1.f32"]
    assert len(states(store)) == 14


def test_nobody_appends_to_the_file_of_a_writer_that_may_still_run(
    store: FaissStore, folder: Path
) -> None:
    store.create(manifest())
    zombie = store.writer(INDEX, epoch=1, run="run-1")
    zombie.write(rows(range(10)), vectors(10), space=SPACE)
    same_epoch = store.writer(INDEX, epoch=1, run="run-1")
    same_epoch.write(rows(range(10, 20)), vectors(10, seed=1), space=SPACE)
    with closing(store.writer(INDEX, epoch=2, run="run-2")) as owner:
        owner.write(rows(range(20, 30)), vectors(10, seed=2), space=SPACE)
        for late in (zombie, same_epoch):
            with pytest.raises(FencedOut):
                late.write(rows(range(100, 110)), vectors(10, seed=3), space=SPACE)
            late.close()
        owner.write(rows(range(30, 40)), vectors(10, seed=4), space=SPACE)
    assert files(folder, "vectors-*") == ["vectors-1-1.f32", "vectors-1.f32", "vectors-2.f32"]
    with closing(store.writer(INDEX, epoch=3, run="run-3")) as next_owner:
        next_owner.write(rows(range(40, 50)), vectors(10, seed=5), space=SPACE)
    assert files(folder, "vectors-3*") == []
    with closing(store.reader(INDEX)) as reader:
        found = reader.vectors([(r.id, r.chunk) for r in rows(range(50))])
    expected = [vectors(10, seed=seed) for seed in (0, 1, 2, 4, 5)]
    np.testing.assert_array_equal(found, np.concatenate(expected))
    assert len(states(store)) == 50


def test_an_owner_that_wrote_nothing_does_not_hand_on_what_a_zombie_holds(
    store: FaissStore, folder: Path
) -> None:
    store.create(manifest())
    zombie = store.writer(INDEX, epoch=1, run="run-1")
    zombie.write(rows(range(10)), vectors(10), space=SPACE)
    store.writer(INDEX, epoch=2, run="run-2").close()
    with closing(store.writer(INDEX, epoch=3, run="run-3")) as owner:
        owner.write(rows(range(10, 20)), vectors(10, seed=1), space=SPACE)
        with pytest.raises(FencedOut):
            zombie.write(rows(range(20, 30)), vectors(10, seed=2), space=SPACE)
    zombie.close()
    assert files(folder, "vectors-*") == ["vectors-1.f32", "vectors-3.f32"]
    assert len(states(store)) == 20


# -- crashes ----------------------------------------------------------------------------------


def test_garbage_at_the_end_of_a_vector_file_is_written_over(
    store: FaissStore, folder: Path
) -> None:
    """What a crash between the append and the commit leaves behind."""
    make_index(store, manifest(), rows(range(10)), vectors(10))
    with (folder / "vectors-1.f32").open("ab") as file:
        file.write(b"\xff" * 1001)
    assert len(states(store)) == 10
    with closing(store.writer(INDEX, epoch=2, run="run-2")) as writer:
        writer.write(rows(range(10, 12)), vectors(2, seed=1), space=SPACE)
    with closing(store.reader(INDEX)) as reader:
        found = reader.vectors([("d00009", 0), ("d00010", 0), ("d00011", 0)])
    np.testing.assert_array_equal(found, np.vstack([vectors(10)[9:], vectors(2, seed=1)]))
    assert len(states(store)) == 12


def test_a_vector_file_that_no_commit_names_is_removed_by_the_next_writer(
    store: FaissStore, folder: Path
) -> None:
    make_index(store, manifest(), rows(range(10)), vectors(10))
    (folder / "vectors-9.f32").write_bytes(b"never committed")
    (folder / "ann-7.faiss").write_bytes(b"never recorded")
    store.writer(INDEX, epoch=2, run="run-2").close()
    assert files(folder) == ["rows.sqlite", "vectors-1.f32"]


def test_a_write_that_failed_can_be_repeated(store: FaissStore, folder: Path) -> None:
    """First the vectors do not fit, then the rows do not; nothing of either is half done."""
    store.create(manifest())
    with closing(store.writer(INDEX, epoch=1, run="run-1")) as writer:
        with disk_full_after(1000), pytest.raises(StorageUnavailable, match=r"rows\.sqlite"):
            writer.write(rows(range(100)), vectors(100), space=SPACE)
        with disk_full_after(7000), pytest.raises(StorageUnavailable):
            writer.write(rows(range(100)), vectors(100), space=SPACE)
        assert states(store) == []
        writer.write(rows(range(50, 150)), vectors(100, seed=1), space=SPACE)
        with closing(store.reader(INDEX)) as reader:
            found = reader.vectors([(r.id, 0) for r in rows(range(50, 150))])
        np.testing.assert_array_equal(found, vectors(100, seed=1))
    assert len(states(store)) == 100
    assert files(folder, "vectors-*") == ["vectors-1.f32"]


def test_a_build_that_failed_leaves_the_index_as_it_was(tmp_path: Path, folder: Path) -> None:
    store = faiss_store(tmp_path, "IVF16,Flat")
    about = manifest(factory=store.factory)
    make_index(store, about, rows(range(700)), vectors(700))
    with closing(store.writer(INDEX, epoch=2, run="run-2")) as writer:
        with disk_full_after(20_000), pytest.raises(StorageUnavailable):
            writer.build()
        assert files(folder, "ann-*") == []
        writer.build()
    assert files(folder, "ann-*") == ["ann-1.faiss"]
    assert len(states(store)) == 700


@pytest.mark.parametrize("where", ["a-file", "a-file/below"])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, where: str) -> None:
    (tmp_path / "a-file").write_text("in the way")
    store = faiss_store(tmp_path / where)
    with pytest.raises(StorageUnavailable, match=where):
        store.check_writable()
    with pytest.raises(StorageUnavailable, match=where):
        store.create(manifest())


# -- damage -----------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


DAMAGE: list[tuple[str, Callable[[Path], object], str]] = [
    ("vectors-1.f32", Path.unlink, "missing"),
    ("vectors-1.f32", truncate, "truncated"),
    ("vectors-1.f32", lambda path: edit(path, 0), "not what was written"),
    ("vectors-1.f32", lambda path: edit(path, -1), "not what was written"),
    ("ann-1.faiss", Path.unlink, "missing"),
    ("ann-1.faiss", truncate, "truncated"),
    ("ann-1.faiss", lambda path: edit(path, 20_000), "not what was written"),
    ("rows.sqlite", Path.unlink, "missing"),
    ("rows.sqlite", lambda path: os.truncate(path, 100), "."),
    ("rows.sqlite", lambda path: edit(path, 0), "not a database"),
    ("rows.sqlite", lambda path: path.write_bytes(b""), "another program"),
]


@pytest.mark.parametrize(("name", "damage", "what"), DAMAGE)
def test_a_damaged_file_is_named_when_the_index_is_opened(
    tmp_path: Path, folder: Path, name: str, damage: Callable[[Path], object], what: str
) -> None:
    store = faiss_store(tmp_path, "IVF16,Flat")
    about = manifest(factory=store.factory)
    make_index(store, about, rows(range(700)), vectors(700), batch=700, build=True)
    damage(folder / name)
    with pytest.raises(DamagedIndex, match=rf"{name} is damaged: .*{what}"):
        store.reader(INDEX)
    if not name.startswith("ann"):
        with pytest.raises(DamagedIndex, match=name):
            store.writer(INDEX, epoch=2, run="run-2")


def test_an_edit_that_the_sample_may_miss_is_found_by_reading_everything(
    store: FaissStore, folder: Path
) -> None:
    make_index(store, manifest(), rows(range(100)), vectors(100), batch=2)
    with closing(store.reader(INDEX)) as reader:
        assert reader.problems() == []
        edit(folder / "vectors-1.f32", 51 * DIMENSIONS * 4)
        (problem,) = reader.problems()
        assert "vectors-1.f32" in problem
        assert "vectors 50 to 51" in problem


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("DELETE FROM writes WHERE first = 2", "no write covers position 2"),
        ("DELETE FROM rows WHERE position = 5", "9 rows for 10 positions"),
        ("UPDATE rows SET deleted = 1 WHERE position = 5", "1 rows are dead, 0 deaths"),
    ],
)
def test_rows_that_do_not_fit_together_are_found(
    store: FaissStore, folder: Path, sql: str, problem: str
) -> None:
    make_index(store, manifest(), rows(range(10)), vectors(10), batch=2)
    execute(folder, sql)
    with closing(store.reader(INDEX)) as reader:
        assert any(problem in found for found in reader.problems())


def test_a_duplicate_is_found_although_the_index_that_forbids_it_is_gone(
    store: FaissStore, folder: Path
) -> None:
    make_index(store, manifest(), rows(range(10)), vectors(10))
    execute(folder, "DROP INDEX live_rows")
    execute(folder, "UPDATE rows SET id = 'd00001' WHERE id = 'd00002'")
    execute(folder, "CREATE INDEX live_rows ON rows (id, chunk) WHERE deleted = 0")
    with closing(store.reader(INDEX)) as reader:
        (problem,) = reader.problems()
    assert "'d00001', chunk 0 is there 2 times" in problem


def test_an_index_of_a_newer_program_is_refused(store: FaissStore, folder: Path) -> None:
    store.create(manifest())
    execute(folder, "PRAGMA user_version = 99")
    for use in (store.reader, lambda index: store.writer(index, epoch=1, run="run-1")):
        with pytest.raises(UnknownCatalog, match="newer embedmigrate"):
            use(INDEX)


def test_a_folder_that_was_copied_is_not_taken_for_another_index(
    store: FaissStore, folder: Path
) -> None:
    store.create(manifest())
    folder.rename(folder.with_name("copy"))
    with pytest.raises(DamagedIndex, match="renamed or copied"):
        list(store.manifests())


# -- dropping ---------------------------------------------------------------------------------


def test_what_a_drop_or_a_creation_left_behind_is_never_listed(
    store: FaissStore, folder: Path
) -> None:
    make_index(store, manifest(), rows([1]), vectors(1))
    folder.rename(folder.with_name(f".dropped-{INDEX}-0"))
    folder.with_name(f".making-{INDEX}").mkdir()
    folder.with_name("somebody-else").mkdir()
    assert list(store.manifests()) == []
    store.create(manifest())
    assert files(folder.parent) == [INDEX, "somebody-else"]
    assert states(store) == []


def test_an_index_that_was_made_again_is_not_the_one_that_a_reader_has(store: FaissStore) -> None:
    make_index(store, manifest(), rows([1]), vectors(1))
    with closing(store.reader(INDEX)) as reader:
        store.drop(INDEX)
        make_index(store, manifest(), rows([2]), vectors(1))
        with pytest.raises(IndexGone):
            reader.search(vectors(1), 1)
    assert states(store) == [("d00002", 1)]


def test_a_writer_of_a_dropped_index_is_told(store: FaissStore) -> None:
    store.create(manifest())
    with closing(store.writer(INDEX, epoch=1, run="run-1")) as writer:
        writer.write(rows([1]), vectors(1), space=SPACE)
        store.drop(INDEX)
        with pytest.raises(IndexGone):
            writer.write(rows([2]), vectors(1), space=SPACE)


# -- ANN structures ---------------------------------------------------------------------------


@pytest.mark.parametrize("factory", ["IVF16,Flat", "HNSW16"])
def test_a_structure_is_built_anew_when_a_twentieth_is_new_or_dead(
    tmp_path: Path, folder: Path, factory: str
) -> None:
    store = faiss_store(tmp_path, factory)
    about = manifest(factory=factory)
    make_index(store, about, rows(range(1000)), vectors(1000), build=True)
    with closing(store.writer(INDEX, epoch=2, run="run-2")) as writer:
        writer.build()
        writer.write(rows(range(1000, 1050)), vectors(50, seed=1), space=SPACE)
        writer.delete([(r.id, 2) for r in rows(range(50))])
        writer.build()
        assert files(folder, "ann-*") == ["ann-1.faiss"]
        writer.write(rows(range(1050, 1060)), vectors(10, seed=2), space=SPACE)
        writer.build()
        assert files(folder, "ann-*") == ["ann-2.faiss"]
        writer.delete([(r.id, 2) for r in rows(range(50, 110))])
        writer.build()
        assert files(folder, "ann-*") == ["ann-3.faiss"]
        writer.build()
        assert files(folder, "ann-*") == ["ann-3.faiss"]


def test_a_reader_goes_on_with_a_structure_that_was_removed_until_it_sees_the_next(
    tmp_path: Path, folder: Path
) -> None:
    store = faiss_store(tmp_path, "HNSW16")
    about = manifest(factory="HNSW16")
    make_index(store, about, rows(range(500)), vectors(500), build=True)
    with (
        closing(store.reader(INDEX)) as reader,
        closing(store.writer(INDEX, epoch=2, run="run-2")) as writer,
    ):
        for start in range(500, 800, 100):
            writer.write(rows(range(start, start + 100)), vectors(100, seed=start), space=SPACE)
            writer.build()
            (hits,) = reader.search(vectors(100, seed=start)[:1], 1)
            assert ids(hits) == [f"d{start:05d}"]
            assert reader.statistics().ann_through == start + 100
    assert files(folder, "ann-*") == ["ann-4.faiss"]


def test_a_structure_that_is_removed_while_a_reader_opens_it_is_not_damage(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = faiss_store(tmp_path, "HNSW16")
    make_index(store, manifest(factory="HNSW16"), rows(range(100)), vectors(100), build=True)
    with closing(store.writer(INDEX, epoch=2, run="run-2")) as writer:

        def too_late(*arguments: Any) -> Ann:
            monkeypatch.undo()
            writer.write(rows(range(100, 200)), vectors(100, seed=1), space=SPACE)
            writer.build()
            return open_ann(*arguments)

        monkeypatch.setattr("embedmigrate.stores.faiss.reader.open_ann", too_late)
        with closing(store.reader(INDEX)) as reader:
            assert files(folder, "ann-*") == ["ann-2.faiss"]
            assert ids(reader.search(vectors(100, seed=1)[:1], 1)[0]) == ["d00100"]


def test_too_few_vectors_to_train_on_are_searched_exactly(tmp_path: Path, folder: Path) -> None:
    store = faiss_store(tmp_path, "IVF1024,Flat")
    about = manifest(factory=store.factory)
    make_index(store, about, rows(range(100)), vectors(100), build=True)
    assert files(folder, "ann-*") == []
    with closing(store.reader(INDEX)) as reader:
        assert ids(reader.search(vectors(100)[7:8], 1)[0]) == ["d00007"]


def test_a_structure_that_lost_its_record_is_not_written_over(tmp_path: Path, folder: Path) -> None:
    """A writer that was overtaken while it built keeps a file of its own."""
    store = faiss_store(tmp_path, "HNSW16")
    make_index(store, manifest(factory="HNSW16"), rows(range(100)), vectors(100))
    with closing(store.writer(INDEX, epoch=2, run="run-2")) as writer:
        (folder / "ann-1.faiss").write_bytes(b"half written by somebody else")
        writer.build()
    assert (folder / "ann-1.faiss").read_bytes() == b"half written by somebody else"
    assert "ann-2.faiss" in files(folder)


def test_the_order_of_writing_changes_nothing_that_a_query_can_see(tmp_path: Path) -> None:
    """I22: same rows, other positions, other structure, other batch: the same bits come back."""
    n = 2000
    some_rows, some_vectors = rows(range(n)), np.repeat(vectors(n // 4), 4, axis=0)
    answers = []
    for factory, seed in (("Flat", 0), ("Flat", 1), ("HNSW16", 2), ("IVF16,Flat", 3)):
        store = faiss_store(tmp_path / str(seed), factory)
        order = np.random.default_rng(seed).permutation(n)
        make_index(
            store,
            manifest(factory=factory),
            [some_rows[at] for at in order],
            some_vectors[order],
            build=True,
        )
        with closing(store.reader(INDEX)) as reader:
            answers.append([reader.search(vectors(8, seed=9)[:count], 10) for count in (8, 1)])
    assert answers[0][0][0] == answers[0][1][0]
    assert all(answer == answers[0] for answer in answers[1:])
