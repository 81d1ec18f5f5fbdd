"""Any sequence of edits leaves exactly the chunks that an index made from scratch would have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from embedmigrate.catalog import journal
from embedmigrate.engine.diff import Diff
from embedmigrate.engine.follow import follow
from embedmigrate.engine.passages import in_groups, stored_documents, text_of
from embedmigrate.engine.prepare import Transition, prepare
from embedmigrate.models import Chunker, Recipe
from embedmigrate.sources.base import Document, content_hash, hash_of_chunks, metadata_hash
from embedmigrate.sources.cutting import CutSource, seen_through
from embedmigrate.stores.base import StoredState
from tests.engine.parts import Bench, ListSource, UnsortedSource

CHUNKER = Chunker(size=3, overlap=1)


class CutBench(Bench):
    """A bench whose documents are cut."""

    def __init__(self, root: Path, source: ListSource) -> None:
        super().__init__(root, source)
        recipe = Recipe(text=("text",), chunker=CHUNKER)
        self.spec = self.spec.model_copy(update={"recipe": recipe})
        self.job.open_source = lambda recipe: seen_through(recipe, self.source)
        self.cut = CutSource(source, CHUNKER)

    def build(self) -> str:
        with self.locked() as lease:
            wanted = Transition("r1", self.spec, None, allow_lag=True)
            return prepare(self.job, lease, wanted).index_name

    def follow(self, index: str, *ids: str) -> None:
        with self.locked() as lease:
            with self.catalog.write() as connection:
                journal.append(connection, "things", [(id, "changed") for id in ids])
            with closing(self.job.store.writer(index, epoch=lease.epoch, run="test")) as writer:
                follow(self.job, lease, self.cut, writer, index)

    def held(self, index: str) -> dict[tuple[str, int], tuple[bytes, bytes]]:
        with closing(self.job.store.reader(index)) as reader:
            return {
                (it.id, it.chunk): (it.content_hash, it.metadata_hash) for it in reader.states()
            }

    def wanted(self) -> dict[tuple[str, int], tuple[bytes, bytes]]:
        return {
            (id, number): (
                content_hash(chunk),
                metadata_hash(self.source.metadata.get(id, {})),
            )
            for id, text in self.source.texts.items()
            for number, chunk in enumerate(CHUNKER.cut(text))
        }


IDS = st.sampled_from(["a", "b", "c"])
TEXTS = st.integers(0, 12).map(lambda words: " ".join("uvwxyzuvwxyz"[:words]))
EDIT = st.one_of(
    st.tuples(st.just("text"), IDS, TEXTS),
    st.tuples(st.just("text"), IDS, TEXTS),
    st.tuples(st.just("topic"), IDS, st.sampled_from(["m", "n"])),
    st.tuples(st.just("delete"), IDS, st.just("")),
)
THEN = st.sampled_from(["follow", "follow", "build", "wait"])


@given(
    first=st.fixed_dictionaries({"a": TEXTS, "b": TEXTS}),
    edits=st.lists(st.tuples(EDIT, THEN), min_size=3, max_size=10),
)
@settings(max_examples=12, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_any_sequence_of_edits_leaves_the_chunks_of_a_from_scratch_build(
    first: dict[str, str], edits: list[tuple[tuple[str, str, str], str]]
) -> None:
    with TemporaryDirectory() as folder:
        bench = CutBench(Path(folder), ListSource(dict(first)))
        bench.job.allow_mass_delete = True
        with closing(bench):
            tell(bench, [*edits, (("nothing", "a", ""), "follow")])


def tell(bench: CutBench, edits: list[tuple[tuple[str, str, str], str]]) -> None:
    index, source, changed = bench.build(), bench.source, list[str]()
    for (kind, id, value), then in edits:
        if kind == "text":
            source.texts[id] = value
        elif kind == "topic":
            source.metadata[id] = {"topic": value}
        elif kind == "delete":
            source.texts.pop(id, None)
        changed.append(id)
        if then == "wait":
            continue
        if then == "follow":
            bench.follow(index, *changed)
        else:
            assert bench.build() == index
        assert bench.held(index) == bench.wanted()
        changed.clear()


@pytest.fixture(params=[ListSource, UnsortedSource])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CutBench]:
    texts = {f"d{n}": " ".join("word" + str(i) for i in range(n)) for n in range(12)}
    with closing(CutBench(tmp_path, request.param(texts))) as bench:
        yield bench


def test_a_diff_compares_every_chunk_whatever_the_order_of_the_source(bench: CutBench) -> None:
    index = bench.build()

    def differences() -> list[tuple[str, str]]:
        with closing(bench.job.store.reader(index)) as reader:
            diff = Diff(bench.cut, reader, bench.job.work_dir)
            found = [(it.document_id, it.kind) for it in diff]
        assert (diff.comparison.source, diff.comparison.skipped) == (11, 1)
        return found

    assert differences() == []
    bench.source.texts["d7"] += " more"
    bench.source.texts["d9"] = "word0 word1 word2"
    bench.source.metadata["d3"] = {"topic": "new"}
    assert sorted(differences()) == [("d3", "metadata"), ("d7", "stale"), ("d9", "stale")]


def test_a_document_goes_into_a_batch_as_a_whole(bench: CutBench) -> None:
    ranges = list(bench.cut.partition(6))
    chunks = [
        sum(len(document.passages) for document in bench.cut.scan(it.after, it.until))
        for it in ranges
    ]
    assert sum(it.documents for it in ranges) == 12 and ranges[0].after is None
    assert [it.after for it in ranges[1:]] == [it.until for it in ranges[:-1]]
    assert sum(chunks) == len(bench.wanted()) and max(chunks) <= 6
    alone = list(bench.cut.partition(1))
    assert [it.documents for it in alone] == [1] * 12, "one without a text is looked at, too"


def document(id: str, chunks: int) -> Document:
    whole = Document.make(id, " ".join(f"{id}{i}" for i in range(1 + 2 * chunks)), {})
    (cut,) = CutSource(ListSource({id: whole.text}), CHUNKER).scan()
    assert len(cut.passages) == chunks
    return cut


def test_groups_hold_so_many_passages_and_a_longer_document_stands_alone() -> None:
    documents = [document(id, n) for id, n in [("a", 2), ("b", 2), ("c", 1), ("d", 9), ("e", 1)]]
    groups = [[it.id for it in group] for group in in_groups(documents, 4)]
    assert groups == [["a", "b"], ["c"], ["d"], ["e"]]
    assert list(in_groups([], 4)) == []


def state(id: str, chunk: int, content: bytes, metadata: bytes = b"m", seq: int = 1) -> StoredState:
    return StoredState(id, chunk, seq, content, metadata)


def test_stored_documents_differ_when_a_chunk_differs_lacks_or_is_too_many() -> None:
    def whole(*states: StoredState) -> tuple[bytes, bytes]:
        (document,) = stored_documents(states)
        return document.content_hash, document.metadata_hash

    one, two, three = (state("a", n, bytes([n])) for n in range(3))
    all_of_them = whole(one, two, three)
    assert all_of_them == whole(three, one, two), "in whatever order"
    assert all_of_them[0] == hash_of_chunks(enumerate([b"\0", b"\1", b"\2"]))
    others = [
        whole(one, two),
        whole(one, three),
        whole(two, three),
        whole(one, two._replace(content_hash=b"\2"), three),
        whole(one, two, three, state("a", 3, b"\3")),
        whole(one, three._replace(chunk=1)),
        whole(one),
        whole(two),
    ]
    assert len({all_of_them, *others}) == len(others) + 1
    assert whole(one)[0] == b"\0", "a document of one chunk has the hash of its text"
    assert whole(one, two._replace(metadata_hash=b"n"))[1] not in (b"m", b"n")


def test_the_text_of_a_vector_is_that_of_its_chunk_as_long_as_it_is_the_same() -> None:
    documents = {"a": document("a", 3)}
    second = documents["a"].passages[1]
    assert text_of(documents, state("a", 1, second.content_hash)) == second.text == "a2 a3 a4"
    assert text_of(documents, state("a", 2, second.content_hash)) is None
    assert text_of(documents, state("a", 3, second.content_hash)) is None
    assert text_of(documents, state("b", 1, second.content_hash)) is None
