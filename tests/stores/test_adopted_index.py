"""Reading an adopted index: what every reader does, over a file that is not ours."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from embedmigrate.embedders.base import Vectors
from embedmigrate.errors import DamagedIndex, IndexGone, Refused
from embedmigrate.models.index_spec import Metric
from embedmigrate.stores.base import IndexReader, Stamp
from embedmigrate.stores.faiss.store import FaissStore
from embedmigrate.stores.foreign import UNKNOWN_CONTENT, ForeignRow
from tests.stores.store_helpers import (
    SPACE,
    brute_force,
    faiss_store,
    ids,
    make_index,
    manifest,
    row,
    rows,
    vectors,
)

COUNT = 300
METRICS: dict[Metric, int] = {
    "cosine": faiss.METRIC_INNER_PRODUCT,
    "inner_product": faiss.METRIC_INNER_PRODUCT,
    "l2": faiss.METRIC_L2,
}
FACTORIES = ["Flat", "IDMap,Flat", "IVF8,Flat", "HNSW16"]
INDEX = "articles-0001"


class Theirs:
    """A foreign index, in an order of its own, adopted into a store."""

    def __init__(self, root: Path, factory: str = "Flat", metric: Metric = "cosine") -> None:
        self.root, self.metric = root, metric
        self.store: FaissStore = faiss_store(root)
        self.file, self.list = root / "theirs.faiss", root / "theirs.json"
        self.vectors = vectors(COUNT)
        if metric == "cosine":
            self.vectors /= np.linalg.norm(self.vectors, axis=1, keepdims=True)
        self.rows = rows(np.random.default_rng(5).permutation(COUNT).tolist())
        self.names = [it.id for it in self.rows]
        built = faiss.index_factory(self.vectors.shape[1], factory, METRICS[metric])
        built.train(self.vectors)
        if factory.startswith("IDMap"):
            built.add_with_ids(self.vectors, np.arange(COUNT) + 77)
        else:
            built.add(self.vectors)
        faiss.write_index(built, str(self.file))
        self.list.write_text(json.dumps(self.names), "utf-8")

    def adopt(self, unknown: Sequence[int] = ()) -> FaissStore:
        about = manifest(INDEX, metric=self.metric, normalized=self.metric == "cosine")
        self.store.adopt(
            replace(about, generation=1),
            self.store.describe(self.file),
            self.store.describe(self.list),
            (
                ForeignRow(
                    number,
                    replace(it, content_hash=UNKNOWN_CONTENT) if number in unknown else it,
                    "stale" if number in unknown else "adopted",
                )
                for number, it in enumerate(self.rows)
            ),
        )
        return self.store

    def touch(self, content: bytes | None = None, *, mtime: bool = True) -> None:
        """Put other bytes into the file, in a new file under the same name."""
        before = self.file.stat()
        copy = self.root / "copy"
        copy.write_bytes(self.file.read_bytes() if content is None else content)
        copy.replace(self.file)
        if not mtime:
            os.utime(self.file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def theirs(tmp_path: Path) -> Theirs:
    return Theirs(tmp_path)


@pytest.fixture
def reader(theirs: Theirs) -> Iterator[IndexReader]:
    with closing(theirs.adopt().reader(INDEX)) as opened:
        yield opened


# -- what every reader does -------------------------------------------------------------------


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("metric", list(METRICS))
@pytest.mark.parametrize("exact", [False, True])
def test_a_search_is_what_brute_force_finds(
    tmp_path: Path, factory: str, metric: Metric, exact: bool
) -> None:
    theirs = Theirs(tmp_path, factory, metric)
    queries = vectors(20, seed=1)
    with closing(theirs.adopt().reader(INDEX)) as reader:
        found = reader.search(queries, 7, exact=exact)
    for query, hits in zip(queries, found, strict=True):
        expected = brute_force(query, theirs.names, theirs.vectors, 7, metric)
        assert ids(hits) == [name for name, _ in expected]
        np.testing.assert_allclose(
            [hit.score for hit in hits], [score for _, score in expected], rtol=1e-5, atol=1e-5
        )
        assert all(hit.metadata == {"number": int(hit.id[1:])} for hit in hits)


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_filter_admits_what_it_says_and_finds_the_nearest_of_it(
    tmp_path: Path, factory: str
) -> None:
    theirs = Theirs(tmp_path, factory)
    wanted = [3, 30, 299]
    names = [f"d{number:05d}" for number in wanted]
    stored = theirs.vectors[[theirs.names.index(name) for name in names]]
    (query,) = vectors(1, seed=2)
    with closing(theirs.adopt().reader(INDEX)) as reader:
        (hits,) = reader.search(query[np.newaxis], 10, {"number": wanted})
        (again,) = reader.search(query[np.newaxis], 10, {"number": wanted})
        (none,) = reader.search(query[np.newaxis], 10, {"number": "nothing"})
    assert ids(hits) == [name for name, _ in brute_force(query, names, stored, 10)]
    assert again == hits and none == []


def test_more_hits_than_vectors_are_all_of_them(reader: IndexReader) -> None:
    (hits,) = reader.search(vectors(1), COUNT + 50)
    assert len(hits) == COUNT and len(set(ids(hits))) == COUNT
    assert reader.search(vectors(1)[:0], 3) == []


@pytest.mark.parametrize("queries", [vectors(1)[:, :-1], vectors(1).astype(np.float64)])
def test_queries_of_another_shape_are_named(reader: IndexReader, queries: Vectors) -> None:
    with pytest.raises(ValueError, match="queries for index"):
        reader.search(queries, 1)
    with pytest.raises(ValueError, match="at least 1"):
        reader.search(vectors(1), 0)
    with pytest.raises(ValueError, match="not finite"):
        reader.search(vectors(1) * np.float32("nan"), 1)


def test_states_come_in_the_order_of_ids(theirs: Theirs, reader: IndexReader) -> None:
    states = list(reader.states())
    assert [state.id for state in states] == sorted(theirs.names)
    by_id = {it.id: it for it in theirs.rows}
    assert all(state.content_hash == by_id[state.id].content_hash for state in states)
    some = {state.id for state in reader.get(["d00004", "d00200", "nothing"])}
    assert some == {"d00004", "d00200"}


def test_a_vector_is_that_of_its_document(theirs: Theirs, reader: IndexReader) -> None:
    found = reader.vectors([(theirs.names[9], 0), (theirs.names[2], 0), (theirs.names[9], 0)])
    np.testing.assert_array_equal(found, theirs.vectors[[9, 2, 9]])
    with pytest.raises(KeyError):
        reader.vectors([("nothing", 0)])


def test_blocks_are_every_vector_once(theirs: Theirs, reader: IndexReader) -> None:
    blocks = list(reader.blocks(128))
    assert [len(block) for block in blocks] == [128, 128, 44]
    np.testing.assert_array_equal(np.concatenate(blocks), theirs.vectors)


def test_stamps_and_figures_are_those_of_the_side_table(theirs: Theirs) -> None:
    with closing(theirs.adopt(unknown=range(5)).reader(INDEX)) as reader:
        assert reader.stamps() == [Stamp(SPACE, "adopted", COUNT - 5), Stamp(SPACE, "stale", 5)]
        assert sum(stamp.vectors for stamp in reader.stamps(sample=100)) <= 125
        figures = reader.statistics()
        assert (figures.vectors, figures.documents, figures.dead) == (COUNT, COUNT, 0)
        assert figures.ann_through == 0 and figures.bytes > theirs.file.stat().st_size
        unknown = [it.id for it in reader.states() if it.content_hash == UNKNOWN_CONTENT]
    assert set(unknown) == set(theirs.names[:5])


def test_many_threads_share_a_reader(theirs: Theirs, reader: IndexReader) -> None:
    def ask(number: int) -> bool:
        (hits,) = reader.search(theirs.vectors[number : number + 1], 1)
        (filtered,) = reader.search(
            theirs.vectors[number : number + 1],
            1,
            {"number": theirs.rows[number].metadata["number"]},
        )
        return ids(hits) == ids(filtered) == [theirs.names[number]]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(COUNT)))


def test_a_closed_reader_says_so(reader: IndexReader) -> None:
    reader.close()
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader.search(vectors(1), 1)


# -- what is particular about it --------------------------------------------------------------


def test_it_is_listed_and_never_written(theirs: Theirs) -> None:
    store = theirs.adopt()
    (found,) = store.manifests()
    assert (found.index, found.generation) == (INDEX, 1)
    with pytest.raises(Refused, match="read only"):
        store.writer(INDEX, epoch=1, run="run-1")


def test_dropping_it_removes_our_folder_and_nothing_else(theirs: Theirs) -> None:
    before = (theirs.file.read_bytes(), theirs.file.stat().st_mtime_ns, theirs.list.read_bytes())
    store = theirs.adopt()
    with closing(store.reader(INDEX)) as reader:
        store.drop_adopted(INDEX)
        with pytest.raises(IndexGone):
            reader.search(vectors(1), 1)
    store.drop(INDEX)
    assert list(store.manifests()) == []
    assert before == (
        theirs.file.read_bytes(),
        theirs.file.stat().st_mtime_ns,
        theirs.list.read_bytes(),
    )


def test_an_index_of_our_own_is_neither_replaced_nor_dropped_by_adoption(theirs: Theirs) -> None:
    make_index(theirs.store, manifest(INDEX), [row("a")], vectors(1))
    with pytest.raises(Refused, match="is there already"):
        theirs.adopt()
    with pytest.raises(Refused, match="not the side table"):
        theirs.store.drop_adopted(INDEX)
    with closing(theirs.store.reader(INDEX)) as reader:
        assert reader.statistics().vectors == 1


def test_a_side_table_that_is_not_finished_is_not_there(theirs: Theirs) -> None:
    def half() -> Iterator[ForeignRow]:
        yield ForeignRow(0, theirs.rows[0], "adopted")
        raise RuntimeError("the source broke")

    described = theirs.store.describe(theirs.file)
    with pytest.raises(RuntimeError):
        theirs.store.adopt(manifest(INDEX), described, described, half())
    assert list((theirs.root / "indexes").iterdir()) == []


def test_a_project_that_moves_takes_its_file_with_it(theirs: Theirs, tmp_path: Path) -> None:
    theirs.adopt()
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    tmp_path.rename(moved)
    with closing(faiss_store(moved).reader(INDEX)) as reader:
        assert reader.statistics().vectors == COUNT


@pytest.mark.parametrize("while_open", [False, True])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda it: it.touch(it.file.read_bytes()[:-100]), "size"),
        (lambda it: it.touch(it.file.read_bytes()[:-1] + b"\x7f"), "content"),
        (lambda it: it.file.unlink(), "cannot be read"),
    ],
)
def test_a_file_that_changed_is_refused(
    theirs: Theirs, change: Any, said: str, while_open: bool
) -> None:
    store = theirs.adopt()
    if while_open:
        with closing(store.reader(INDEX)) as reader:
            change(theirs)
            with pytest.raises(DamagedIndex, match=said):
                reader.search(vectors(1), 1)
            (problem,) = reader.problems()
            assert said in problem
    else:
        change(theirs)
        with pytest.raises(DamagedIndex, match=said):
            store.reader(INDEX)


def test_a_copy_with_another_time_is_the_same_file(theirs: Theirs) -> None:
    with closing(theirs.adopt().reader(INDEX)) as reader:
        theirs.touch()
        assert len(reader.search(vectors(1), 3)[0]) == 3
        assert reader.problems() == []
    theirs.store.reader(INDEX).close()


def test_a_change_that_hides_its_traces_is_found_by_reading_everything(theirs: Theirs) -> None:
    store = theirs.adopt()
    theirs.touch(theirs.file.read_bytes()[:-1] + b"\x7f", mtime=False)
    with closing(store.reader(INDEX)) as reader:
        (problem,) = reader.problems()
    assert "content" in problem


def test_a_side_table_of_another_file_is_refused(theirs: Theirs) -> None:
    theirs.store.adopt(
        manifest(INDEX, normalized=True),
        theirs.store.describe(theirs.file),
        theirs.store.describe(theirs.list),
        (ForeignRow(number, it, "adopted") for number, it in enumerate(theirs.rows[:-1])),
    )
    with pytest.raises(DamagedIndex, match="does not belong"):
        theirs.store.reader(INDEX)


def test_a_note_that_cannot_be_read_is_named(theirs: Theirs) -> None:
    store = theirs.adopt()
    (theirs.root / "indexes" / INDEX / "adopted.json").write_text("{}", "utf-8")
    with pytest.raises(DamagedIndex, match=r"adopted\.json"):
        store.reader(INDEX)


def test_opening_does_not_read_the_id_list(theirs: Theirs) -> None:
    store = theirs.adopt()
    theirs.list.unlink()
    began = time.monotonic()
    store.reader(INDEX).close()
    assert time.monotonic() - began < 1
