"""An index that somebody else made, taken over after proof, and never touched."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from embedmigrate import Collection, command
from embedmigrate.catalog import routes
from embedmigrate.command import adopting
from embedmigrate.embedders.base import Vectors
from embedmigrate.engine.adopt import prove
from embedmigrate.errors import (
    ConfigError,
    DamagedIndex,
    DimensionMismatch,
    DuplicateId,
    Irreversible,
    MetricMismatch,
    NotProven,
    Refused,
    StickyState,
    UnpinnedReference,
)
from tests.adoption_helpers import Legacy, texts
from tests.command_line import run
from tests.stores.store_helpers import brute_force
from tests.workspace import Workspace, wait_for

COUNT = 120
FEW = COUNT // 10
QUESTIONS = ("dna methylation in blood", "obesity and insulin", "kidney filter cells")


@pytest.fixture(scope="module")
def pinned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Legacy, Vectors]:
    """A project without history, and wordllama's vectors of its documents."""
    legacy = Legacy.make(tmp_path_factory.mktemp("pinned") / "project", COUNT)
    return legacy, legacy.embed("wordllama", texts(legacy.corpus))


@pytest.fixture
def both(pinned: tuple[Legacy, Vectors], tmp_path: Path) -> Legacy:
    """Another model of the same dimension is pinned, too."""
    return pinned[0].copy(tmp_path / "project")


@pytest.fixture
def legacy(both: Legacy) -> Legacy:
    """It is not; so nobody waits for it to be asked."""
    for pin in (both.workspace.root / "migrations/models").glob("minilm-256.*"):
        pin.unlink()
    return both


@pytest.fixture
def made(pinned: tuple[Legacy, Vectors]) -> Vectors:
    return pinned[1].copy()


@pytest.fixture
def adopted(legacy: Legacy, made: Vectors) -> Legacy:
    legacy.write(made)
    legacy.adopt()
    return legacy


def catalog(workspace: Workspace, sql: str) -> list[Any]:
    with closing(sqlite3.connect(workspace.root / "catalog.db")) as it:
        return it.execute(sql).fetchall()


def refused(legacy: Legacy, error: type[Refused], **options: Any) -> str:
    """The refusal of an adoption, which leaves nothing behind."""
    before, theirs = legacy.kept(), legacy.foreign_files()
    with pytest.raises(error) as refusal:
        legacy.adopt(**options)
    assert legacy.kept() == before and legacy.foreign_files() == theirs
    if (legacy.workspace.root / "catalog.db").exists():
        assert catalog(legacy.workspace, "SELECT name FROM embedmigrate_index") == []
        assert legacy.workspace.live() is None
    return str(refusal.value)


def edit(legacy: Legacy, numbers: range) -> None:
    """Each of these documents loses the end of its text."""
    for number in numbers:
        text = legacy.corpus[number]["text"]
        legacy.corpus[number]["text"] = text[: len(text) * 2 // 3]
    legacy.workspace.write_corpus(legacy.corpus)


# -- taking over ------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat", "IDMap,Flat", "HNSW16"])
def test_an_adopted_index_is_searched_as_it_always_was(
    legacy: Legacy, made: Vectors, factory: str
) -> None:
    legacy.write(made, factory)
    theirs = legacy.foreign_files()

    entry = legacy.adopt()

    assert (entry["sample"], entry["proven"], entry["stale"], entry["bound"]) == (
        COUNT,
        COUNT,
        0,
        0,
    )
    assert (entry["metric"], entry["orphans"], entry["missing"]) == ("cosine", 0, 0)
    names = [it["_id"] for it in legacy.corpus]
    with Collection.open("articles", legacy.workspace.settings) as articles:
        assert articles.health()["provenance"] == "adopted"
        for question in QUESTIONS:
            found = articles.search(question, 10)
            expected = brute_force(
                legacy.embed("wordllama", [question])[0], names, made, 10, "cosine"
            )
            assert [hit.id for hit in found.hits] == [name for name, _ in expected]
        odd = articles.search(QUESTIONS[0], 5, {"topic": "odd"}).hits
        assert len(odd) == 5 and all(hit.metadata == {"topic": "odd"} for hit in odd)
    assert legacy.foreign_files() == theirs


def test_everything_that_looks_at_a_collection_knows_that_it_is_adopted(adopted: Legacy) -> None:
    settings = adopted.workspace.settings
    live = adopted.workspace.status()["live"]
    assert (live["provenance"], live["documents"], live["generation"]) == ("adopted", COUNT, 1)
    audited = command.audit(settings, "articles")
    (entry,) = audited["collections"]
    assert audited["clean"] and entry["provenance"] == "adopted"
    assert entry["adopted"]["proven"] == COUNT
    assert command.verify(settings, "articles")["holds"]
    assert command.check(settings)["agrees"]
    assert command.plan(settings)["collections"] == []
    assert command.upgrade(settings)["applied"] == []
    assert command.check_policy(settings)["findings"] == []


def test_the_catalog_keeps_how_it_was_proven(adopted: Legacy) -> None:
    ((state, proof),) = catalog(adopted.workspace, "SELECT state, adopted FROM embedmigrate_index")
    kept = json.loads(proof)
    assert state == "adopted"
    assert set(kept) >= {"sample", "proven", "stale", "bound", "confidence", "tolerance", "date"}
    assert set(kept) >= {"actor", "file", "sha256", "orphans", "missing"}
    assert kept["file"] == "theirs/index.faiss"
    ((event,),) = catalog(
        adopted.workspace, "SELECT data FROM embedmigrate_event WHERE kind = 'adopted'"
    )
    assert json.loads(event)["sha256"] == kept["sha256"]
    evidence = catalog(adopted.workspace, "SELECT invariant, holds FROM embedmigrate_evidence")
    assert evidence == [(1, 1), (2, 1), (5, 1), (6, 1)]


def test_the_command_line_says_what_was_proven(legacy: Legacy, made: Vectors) -> None:
    legacy.write(made)
    arguments = ("--index", "theirs/index.faiss", "--ids", "theirs/ids.json")
    answer = run(legacy.workspace.root, "adopt", "articles", "--model", "wordllama-64", *arguments)
    assert answer.code == 3 and "256 dimensions" in answer.err
    answer = run(legacy.workspace.root, "adopt", "articles", "--model", "wordllama", *arguments)
    assert answer.code == 0, answer.err
    assert f"{COUNT} of {COUNT} vectors" in answer.out and "articles-0001" in answer.out
    answer = run(legacy.workspace.root, "status")
    assert "adopted, 120 documents" in answer.out


def test_vectors_that_a_transformer_made_in_batches_of_its_own_are_proven(both: Legacy) -> None:
    some = both.corpus[:40]
    both.workspace.write_corpus(some)
    both.workspace.edit_config('model = "wordllama"', 'model = "minilm-256"')
    together = both.embed("minilm-256", texts(some))
    both.write(together, ids=[it["_id"] for it in some])
    entry = both.adopt("minilm-256")
    assert (entry["proven"], entry["model"].partition("@")[0]) == (40, "minilm-256")


# -- what it refuses --------------------------------------------------------------------------


def test_vectors_of_another_model_refuse_the_index_with_their_ids(
    both: Legacy, made: Vectors
) -> None:
    mixed = range(7, 7 + FEW)
    made[mixed] = both.embed("minilm-256", [texts(both.corpus)[it] for it in mixed])
    both.write(made)
    said = refused(both, NotProven, max_stale=1.0)
    assert f"{FEW} of {COUNT} sampled" in said and f"{FEW} made by minilm-256@" in said
    assert all(repr(both.corpus[number]["_id"]) in said for number in mixed)


def test_vectors_of_no_known_model_are_foreign_too(both: Legacy, made: Vectors) -> None:
    made[3] = made[100]  # of another document
    noise = np.random.default_rng(0).standard_normal(256).astype(np.float32)
    made[4] = noise / np.linalg.norm(noise)
    both.write(made)
    said = refused(both, NotProven, max_stale=1.0)
    assert f"2 of {COUNT} sampled" in said and "made by" not in said
    assert repr(both.corpus[3]["_id"]) in said and repr(both.corpus[4]["_id"]) in said


def test_naming_the_wrong_model_is_refused_with_the_right_one(both: Legacy, made: Vectors) -> None:
    both.write(made[:30], ids=[it["_id"] for it in both.corpus[:30]])
    both.workspace.write_corpus(both.corpus[:30])
    said = refused(both, NotProven, model="minilm-256")
    assert "30 of 30 sampled" in said and "30 made by wordllama@" in said


def test_at_most_twenty_ids_are_named(legacy: Legacy, made: Vectors) -> None:
    made[:30] = made[:30][::-1]
    legacy.write(made)
    said = refused(legacy, NotProven)
    assert "and 10 more" in said


def test_edited_documents_are_stale_and_allowed_up_to_a_limit(
    legacy: Legacy, made: Vectors
) -> None:
    legacy.write(made)
    edit(legacy, range(40, 40 + FEW))

    said = refused(legacy, NotProven, max_stale=0.05)
    assert f"{FEW} of {COUNT} sampled (10.0%)" in said and "--max-stale 0.1" in said
    entry = legacy.adopt(max_stale=0.1)

    assert (entry["proven"], entry["stale"], entry["bound"]) == (COUNT - FEW, FEW, 0.1)
    settings = legacy.workspace.settings
    (audited,) = command.audit(settings, "articles")["collections"]
    assert audited["stale"] == FEW and audited["unknown"] == audited["foreign"] == 0
    assert audited["proof"]["wrong"] == 0 and audited["proof"]["edited_since"] == FEW
    (verified,) = command.verify(settings, "articles")["collections"]
    assert [it["invariant"] for it in verified["invariants"] if not it["holds"]] == [5]
    Collection.open("articles", settings).close()


def test_a_sample_is_as_large_as_what_it_is_to_find(legacy: Legacy, made: Vectors) -> None:
    legacy.write(made)
    entry = legacy.adopt(share=0.05, confidence=0.95)
    assert (entry["sample"], entry["proven"]) == (59, 59)
    assert 0.04 < entry["bound"] <= 0.05


def test_orphans_and_missing_documents_are_counted(legacy: Legacy, made: Vectors) -> None:
    legacy.write(made)
    gone = {it["_id"] for it in legacy.corpus[:5]}
    new = [{"_id": f"new-{it}", "title": "", "text": f"new {it}", "topic": "x"} for it in range(7)]
    legacy.workspace.write_corpus(legacy.corpus[5:] + new)

    entry = legacy.adopt()

    assert (entry["orphans"], entry["missing"], entry["sample"]) == (5, 7, COUNT - 5)
    settings = legacy.workspace.settings
    (verified,) = command.verify(settings, "articles")["collections"]
    assert [it["invariant"] for it in verified["invariants"] if not it["holds"]] == [1, 2]
    with Collection.open("articles", settings) as articles, articles.route() as route:
        hits = route.search_vector(made[0], 1)
    assert hits[0].id in gone and hits[0].metadata == {}


@pytest.mark.parametrize("lost", ["documents", "vectors"])
def test_more_than_a_tenth_without_its_other_half_has_to_be_confirmed(
    legacy: Legacy, made: Vectors, lost: str
) -> None:
    some, names = FEW + 5, [it["_id"] for it in legacy.corpus]
    if lost == "documents":
        legacy.write(made)
        legacy.workspace.write_corpus(legacy.corpus[some:])
    else:
        legacy.write(made[some:], ids=names[some:])
    said = refused(legacy, Refused)
    assert f"{some} of {COUNT}" in said and "--yes" in said
    entry = legacy.adopt(accept_gaps=True)
    assert entry["orphans" if lost == "documents" else "missing"] == some


def test_an_index_of_quite_other_documents_proves_nothing(legacy: Legacy, made: Vectors) -> None:
    legacy.write(made, ids=[f"other-{number}" for number in range(COUNT)])
    said = refused(legacy, Refused, accept_gaps=True)
    assert "proves nothing" in said and "--yes" not in said


def test_an_index_of_another_dimension_or_metric_cannot_be_meant(
    legacy: Legacy, made: Vectors
) -> None:
    legacy.write(made)
    assert "256 dimensions" in refused(legacy, DimensionMismatch, model="wordllama-64")
    legacy.write(made, metric=faiss.METRIC_L2)
    assert 'set metric = "l2"' in refused(legacy, MetricMismatch)
    legacy.write(made * 3)
    assert 'set metric = "inner_product"' in refused(legacy, MetricMismatch)


def test_l2_stays_l2(legacy: Legacy, made: Vectors) -> None:
    legacy.write(made, metric=faiss.METRIC_L2)
    legacy.workspace.edit_config('path = "indexes" }', 'path = "indexes", metric = "l2" }')
    assert legacy.adopt()["metric"] == "l2"
    with Collection.open("articles", legacy.workspace.settings) as articles:
        (hit, *_) = articles.search_vector(made[9], articles_space(legacy), 3).hits
    assert hit.id == legacy.corpus[9]["_id"] and hit.score == 0


def articles_space(legacy: Legacy) -> str:
    fingerprint: str = legacy.workspace.status()["live"]["fingerprint"]
    return fingerprint


def test_vectors_of_other_lengths_are_not_what_the_model_makes(
    legacy: Legacy, made: Vectors
) -> None:
    legacy.write(made * 3)
    legacy.workspace.edit_config(
        'path = "indexes" }', 'path = "indexes", metric = "inner_product" }'
    )
    assert "of other lengths" in refused(legacy, NotProven)


def test_compressed_vectors_cannot_be_proven(legacy: Legacy, made: Vectors) -> None:
    legacy.write(made, "SQ8")
    assert "compressed" in refused(legacy, NotProven)


def test_ids_that_repeat_are_refused(legacy: Legacy, made: Vectors) -> None:
    names = [it["_id"] for it in legacy.corpus]
    legacy.write(made, ids=[names[0], *names[:-1]])
    assert repr(names[0]) in refused(legacy, DuplicateId)


def test_a_model_that_is_not_pinned_adopts_nothing(legacy: Legacy, made: Vectors) -> None:
    legacy.write(made)
    with pytest.raises(ConfigError, match="there is no model"):
        legacy.adopt("nothing")
    for pin in (legacy.workspace.root / "migrations/models").glob("wordllama.*"):
        pin.unlink()
    with pytest.raises(UnpinnedReference):
        legacy.adopt()


def test_a_collection_with_a_history_is_not_adopted_into(legacy: Legacy, made: Vectors) -> None:
    legacy.write(made)
    legacy.workspace.revision("wordllama")
    assert "has revisions already" in refused(legacy, Refused)
    legacy.workspace.upgrade()
    for script in (legacy.workspace.root / "migrations/versions").glob("*.py"):
        script.unlink()
    with pytest.raises(Refused, match="has a history already"):
        legacy.adopt()


def test_it_is_adopted_once(adopted: Legacy) -> None:
    with pytest.raises(Refused, match="has revisions already"):
        adopted.adopt()


# -- all or nothing ---------------------------------------------------------------------------


def test_a_transaction_that_fails_leaves_neither_script_nor_folder(
    legacy: Legacy, made: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    legacy.write(made)

    def fail(*_args: object, **_kwargs: object) -> int:
        raise Refused("the route changed")

    with monkeypatch.context() as broken:
        broken.setattr(routes, "adopt", fail)
        refused(legacy, Refused)
    assert legacy.adopt()["generation"] == 1


def test_what_an_adoption_left_that_was_killed_is_replaced(
    legacy: Legacy, made: Vectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    legacy.write(made)
    folder = legacy.workspace.root / "indexes/articles-0001"

    def killed(*_args: object) -> Path:
        shutil.copytree(folder, tmp_path / "left")
        raise KeyboardInterrupt

    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(adopting, "_write_script", killed)
        legacy.adopt()
    shutil.copytree(tmp_path / "left", folder)
    assert legacy.adopt()["index"] == "articles-0001"


def test_a_file_that_is_replaced_while_it_is_proven_is_not_adopted(
    legacy: Legacy, made: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    legacy.write(made)

    def slow(*args: Any, **kwargs: Any) -> Any:
        proof = prove(*args, **kwargs)
        copy = legacy.index.with_suffix(".new")
        faiss.write_index(faiss.read_index(str(legacy.index)), str(copy))
        content = bytearray(copy.read_bytes())
        content[-5] ^= 1
        copy.write_bytes(content)
        copy.replace(legacy.index)
        return proof

    before = legacy.kept()
    monkeypatch.setattr(adopting, "prove", slow)
    with pytest.raises(DamagedIndex, match="not what was proven"):
        legacy.adopt()
    theirs = "theirs/index.faiss"
    assert {**legacy.kept(), theirs: b""} == {**before, theirs: b""}


# -- its life ---------------------------------------------------------------------------------


def test_elsewhere_the_baseline_builds_the_index_by_embedding(
    legacy: Legacy, made: Vectors, tmp_path: Path
) -> None:
    legacy.write(made, "HNSW16")
    entry = legacy.adopt()
    assert entry["notes"] == [
        "index: configured Flat with cosine, the scripts end at HNSW16 with cosine"
    ]
    for name in ("migrations", "embedmigrate.toml", "corpus.jsonl"):
        source, target = legacy.workspace.root / name, tmp_path / "elsewhere" / name
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
    elsewhere = Workspace(tmp_path / "elsewhere")

    with pytest.raises(Refused, match="would contradict what 'articles' serves"):
        command.stamp(elsewhere.settings, [entry["revision"]])
    (done,) = elsewhere.upgrade()

    assert (done["revision"], done["embedded"], done["live"]) == (entry["revision"], COUNT, True)
    live = elsewhere.status()["live"]
    assert (live["provenance"], live["model"]) == ("built", "wordllama")
    command.stamp(elsewhere.settings, [entry["revision"]])


def test_it_is_left_and_come_back_to_and_never_touched(adopted: Legacy) -> None:
    workspace, theirs = adopted.workspace, adopted.foreign_files()
    side_table = workspace.root / "indexes/articles-0001/rows.sqlite"
    with closing(sqlite3.connect(side_table)) as it:
        before = list(it.iterdump())
    with Collection.open("articles", workspace.settings) as articles:
        first = articles.search("insulin resistance", 5)
        workspace.revision("wordllama-64", "shorter vectors")
        workspace.upgrade()
        wait_for(
            lambda: articles.search("insulin resistance", 5).model, lambda it: it == "wordllama-64"
        )
        workspace.let_grace_pass()
        assert command.contract(workspace.settings)["collections"][0]["dropped"] == []
        (kept,) = workspace.status()["retained"]
        assert (kept["index"], kept["provenance"]) == ("articles-0001", "adopted")

        command.rollback(workspace.settings, "articles", reason="worse")
        back = wait_for(
            lambda: articles.search("insulin resistance", 5), lambda it: it.generation == 3
        )
    assert (back.hits, back.index, back.generation) == (first.hits, "articles-0001", 3)
    workspace.let_grace_pass()
    (dropped,) = command.contract(workspace.settings)["collections"]
    assert dropped["dropped"] == ["articles-0002"]
    assert catalog(workspace, "SELECT name, state FROM embedmigrate_index ORDER BY name") == [
        ("articles-0001", "adopted"),
        ("articles-0002", "dropped"),
    ]
    assert command.verify(workspace.settings)["holds"]
    assert adopted.foreign_files() == theirs
    with closing(sqlite3.connect(side_table)) as it:
        assert list(it.iterdump()) == before


def test_the_adopted_end_of_a_transition_is_one_until_its_grace_is_over(adopted: Legacy) -> None:
    workspace = adopted.workspace
    workspace.revision("wordllama-64", "shorter vectors")
    workspace.upgrade()
    accepted = workspace.settings.collections["articles"].also_accept
    workspace.edit_config(f"also_accept = {json.dumps(accepted)}", "also_accept = []")
    Collection.open("articles", workspace.settings).close()
    workspace.let_grace_pass()
    with pytest.raises(DimensionMismatch):
        Collection.open("articles", workspace.settings)
    command.rollback(workspace.settings, "articles", reason="worse")
    Collection.open("articles", workspace.settings).close()


def test_going_back_says_what_would_be_stale_and_wants_to_be_told(adopted: Legacy) -> None:
    workspace = adopted.workspace
    workspace.revision("wordllama-64", "shorter vectors")
    workspace.upgrade()
    edit(adopted, range(3))
    del adopted.corpus[10:14]
    adopted.corpus[20]["topic"] = "changed"
    new = {"_id": "new", "title": "", "text": "a new document", "topic": "new"}
    workspace.write_corpus([*adopted.corpus, new])

    with pytest.raises(Irreversible) as refusal:
        command.rollback(workspace.settings, "articles")
    said = str(refusal.value)
    assert "3 documents stale, 1 missing, 4 deleted ones still found, 1 with old metadata" in said
    assert "--now" in said and workspace.live() == "wordllama-64"

    command.rollback(workspace.settings, "articles", now=True, reason="an incident")
    assert workspace.live() == "wordllama"
    assert workspace.status()["live"]["documents"] == COUNT, "nothing was written to it"
    assert command.upgrade(workspace.settings, ["articles@head"], again="better now")
    assert workspace.live() == "wordllama-64"


def test_gaps_that_were_there_when_it_was_adopted_do_not_keep_anybody_from_going_back(
    legacy: Legacy, made: Vectors
) -> None:
    legacy.write(made)
    edit(legacy, range(40, 44))
    del legacy.corpus[:3]
    legacy.workspace.write_corpus(legacy.corpus)
    legacy.adopt(max_stale=0.1)
    legacy.workspace.revision("wordllama-64")
    legacy.workspace.upgrade()
    command.rollback(legacy.workspace.settings, "articles")
    assert legacy.workspace.live() == "wordllama"
    # the same numbers, and yet another text
    command.upgrade(legacy.workspace.settings, again="once more")
    legacy.corpus[40]["text"] = "quite another text than before"
    legacy.workspace.write_corpus(legacy.corpus)
    with pytest.raises(Irreversible):
        command.rollback(legacy.workspace.settings, "articles")


def test_undoing_the_adoption_itself_leaves_nothing_live_and_everything_there(
    adopted: Legacy,
) -> None:
    workspace, theirs = adopted.workspace, adopted.foreign_files()
    command.rollback(workspace.settings, "articles", reason="a mistake")
    assert workspace.live() is None and adopted.foreign_files() == theirs
    with pytest.raises(StickyState):
        workspace.upgrade()
    workspace.upgrade(again="build it ourselves")
    live = workspace.status()["live"]
    assert (live["index"], live["provenance"]) == ("articles-0002", "built")


def test_a_file_that_its_owner_changes_is_not_served_any_more(adopted: Legacy) -> None:
    workspace = adopted.workspace
    with Collection.open("articles", workspace.settings) as articles:
        assert articles.health()["ok"]
        content = bytearray(adopted.index.read_bytes())
        content[-5] ^= 1
        adopted.index.with_suffix(".new").write_bytes(content)
        adopted.index.with_suffix(".new").replace(adopted.index)
        assert not articles.health()["ok"]
        with pytest.raises(DamagedIndex, match="not what was proven"):
            articles.search("anything")
    with pytest.raises(DamagedIndex):
        Collection.open("articles", workspace.settings)
    with pytest.raises(DamagedIndex):
        command.audit(workspace.settings, "articles")


def test_a_catalog_that_was_lost_knows_it_as_adopted_again(adopted: Legacy) -> None:
    """How it was proven is lost; that somebody else made it is not, and nobody writes to it."""
    workspace = adopted.workspace
    before = adopted.index.read_bytes()
    for file in workspace.root.glob("catalog.db*"):
        file.unlink()
    (entry,) = command.rebuild_catalog(workspace.settings, yes=True)["collections"]
    assert [it["state"] for it in entry["indexes"]] == ["adopted"]
    assert workspace.status()["live"]["provenance"] == "adopted"
    command.sync(workspace.settings)
    workspace.revision("wordllama-64")
    workspace.upgrade()
    with pytest.raises(Irreversible, match="has changed since") as refused:
        command.rollback(workspace.settings, "articles")
    assert "lost with the catalog" in str(refused.value)
    command.rollback(workspace.settings, "articles", now=True)
    assert workspace.live() == "wordllama" and adopted.index.read_bytes() == before
