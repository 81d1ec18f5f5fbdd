"""Long documents are cut into chunks: an index holds exactly those of the texts that there are."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from embedmigrate import Chunker, Collection, EmbeddingModel, Recipe, command
from embedmigrate.engine import embedding
from embedmigrate.engine import follow as following
from embedmigrate.engine.fitting import note_cut_off, refuse_too_long
from embedmigrate.errors import DeadLetters, Refused
from embedmigrate.migration.literal import find_not_literal
from embedmigrate.sources.base import content_hash, metadata_hash
from embedmigrate.stores.faiss.writer import FaissWriter
from tests.command_line import run
from tests.faults.project import Faulty, kill_at
from tests.library import COLLECTION, Library
from tests.test_sync import holds, sync
from tests.workspace import ARTICLES, Workspace, documents

SMALL, LARGE = Chunker(size=8, overlap=2), Chunker(size=12, overlap=3)
SENTENCE = "A whale sings to another whale far away, in the cold deep sea."


def stated(chunker: Chunker) -> str:
    return f'chunker = {{ kind = "tokens", size = {chunker.size}, overlap = {chunker.overlap} }}'


def cut(collection: str, chunker: Chunker = SMALL) -> str:
    return collection.replace("store = {", f"{stated(chunker)}\nstore = {{")


def recipe(chunker: Chunker | None = SMALL) -> Recipe:
    return Recipe(text=("title", "text"), chunker=chunker)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Cut and live, and its changes are recorded."""
    library = Library.of(tmp_path_factory.mktemp("chunks") / "project", collections=cut(COLLECTION))
    command.capture_install(library.settings, "articles")
    library.revision("wordllama", "first index")
    library.upgrade()
    return library


@pytest.fixture
def library(template: Library, tmp_path: Path) -> Library:
    return Library(Path(shutil.copytree(template.root, tmp_path / "project")))


Rows = dict[tuple[str, int], tuple[bytes, bytes]]


def wanted(library: Library, recipe: Recipe) -> Rows:
    """What an index made from scratch would hold: each chunk with its hashes."""
    return {
        (id, number): (content_hash(chunk), metadata_hash({"topic": topic}))
        for id, title, text, topic in library.sql("SELECT id, title, text, topic FROM articles")
        for number, chunk in enumerate(recipe.make_chunks({"title": title, "text": text}))
    }


def held(library: Workspace, index: str | None = None) -> Rows:
    index = index or library.status()["live"]["container"]
    with closing(library.settings.open_store("articles").reader(index)) as reader:
        states = list(reader.states())
        assert reader.problems() == []
    assert len({(it.id, it.chunk) for it in states}) == len(states)
    return {(it.id, it.chunk): (it.content_hash, it.metadata_hash) for it in states}


def edit(library: Library, id: str, text: str | None) -> None:
    library.sql("UPDATE articles SET text = ? WHERE id = ?", text, id)


def text_of(library: Library, id: str) -> str:
    ((text,),) = library.sql("SELECT text FROM articles WHERE id = ?", id)
    return str(text)


# -- the first index ---------------------------------------------------------------------------


def test_every_chunk_of_every_document_is_indexed_and_found(library: Library) -> None:
    rows = held(library)
    assert rows == wanted(library, recipe())
    assert len(rows) > 2 * len({id for id, _ in rows}) == 80
    assert holds(library)
    assert command.audit(library.settings, "articles")["clean"]

    edit(library, "doc-000001", f"{text_of(library, 'doc-000001')} {SENTENCE}")
    sync(library)
    with Collection.open("articles", library.settings) as articles:
        hit = articles.search("whale song").hits[0]
        with articles.route() as route:
            ((title, text),) = library.sql("SELECT title, text FROM articles WHERE id = ?", hit.id)
            found = route.recipe.make_chunks({"title": title, "text": text})[hit.chunk]
    assert hit.id == "doc-000001" and hit.chunk > 1 and "whale" in found


def test_a_search_of_the_command_line_shows_the_chunk(library: Library) -> None:
    (hit, *_) = json.loads(run(library.root, "search", "articles", "galaxies", "--json").out)[
        "hits"
    ]
    assert {"id", "chunk"} <= hit.keys()
    assert (
        f"{hit['id']}  chunk {hit['chunk']}\n"
        in run(library.root, "search", "articles", "galaxies").out
    )


def test_what_is_counted_is_documents(library: Library) -> None:
    (planned,) = command.sync(library.settings, compare=True)["collections"]
    assert planned["written"] == 0
    with closing(sqlite3.connect(library.root / "catalog.db")) as catalog:
        (figures,) = catalog.execute("SELECT total, done, skipped, embedded FROM embedmigrate_run")
    texts = {hashed for hashed, _ in held(library).values()}
    assert figures == (40, 40, 0, len(texts)), "but texts that were embedded"
    assert library.status()["live"]["documents"] == 40


def test_a_plan_says_how_documents_are_cut(tmp_path: Path) -> None:
    workspace = Workspace.make(tmp_path, collections=cut(ARTICLES), pin=["wordllama"])
    workspace.revision("wordllama", "first index")
    (planned,) = command.plan(workspace.settings)["collections"]
    assert (planned["documents"], planned["vector_bytes"]) == (40, None)
    assert planned["chunker"] == SMALL.model_dump()
    assert "40 documents, cut into chunks of 8 tokens, 2 shared" in run(tmp_path, "plan").out


# -- documents change --------------------------------------------------------------------------


def is_up_to_date(library: Library, chunker: Chunker = SMALL) -> bool:
    return held(library) == wanted(library, recipe(chunker)) and holds(library)


def test_an_edit_that_makes_a_document_shorter_removes_its_surplus_chunks(
    library: Library,
) -> None:
    edit(library, "doc-000001", "short")
    assert sync(library) == {"written": 1, "metadata": 0, "deleted": 0, "embedded": 1}
    assert [number for id, number in held(library) if id == "doc-000001"] == [0]
    assert is_up_to_date(library)


def test_an_edit_that_makes_a_document_longer_embeds_what_is_new(library: Library) -> None:
    before = {hashed for hashed, _ in held(library).values()}
    edit(library, "doc-000001", f"{text_of(library, 'doc-000001')} {SENTENCE}")
    new = {hashed for hashed, _ in wanted(library, recipe()).values()} - before
    done = sync(library)
    assert (done["written"], done["embedded"]) == (1, len(new))
    assert 0 < len(new) < sum(id == "doc-000001" for id, _ in held(library))
    assert is_up_to_date(library)


def test_an_edit_that_changes_nothing_that_is_embedded_writes_nothing(library: Library) -> None:
    library.sql("UPDATE articles SET updated_at = 2 WHERE id = 'doc-000001'")
    edit(library, "doc-000002", text_of(library, "doc-000002"))
    assert sync(library) == {"written": 0, "metadata": 0, "deleted": 0, "embedded": 0}


def test_metadata_reach_every_chunk_and_nothing_is_embedded(library: Library) -> None:
    library.sql("UPDATE articles SET topic = 'sea' WHERE id = 'doc-000002'")
    assert sync(library) == {"written": 0, "metadata": 1, "deleted": 0, "embedded": 0}
    assert is_up_to_date(library)


@pytest.mark.parametrize(
    "change",
    [
        lambda library: library.sql("DELETE FROM articles WHERE id = 'doc-000003'"),
        lambda library: library.sql(
            "UPDATE articles SET title = NULL, text = ' ' WHERE id = 'doc-000003'"
        ),
    ],
    ids=["a deletion", "the loss of its text"],
)
def test_a_document_goes_with_all_of_its_chunks(
    library: Library, change: Callable[[Library], object]
) -> None:
    change(library)
    assert sync(library) == {"written": 0, "metadata": 0, "deleted": 1, "embedded": 0}
    assert not [id for id, _ in held(library) if id == "doc-000003"]
    assert is_up_to_date(library)


def test_a_large_page_is_embedded_and_written_a_batch_at_a_time(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.edit_config("[embedmigrate]", "[embedmigrate]\nbatch_size = 16")
    library.sql("UPDATE articles SET text = text || ' The end.'")
    library.sql("UPDATE articles SET text = text || text || text || text WHERE id = 'doc-000007'")
    sizes: list[int] = []
    embed = embedding.embed_documents

    def counted(documents: Any, *args: Any, **options: Any) -> Any:
        sizes.append(sum(len(document.passages) for document in documents))
        return embed(documents, *args, **options)

    monkeypatch.setattr(following, "embed_documents", counted)
    assert sync(library)["written"] == 40
    whole = sum(id == "doc-000007" for id, _ in held(library))
    assert whole > 16 and sorted(sizes)[-2:] == [max(s for s in sizes if s <= 16), whole]
    assert is_up_to_date(library)


def test_documents_of_a_file_are_cut_and_compared(tmp_path: Path) -> None:
    workspace = Workspace.make(tmp_path, collections=cut(ARTICLES), pin=["wordllama"])
    workspace.revision("wordllama", "first index")
    workspace.upgrade()
    before = held(workspace)
    corpus = documents(40)
    corpus[3]["text"], corpus[4]["text"] = "short", f"{corpus[4]['text']} {SENTENCE}"
    del corpus[5]
    workspace.write_corpus(corpus)
    done = sync(workspace)
    assert (done["written"], done["metadata"], done["deleted"]) == (2, 0, 1)
    assert held(workspace).keys() == {
        (it["_id"], number) for it in corpus for number, _ in enumerate(recipe().make_chunks(it))
    }
    assert held(workspace) != before and holds(workspace)


# -- another chunker ---------------------------------------------------------------------------


def test_a_migration_changes_the_chunker_and_a_rollback_goes_back(library: Library) -> None:
    first = library.status()["live"]["container"]
    library.edit_config(stated(SMALL), stated(LARGE))
    checked = run(library.root, "check")
    assert checked.code == 3
    assert "recipe: configured title, text joined by ' ', cut into 12 tokens, 3 shared" in (
        checked.out + checked.err
    )
    library.revision("wordllama", "larger chunks")
    assert run(library.root, "check").code == 3, "not applied yet"
    library.upgrade()
    assert run(library.root, "check").code == 0
    assert is_up_to_date(library, LARGE)
    edit(library, "doc-000001", "short")
    edit(library, "doc-000002", f"{text_of(library, 'doc-000002')} {SENTENCE}")
    library.sql("DELETE FROM articles WHERE id = 'doc-000003'")

    command.rollback(library.settings, "articles", reason="just to see")
    assert library.status()["live"]["container"] == first
    assert is_up_to_date(library, SMALL)


def test_a_script_states_the_chunker_as_an_object_or_as_a_dictionary(tmp_path: Path) -> None:
    workspace = Workspace.make(tmp_path, collections=cut(ARTICLES), pin=["wordllama"])
    workspace.revision("wordllama", "first index")
    (script,) = (tmp_path / "migrations" / "versions").glob("*.py")
    text = script.read_text("utf-8")
    assert "from embedmigrate import Chunker, EmbeddingModel, Recipe, op" in text
    assert find_not_literal(script) == []

    def check() -> Any:
        (entry,) = command.check(workspace.settings)["collections"]
        return [it for it in entry["differences"] if "recipe" in it]

    assert check() == []
    stated = 'Chunker(kind="tokens", size=8, overlap=2)'
    assert stated in text
    script.write_text(text.replace(stated, '{"size": 8, "overlap": 2}'), "utf-8")
    assert check() == [] and find_not_literal(script) == []
    script.write_text(text.replace(stated, '{"size": 8, "overlap": 3}'), "utf-8")
    assert len(check()) == 1
    script.write_text(text.replace("size=8", "size=4 + 4"), "utf-8")
    assert len(find_not_literal(script)) == 1


def test_what_is_not_cut_can_be_cut_and_what_is_cut_made_whole(tmp_path: Path) -> None:
    library = Library.of(tmp_path / "project")
    command.capture_install(library.settings, "articles")
    library.revision("wordllama", "whole")
    library.upgrade()
    assert held(library) == wanted(library, recipe(None))
    library.edit_config("store = {", f"{stated(SMALL)}\nstore = {{")
    library.revision("wordllama", "cut")
    library.upgrade()
    assert is_up_to_date(library)
    library.edit_config(f"{stated(SMALL)}\n", "")
    library.revision("wordllama", "whole again")
    (entry,) = library.upgrade()
    assert held(library) == wanted(library, recipe(None)) and holds(library)
    assert entry["embedded"] == 0, "the index of whole documents is still there"


def test_what_changes_beside_an_upgrade_is_in_both_indexes(library: Library) -> None:
    library.edit_config(stated(SMALL), stated(LARGE))
    library.revision("wordllama-64", "larger chunks of another model")
    library.upgrade(until_ready=True)
    edit(library, "doc-000001", "short")
    edit(library, "doc-000002", f"{text_of(library, 'doc-000002')} {SENTENCE}")
    library.sql("DELETE FROM articles WHERE id = 'doc-000003'")
    sync(library)
    assert held(library) == wanted(library, recipe(SMALL))
    library.upgrade()
    assert library.live() == "wordllama-64"
    assert is_up_to_date(library, LARGE)


def test_another_query_side_is_proven_on_chunks(library: Library) -> None:
    library.edit_config("[models.wordllama]", '[models.wordllama]\nquery_prompt = "find: "')
    command.pin(library.to_pin, "wordllama")
    library.revision("wordllama", "ask with a prompt")
    library.edit_config("[embedmigrate]", "[embedmigrate]\nproof_sample = 200")
    (entry,) = library.upgrade()
    assert (entry["live"], entry["embedded"]) == (True, 0)
    with closing(sqlite3.connect(library.root / "catalog.db")) as catalog:
        ((measured,),) = catalog.execute(
            "SELECT measured FROM embedmigrate_evidence WHERE index_name = ? AND invariant = 6",
            [entry["index"]],
        ).fetchall()
    rows = held(library)
    assert json.loads(measured)["compared"] == min(200, len(rows)) > 40, "chunks, not documents"
    assert is_up_to_date(library)


@pytest.mark.parametrize(
    ("wrong", "said"), [("size = 2", "overlap"), ("size = 0", "size"), ("kind = 'lines'", "kind")]
)
def test_a_chunker_that_cannot_be_is_refused_where_it_is_stated(
    library: Library, wrong: str, said: str
) -> None:
    (script,) = (library.root / "migrations" / "versions").glob("*.py")
    text = script.read_text("utf-8")
    script.write_text(text.replace("size=8, overlap=2", "size=2, overlap=2"), "utf-8")
    answer = run(library.root, "plan")
    assert answer.code == 78 and "overlap is smaller than size" in answer.err
    script.write_text(text, "utf-8")
    old = 'kind = "tokens"' if "kind" in wrong else "size = 8"
    library.edit_config(old, wrong)
    answer = run(library.root, "plan")
    assert answer.code == 78 and said in answer.err
    assert re.search(r"embedmigrate.toml, line \d+: collections.articles.chunker", answer.err)


# -- what is wrong in a store is found ---------------------------------------------------------


def break_rows(library: Library, statement: str) -> None:
    index = library.status()["live"]["container"]
    with closing(sqlite3.connect(library.root / "indexes" / index / "rows.sqlite")) as rows, rows:
        assert rows.execute(statement).rowcount == 1
        # a reader sees no row without a vector: hide the position where one was taken away
        rows.execute(
            "INSERT INTO deaths (position) SELECT position FROM rows WHERE deleted = 1"
            " AND position NOT IN (SELECT position FROM deaths)"
        )


WHERE = "WHERE id = 'doc-000008' AND deleted = 0 AND chunk ="
BREAKS = {
    "a missing chunk": f"UPDATE rows SET deleted = 1 {WHERE} 1",
    "the last chunk is missing": f"UPDATE rows SET deleted = 1 {WHERE} 3",
    "a surplus chunk": "UPDATE rows SET id = 'doc-000008', chunk = 9 WHERE id = 'doc-000009'"
    " AND chunk = 3",
    "a stale chunk": f"UPDATE rows SET content_hash = x'0011223344556677' {WHERE} 2",
    "two chunks that changed places": f"UPDATE rows SET chunk = 7 {WHERE} 0",
    "outdated metadata of one chunk": f"UPDATE rows SET metadata_hash = x'00' {WHERE} 2",
}


@pytest.mark.parametrize("kind", BREAKS)
def test_a_chunk_that_is_not_as_it_should_be_is_found_and_put_right(
    library: Library, kind: str
) -> None:
    break_rows(library, BREAKS[kind])
    verified = command.verify(library.settings)["collections"][0]["invariants"]
    assert [it["invariant"] for it in verified if not it["holds"]] == [5]
    (audited,) = command.audit(library.settings, "articles", embed=False)["collections"]
    counted = audited["stale"], audited["metadata"]
    surplus = kind == "a surplus chunk"  # taken from another document, which lacks it now
    assert counted == ((0, 1) if "metadata" in kind else (1 + surplus, 0))
    command.sync(library.settings, compare=True)
    assert is_up_to_date(library)


# -- documents that cannot be embedded ---------------------------------------------------------


def test_a_document_with_one_chunk_that_cannot_be_embedded_is_dead_as_a_whole(
    tmp_path: Path,
) -> None:
    corpus = documents(40)
    corpus[3]["text"] += " Then a long way to some poison, and on it goes."
    dead, first = corpus[3]["_id"], recipe().make_chunks(corpus[3])
    poisoned = next(number for number, chunk in enumerate(first) if "poison" in chunk)
    workspace = Workspace.make(
        tmp_path,
        corpus=corpus,
        collections=cut(ARTICLES).replace("wordllama", "fake-a"),
        pin=["fake-a"],
    )
    well = '[models.fake-a]\nprovider = "hashing-not-a-model"'
    ill = '[models.fake-a]\nprovider = "misbehaving-not-a-model"\nkind = "NaN"\nholding = "poison"'
    workspace.edit_config(well, ill)
    workspace.revision("fake-a", "first index")
    with pytest.raises(DeadLetters, match="1 document"):
        workspace.upgrade()
    (letters,) = workspace.status()["dead_letters"]
    assert [(it["document_id"], it["chunk"]) for it in letters["documents"]] == [(dead, poisoned)]
    shadow = workspace.status()["shadow"]
    assert dead not in {id for id, _ in held(workspace, shadow["index"])}
    assert (shadow["done"], shadow["failed"], shadow["total"]) == (39, 1, 40)

    workspace.write_corpus([{**it, "text": it["text"].replace("poison", "water")} for it in corpus])
    workspace.upgrade()
    assert sum(id == dead for id, _ in held(workspace)) == len(first) and holds(workspace)


# -- processes die -----------------------------------------------------------------------------

BATCH = 16
POINTS = [
    kill_at("embedmigrate.stores.faiss.writer:FaissWriter.write", "before", 3),
    kill_at("embedmigrate.stores.faiss.writer:FaissWriter.write", "after", 4),
    kill_at("embedmigrate.catalog.runs:finish_batch", "after", 5),
]


@pytest.fixture(scope="module")
def pending(tmp_path_factory: pytest.TempPathFactory) -> Faulty:
    """Whole documents of `fake-a` are live, and a revision that cuts them is pending."""
    root = tmp_path_factory.mktemp("kills") / "template"
    project = Faulty.prepared(root, documents(60), "fake-a", "fake-b", batch_size=BATCH)
    (script,) = (root / "migrations" / "versions").glob("*_move.py")
    text = script.read_text("utf-8")
    stated = 'recipe=Recipe(text=["title", "text"]'
    assert stated in text
    script.write_text(
        text.replace(stated, f'{stated}, chunker={{"size": 8, "overlap": 2}}'), "utf-8"
    )
    return project


def test_a_batch_holds_so_many_chunks_at_most_and_whole_documents(
    pending: Faulty, tmp_path: Path
) -> None:
    project = pending.copy(tmp_path / "project")
    corpus = documents(60)
    corpus[9]["text"] = " ".join([corpus[9]["text"]] * 10)
    project.write_corpus(corpus)
    project.upgrade()
    live = held(project)
    with closing(sqlite3.connect(project.root / "catalog.db")) as catalog:
        batches = catalog.execute(
            'SELECT "after", "until", documents, done FROM embedmigrate_batch WHERE run_id = '
            "(SELECT MAX(id) FROM embedmigrate_run) ORDER BY ordinal"
        ).fetchall()
    chunks = [
        [id for id, _ in live if (after is None or id > after) and (until is None or id <= until)]
        for after, until, _, _ in batches
    ]
    assert sum(map(len, chunks)) == len(live) and sum(it[2] for it in batches) == 60
    assert [len(it) for it in chunks if len(it) > BATCH] == [
        sum(id == corpus[9]["_id"] for id, _ in live)
    ], "but for the one document that has more of them"


@pytest.mark.parametrize("point", POINTS, ids=lambda it: f"{it['when']} {it['at']}")
def test_a_killed_run_is_finished_and_at_most_two_batches_are_paid_again(
    pending: Faulty, tmp_path: Path, point: Any
) -> None:
    undisturbed = pending.copy(tmp_path / "undisturbed")
    undisturbed.upgrade()
    project = pending.copy(tmp_path / "project")
    project.kill("upgrade", at=point)
    project.upgrade()
    assert project.end_state().differences(undisturbed.end_state()) == []
    assert max(project.paid_twice().values(), default=0) <= 2 * BATCH
    assert holds(project)


def test_a_killed_sync_leaves_no_document_half_old_and_half_new(
    library: Library, tmp_path: Path
) -> None:
    library.edit_config("[embedmigrate]", f"[embedmigrate]\nbatch_size = {BATCH}")
    library.sql("UPDATE articles SET text = text || ? WHERE rowid % 2", f" {SENTENCE}")
    library.sql("UPDATE articles SET text = 'short' WHERE NOT rowid % 3")
    before = by_document(held(library))
    after = by_document(wanted(library, recipe()))
    project = Faulty(library.root)
    project.kill(
        "sync", at=kill_at("embedmigrate.stores.faiss.writer:FaissWriter.write", "after", 3)
    )
    now = by_document(held(library))
    assert all(now[id] in (before[id], after[id]) for id in now) and now not in (before, after)
    assert project.end("sync").status == 0
    assert is_up_to_date(library)
    assert max(project.paid_twice().values(), default=0) <= 2 * BATCH


def by_document(rows: Rows) -> dict[str, Rows]:
    documents: dict[str, Rows] = {}
    for (id, chunk), hashes in rows.items():
        documents.setdefault(id, {})[id, chunk] = hashes
    return documents


# -- what does not fit -------------------------------------------------------------------------


def test_chunks_of_more_words_than_the_model_reads_tokens_are_refused(library: Library) -> None:
    job, spec = job_and_spec(library, max_tokens=7)
    with pytest.raises(Refused, match="longer than what short@"):
        refuse_too_long(job, spec)
    refuse_too_long(*job_and_spec(library, max_tokens=8))
    refuse_too_long(*job_and_spec(library, max_tokens=None))


@pytest.mark.parametrize(("tokens", "noted"), [(9, 0), (10, 1)])
def test_chunks_that_reach_the_limit_of_the_model_are_told_of(
    library: Library, tokens: int, noted: int
) -> None:
    class Counting:
        def tokens_of(self, text: str) -> int:
            return tokens

    job, spec = job_and_spec(library, max_tokens=10)
    notes: list[str] = []
    job.reporter.note = notes.append
    with closing(job.open_source(spec.recipe)) as source:
        source.prepare()
        note_cut_off(job, spec, source, Counting())  # type: ignore[arg-type]
    assert len(notes) == noted


def job_and_spec(library: Library, *, max_tokens: int | None) -> tuple[Any, Any]:
    from types import SimpleNamespace

    from embedmigrate.models import IndexSpec
    from embedmigrate.sources.cutting import seen_through

    model = EmbeddingModel(
        name="short",
        artifacts={"weights": "sha256:" + "a" * 64, "tokenizer": "sha256:" + "b" * 64},
        dimensions=8,
        max_tokens=max_tokens,
    )
    spec = IndexSpec(model=model, recipe=recipe(), store_kind="faiss")
    job = SimpleNamespace(
        collection="articles",
        reporter=SimpleNamespace(note=print),
        open_source=lambda it: seen_through(it, library.settings.open_source("articles", it)),
    )
    return job, spec


def test_vectors_of_chunks_are_not_attributed(library: Library) -> None:
    with pytest.raises(Refused, match="not attributed"):
        command.attribute(library.settings, "articles")


def test_the_control_a_write_that_leaves_surplus_chunks_is_noticed(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = FaissWriter._append

    def leaving(self: FaissWriter, rows: Any, vectors: Any, replaced: Any, space: str) -> None:
        at = dict(self._connection.execute("SELECT position, chunk FROM rows").fetchall())
        chunks = {row.chunk for row in rows}
        append(self, rows, vectors, [it for it in replaced if at[it] in chunks], space)

    monkeypatch.setattr(FaissWriter, "_append", leaving)
    edit(library, "doc-000001", "short")
    sync(library)
    assert held(library) != wanted(library, recipe()) and not holds(library)
