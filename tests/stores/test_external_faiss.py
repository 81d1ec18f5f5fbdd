"""Somebody else's FAISS index: every kind is read as it is, and none is touched."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pytest

from embedmigrate.embedders.base import Vectors
from embedmigrate.errors import ConfigError, DamagedIndex, DuplicateId, EmbedMigrateError, Refused
from embedmigrate.stores.faiss.ann import Effort
from embedmigrate.stores.faiss.external import ExternalFaiss
from tests.embedders.handmade_models import WORDLLAMA, load
from tests.stores.store_helpers import brute_force

CORPUS = Path(__file__).parents[2] / "examples/data/corpus.jsonl"
COUNT, DIMENSIONS = 300, 256
METRICS = {"inner_product": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}
Labels = npt.NDArray[np.int64]


@pytest.fixture(scope="module")
def documents() -> list[dict[str, str]]:
    with CORPUS.open(encoding="utf-8") as file:
        return [json.loads(line) for line, _ in zip(file, range(COUNT), strict=False)]


@pytest.fixture(scope="module")
def names(documents: list[dict[str, str]]) -> list[str]:
    return [document["_id"] for document in documents]


@pytest.fixture(scope="module")
def made(documents: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Vectors:
    """Wordllama's vectors of real abstracts."""
    with closing(load(tmp_path_factory.mktemp("root"), **WORDLLAMA)) as embedder:
        return embedder.embed_documents([document["text"] for document in documents])


class Folder:
    """Where a user's index file and id list lie."""

    def __init__(self, root: Path) -> None:
        self.index, self.root = root / "theirs.faiss", root

    def write(
        self,
        factory: str,
        vectors: Vectors,
        labels: Labels | None = None,
        metric: str = "inner_product",
    ) -> Path:
        index = faiss.index_factory(vectors.shape[1], factory, METRICS[metric])
        index.train(vectors)
        if labels is None:
            index.add(vectors)
        else:
            index.add_with_ids(vectors, labels)
        faiss.write_index(index, str(self.index))
        return self.index

    def list(self, content: object, name: str = "ids.json") -> Path:
        path = self.root / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
        return path

    def open(self, ids: Sequence[object] | Mapping[str, object] | Path) -> ExternalFaiss:
        return ExternalFaiss.open(self.index, ids if isinstance(ids, Path) else self.list(ids))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def all_vectors(index: ExternalFaiss) -> dict[str, Vectors]:
    """Every vector by its document."""
    return dict(zip(index.ids, np.concatenate(list(index.blocks(77))), strict=True))


def distance(a: Vectors, b: Vectors) -> float:
    """The greatest cosine distance of two lists of vectors."""
    cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return float((1 - cosine).max())


# -- every kind ------------------------------------------------------------------------------

EXACT = [
    ("Flat", "Flat"),
    ("IVF8,Flat", "IVF8,Flat"),
    ("HNSW16", "HNSW16"),
    ("Flat,RFlat", "IndexRefineFlat"),
]
LOSSY = [
    ("SQ8", "IndexScalarQuantizer", 1e-4),
    ("SQfp16", "IndexScalarQuantizer", 1e-6),
    ("PQ32x4np", "IndexPQ", 0.4),
    ("IVF8,SQ8", "IndexIVFScalarQuantizer", 1e-4),
    ("IVF8,PQ32x4np", "IndexIVFPQ", 0.4),
    ("HNSW16,SQ8", "IndexHNSWSQ", 1e-4),
    ("PCA128,IVF8,Flat", "IndexPreTransform", 0.2),
]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("factory", "name"), EXACT)
def test_an_uncompressed_index_gives_exactly_the_vectors_that_were_added(
    folder: Folder, names: list[str], made: Vectors, factory: str, name: str, metric: str
) -> None:
    folder.write(factory, made, metric=metric)
    with closing(folder.open(names)) as index:
        assert (index.factory, index.metric, index.lossy) == (name, metric, False)
        assert (len(index), index.dimensions, list(index.ids)) == (COUNT, DIMENSIONS, names)
        np.testing.assert_array_equal(np.concatenate(list(index.blocks(77))), made)
        rows = np.array([7, 0, 299, 7])
        np.testing.assert_array_equal(index.vectors(rows), made[rows])
        assert index.vectors(rows).dtype == np.float32


@pytest.mark.parametrize(("factory", "name", "most"), LOSSY)
def test_a_compressed_index_gives_reconstructions_and_says_so(
    folder: Folder, names: list[str], made: Vectors, factory: str, name: str, most: float
) -> None:
    folder.write(factory, made)
    with closing(folder.open(names)) as index:
        assert (index.factory, index.lossy) == (name, True)
        found = np.concatenate(list(index.blocks(77)))
        assert 0 < distance(found, made) < most


@pytest.mark.parametrize("factory", [it[0] for it in EXACT[:3]] + ["SQ8", "IVF8,SQ8"])
@pytest.mark.parametrize("wrapper", ["IDMap", "IDMap2"])
def test_a_map_of_ids_around_an_index_changes_nothing_but_the_ids(
    folder: Folder, names: list[str], made: Vectors, factory: str, wrapper: str
) -> None:
    labels = np.arange(COUNT, dtype=np.int64)[::-1] * 3 + 10**12
    folder.write(f"{wrapper},{factory}", made, labels)
    object = {str(label): name for label, name in zip(labels.tolist(), names, strict=True)}
    with closing(folder.open(object)) as index:
        assert index.lossy is ("SQ8" in factory)
        found = all_vectors(index)
        assert distance(np.array([found[name] for name in names]), made) < 1e-4
        hits = index.search(made[:20], 3).positions[:, 0]
        assert [index.ids[row] for row in hits] == names[:20]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("factory", ["Flat", "IDMap2,Flat", "IVF4,Flat", "HNSW32"])
def test_a_search_finds_what_the_vectors_themselves_say(
    folder: Folder, names: list[str], made: Vectors, factory: str, metric: Any
) -> None:
    folder.write(factory, made, np.arange(COUNT) if "IDMap" in factory else None, metric)
    with closing(folder.open(names)) as index:
        found = index.search(made[:10], 5)
        for query, rows, scores in zip(made, found.positions, found.similarities, strict=False):
            expected = brute_force(query, names, made, 5, metric)
            assert [index.ids[row] for row in rows] == [name for name, _ in expected]
            np.testing.assert_allclose(scores, [score for _, score in expected], atol=1e-5)


def test_where_there_are_fewer_vectors_than_asked_for_the_rest_is_marked(
    folder: Folder, made: Vectors
) -> None:
    folder.write("Flat", made[:3])
    with closing(folder.open(["a", "b", "c"])) as index:
        found = index.search(made[:2], 5)
    assert (found.positions[:, 3:] == -1).all() and (found.positions[:, :3] >= 0).all()
    assert np.isneginf(found.similarities[:, 3:]).all()


def test_an_approximate_search_tries_as_hard_as_it_is_told(folder: Folder, made: Vectors) -> None:
    names = list(map(str, range(COUNT)))
    folder.write("IVF32,Flat", made)
    ids = folder.list(names)
    recalls = []
    for nprobe in (1, None, 32):
        with closing(ExternalFaiss.open(folder.index, ids, Effort(nprobe=nprobe))) as index:
            found = index.search(made, 10).positions
            exact = np.argsort(-(made @ made.T), axis=1)[:, :10]
            both = zip(found.tolist(), exact.tolist(), strict=True)
            recalls.append(np.mean([len({*one} & {*other}) / 10 for one, other in both]))
    assert recalls[0] < 0.8 < recalls[1] <= recalls[2] == pytest.approx(1.0)


def test_queries_of_another_dimension_are_named(folder: Folder, made: Vectors) -> None:
    folder.write("Flat", made[:3])
    with closing(folder.open(["a", "b", "c"])) as index:
        with pytest.raises(ValueError, match=r"float32 \(n, 256\).*\(3, 255\)"):
            index.search(made[:3, :255], 1)
        with pytest.raises(ValueError, match="at least 1"):
            index.search(made[:3], 0)
        assert index.search(made[:0], 2).positions.shape == (0, 2)


@pytest.mark.parametrize("rows", [[3], [-1], [0, 10**9]])
@pytest.mark.parametrize("factory", ["Flat", "IDMap2,Flat", "IVF1,Flat"])
def test_a_row_that_does_not_exist_is_an_error_and_not_the_end_of_the_process(
    folder: Folder, made: Vectors, factory: str, rows: list[int]
) -> None:
    folder.write(factory, made[:3], np.array([5, 6, 7]) if "IDMap" in factory else None)
    with closing(folder.open(["a", "b", "c"])) as index, pytest.raises(IndexError, match="0 to 2"):
        index.vectors(np.array(rows))


def test_a_closed_index_says_so(folder: Folder, made: Vectors) -> None:
    folder.write("Flat", made[:3])
    index = folder.open(["a", "b", "c"])
    index.close()
    index.close()
    with pytest.raises(ValueError, match="closed"):
        index.search(made[:1], 1)


# -- id lists --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ids.json", '["a", 17, "ü"]'),
        ("ids.json", '\ufeff{"2": "ü", "0": "a", "1": 17}'),
        ("ids.jsonl", '"a"\n17\n"ü"\n'),
        ("ids.ndjson", '"a"\r\n17\r\n"ü"'),
        ("ids.txt", "a\n17\nü\n"),
        ("ids", "\ufeffa\r\n17\r\nü"),
    ],
)
def test_an_id_list_is_an_array_an_object_or_one_id_a_line(
    folder: Folder, made: Vectors, name: str, content: str
) -> None:
    folder.write("Flat", made[:3])
    with closing(folder.open(folder.list(content, name))) as index:
        assert list(index.ids) == ["a", "17", "ü"]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([4, 2, 9], np.uint32), ["4", "2", "9"]),
        (np.array(["x", "ü", "long one"]), ["x", "ü", "long one"]),
        (np.array([b"x", "ü".encode(), b"z"]), ["x", "ü", "z"]),
    ],
)
def test_an_id_list_is_an_array_of_numpy(
    folder: Folder, made: Vectors, array: npt.NDArray[Any], expected: list[str]
) -> None:
    folder.write("Flat", made[:3])
    np.save(folder.root / "ids.npy", array)
    with closing(folder.open(folder.root / "ids.npy")) as index:
        assert list(index.ids) == expected


@pytest.mark.parametrize("factory", ["IDMap,Flat", "IVF2,Flat", "IDMap,IVF2,Flat"])
def test_where_faiss_ids_are_places_in_the_list_they_are_used_as_places(
    folder: Folder, names: list[str], made: Vectors, factory: str
) -> None:
    """As an application does it that updates a document by removing it and adding it again."""
    labels = np.random.default_rng(0).permutation(COUNT).astype(np.int64)
    folder.write(factory, made[labels], labels)
    with closing(folder.open(names)) as index:
        found = all_vectors(index)
        np.testing.assert_array_equal(np.array([found[name] for name in names]), made)


@pytest.mark.parametrize("factory", ["IDMap2,Flat", "IVF2,Flat"])
def test_faiss_ids_may_be_the_document_ids(folder: Folder, made: Vectors, factory: str) -> None:
    labels = np.random.default_rng(0).permutation(COUNT).astype(np.int64) * 7 + 5
    folder.write(factory, made, labels)
    with closing(folder.open(sorted(labels.tolist()))) as index:
        found = all_vectors(index)
        for label, vector in zip(labels.tolist(), made, strict=True):
            np.testing.assert_array_equal(found[str(label)], vector)


def test_other_faiss_ids_are_taken_in_the_order_in_which_they_were_added(
    folder: Folder, names: list[str], made: Vectors
) -> None:
    folder.write("IDMap,Flat", made, np.arange(COUNT)[::-1] + 1000)
    with closing(folder.open(names)) as index:
        assert list(index.ids) == names
        np.testing.assert_array_equal(np.concatenate(list(index.blocks())), made)


def test_an_index_that_forgot_the_order_wants_to_be_told_each_id(
    folder: Folder, names: list[str], made: Vectors
) -> None:
    labels = np.arange(COUNT)[::-1] + 1000
    folder.write("IVF4,Flat", made, labels)
    with pytest.raises(Refused, match="which FAISS id is which document") as refusal:
        folder.open(names)
    assert "JSON object" in str(refusal.value)
    with closing(folder.open(dict(zip(map(str, labels), names, strict=True)))) as index:
        found = all_vectors(index)
        np.testing.assert_array_equal(np.array([found[name] for name in names]), made)
        hits = index.search(made[:9], 1).positions[:, 0]
        assert [index.ids[row] for row in hits] == names[:9]


# -- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "error", "words"),
    [
        ("ids.json", '["a", "b"]', Refused, "2 ids.*3: one for each vector"),
        ("ids.json", '["a", "b", "c", "d"]', Refused, "4 ids.*3: one for each vector"),
        ("ids.json", '["a", "b", "a"]', DuplicateId, "1 document.*'a'"),
        ("ids.txt", "1\n2\n1", DuplicateId, "1 document.*'1'"),
        ("ids.json", '["a", 1, "1"]', DuplicateId, "1 document.*'1'"),
        ("ids.json", '["a", null, "b"]', DuplicateId, "ids.json, id 2: .*nothing"),
        ("ids.json", '["a", true, "b"]', DuplicateId, "id 2: .*type bool"),
        ("ids.json", '["a", 1.5, "b"]', DuplicateId, "id 2: .*type float"),
        ("ids.json", '["a", ["b"], "c"]', DuplicateId, "id 2: .*type list"),
        ("ids.json", '["a", "", "b"]', DuplicateId, "id 2: .*0 bytes"),
        ("ids.txt", "a\n\nb", DuplicateId, "id 2: .*0 bytes"),
        ("ids.json", "{}", Refused, "0 ids"),
        ("ids.json", '{"0": "a", "1": "b", "7": "c"}', Refused, "no entry for 2"),
        ("ids.json", '{"0": "a", "1": "b", "2": null}', DuplicateId, "entry 3: .*nothing"),
        ("ids.json", '{"a": 0, "b": 1, "c": 2}', ConfigError, "'a'.*swap keys and values"),
        ("ids.json", '"a"', ConfigError, "type str"),
        ("ids.json", '"a"\n"b"\n"c"', ConfigError, "no JSON"),
        ("ids.jsonl", '"a"\nb\n"c"', ConfigError, "line 2: no JSON"),
        ("ids.npy", "a\nb\nc", ConfigError, "no array of numpy"),
        ("ids.pkl", "a\nb\nc", ConfigError, "pickle"),
    ],
)
def test_an_id_list_that_does_not_fit_is_refused(
    folder: Folder, made: Vectors, name: str, content: str, error: type[Exception], words: str
) -> None:
    folder.write("Flat", made[:3])
    with pytest.raises(error, match=f"(?s){words}") as refusal:
        folder.open(folder.list(content, name))
    assert isinstance(refusal.value, EmbedMigrateError) and refusal.value.next_step


def test_repeated_ids_are_named_up_to_ten(folder: Folder, made: Vectors) -> None:
    folder.write("Flat", made[:24])
    twice = [f"d{number:02d}" for number in range(12)] * 2
    with pytest.raises(DuplicateId, match="12 document") as refusal:
        folder.open(twice)
    assert "'d09' and 2 more" in str(refusal.value) and "d10" not in str(refusal.value)


def test_nothing_is_unpickled(folder: Folder, made: Vectors) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (folder.root / "it ran",))

    folder.write("Flat", made[:3])
    np.save(folder.root / "a.npy", np.array([Trap(), 1, 2], dtype=object), allow_pickle=True)
    (folder.root / "b.npy").write_bytes(pickle.dumps([Trap()]))
    (folder.root / "c.json").write_bytes(pickle.dumps([Trap()]))
    for name in ("a.npy", "b.npy", "c.json"):
        with pytest.raises(ConfigError, match="not an id list"):
            folder.open(folder.root / name)
    assert not (folder.root / "it ran").exists()


@pytest.mark.parametrize("array", [np.zeros((3, 1), int), np.zeros(3), np.array(5)])
def test_an_array_of_something_else_is_no_id_list(
    folder: Folder, made: Vectors, array: npt.NDArray[Any]
) -> None:
    folder.write("Flat", made[:3])
    np.save(folder.root / "ids.npy", array)
    with pytest.raises(ConfigError, match="not an id list"):
        folder.open(folder.root / "ids.npy")


def test_files_that_are_not_there_are_named(folder: Folder, made: Vectors) -> None:
    with pytest.raises(ConfigError, match=r"theirs\.faiss cannot be read: No such file"):
        folder.open(["a"])
    folder.write("Flat", made[:1])
    with pytest.raises(ConfigError, match=r"id list .*lost\.txt cannot be read: No such file"):
        folder.open(folder.root / "lost.txt")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        ExternalFaiss.open(folder.root, folder.list(["a"]))


@pytest.mark.parametrize("content", [b"", b"Ix", b"id,vector\n1,0.5\n", pickle.dumps([1, 2])])
def test_a_file_that_is_no_faiss_index_is_refused(folder: Folder, content: bytes) -> None:
    folder.index.write_bytes(content)
    with pytest.raises(ConfigError, match="not a FAISS index"):
        folder.open(["a"])


def test_a_binary_index_is_refused_for_what_it_is(folder: Folder) -> None:
    index = faiss.IndexBinaryFlat(64)
    index.add(np.zeros((3, 8), np.uint8))
    faiss.write_index_binary(index, str(folder.index))
    with pytest.raises(ConfigError, match="binary FAISS index"):
        folder.open(["a", "b", "c"])


def test_an_index_of_another_metric_is_refused(folder: Folder, made: Vectors) -> None:
    index = faiss.IndexFlat(DIMENSIONS, faiss.METRIC_L1)
    index.add(made[:3])
    faiss.write_index(index, str(folder.index))
    with pytest.raises(ConfigError, match="metric"):
        folder.open(["a", "b", "c"])


def test_an_empty_index_is_refused(folder: Folder, made: Vectors) -> None:
    folder.write("Flat", made[:0])
    with pytest.raises(Refused, match="is empty"):
        folder.open([])


def test_faiss_ids_that_are_there_twice_are_named(folder: Folder, made: Vectors) -> None:
    labels = np.array([4, 5, 4])
    for factory in ("IDMap,Flat", "IVF1,Flat"):
        folder.write(factory, made[:3], labels)
        with pytest.raises(Refused, match=r"(?s)more than once.*found: +4\n"):
            folder.open(["a", "b", "c"])


@pytest.mark.parametrize("factory", ["IVF2,PQ8x4fs", "LSH", "PQ8x4fs"])
def test_a_kind_that_does_not_give_its_vectors_back_is_refused(
    folder: Folder, names: list[str], made: Vectors, factory: str
) -> None:
    folder.write(factory, made, metric="l2")
    with pytest.raises(Refused, match="cannot be read vector by vector"):
        folder.open(names)


CUTTING = """
import json, os, sys
from pathlib import Path
from embedmigrate.errors import ConfigError, DamagedIndex
from embedmigrate.stores.faiss.external import ExternalFaiss

index, ids = Path(sys.argv[1]), Path(sys.argv[2])
for size in json.loads(sys.argv[3]):
    os.truncate(index, size)
    try:
        ExternalFaiss.open(index, ids)
    except (ConfigError if size < 4 else DamagedIndex) as error:
        assert "not a FAISS index" in str(error) or "truncated" in str(error), error
    else:
        raise SystemExit(f"opened {size} bytes")
print("all refused")
"""


@pytest.mark.parametrize(
    "factory",
    ["Flat", "IDMap2,Flat", "IVF2,Flat", "IDMap,IVF2,Flat", "HNSW8", "PQ32x4np", "IDMap,SQ8"],
)
def test_a_truncated_index_is_refused_wherever_it_was_cut(
    folder: Folder, names: list[str], made: Vectors, factory: str
) -> None:
    """In a process of its own: FAISS's mapped reader would end it with SIGSEGV at some cuts."""
    size = folder.write(factory, made).stat().st_size if "IDMap" not in factory else 0
    size = size or folder.write(factory, made, np.arange(COUNT)).stat().st_size
    cuts = [*range(size - 1, size - 20, -1), size // 2, size // 3, *range(260, -1, -1)]
    done = subprocess.run(
        [sys.executable, "-c", CUTTING, folder.index, folder.list(names), json.dumps(cuts)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "all refused\n"), done.stderr


def test_what_follows_an_index_in_its_file_is_not_overlooked(folder: Folder, made: Vectors) -> None:
    path = folder.write("Flat", made[:3])
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(DamagedIndex, match="truncated or edited"):
        folder.open(["a", "b", "c"])


# -- left alone ------------------------------------------------------------------------------


@pytest.fixture
def read_only(folder: Folder) -> Iterator[Folder]:
    """A folder in which only a superuser could still write."""
    yield folder
    for path in (*folder.root.iterdir(), folder.root):
        path.chmod(0o700)


@pytest.mark.parametrize("factory", ["Flat", "IDMap2,Flat", "IVF8,Flat", "HNSW16", "PQ32x4np"])
def test_the_files_are_never_written(
    read_only: Folder, names: list[str], made: Vectors, factory: str
) -> None:
    folder = read_only
    folder.write(factory, made, np.arange(COUNT) if "IDMap" in factory else None)
    ids = folder.list(names)
    os.utime(folder.index, ns=(10**18, 10**18))
    for path in (folder.index, ids):
        path.chmod(0o400)
    folder.root.chmod(0o500)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (folder.index, ids)}
    with closing(folder.open(ids)) as index:
        index.search(made, 10)
        for block in index.blocks(50):
            block[:] = 0  # a copy: what is done to it stays with whoever asked
        assert np.abs(index.vectors(np.arange(COUNT))).max() > 0.1
    assert sorted(path.name for path in folder.root.iterdir()) == ["ids.json", "theirs.faiss"]
    for path, (content, time) in before.items():
        assert path.read_bytes() == content and path.stat().st_mtime_ns == time


READING = """
import sys, numpy as np
from pathlib import Path
from embedmigrate.stores.faiss.external import ExternalFaiss
import faiss

def anonymous():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon"))

before = anonymous()
index = ExternalFaiss.open(Path(sys.argv[1]), Path(sys.argv[2]))
for block in index.blocks(1000):
    pass
index.search(block[:4], 10)
print(anonymous() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("factory", ["Flat", "IDMap2,Flat", "IVF8,Flat", "HNSW4"])
def test_a_large_file_is_mapped_and_not_loaded(folder: Folder, made: Vectors, factory: str) -> None:
    many = np.tile(made, (100, 1))
    many += np.random.default_rng(0).standard_normal(many.shape, np.float32) * 0.01
    labels = np.arange(len(many)) if "IDMap" in factory else None
    size = folder.write(factory, many, labels).stat().st_size
    ids = folder.list("\n".join(map(str, range(len(many)))), "ids.txt")
    done = subprocess.run(
        [sys.executable, "-c", READING, folder.index, ids],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert int(done.stdout) * 1024 < size / 2, f"{done.stdout} kB of a file of {size} bytes"
