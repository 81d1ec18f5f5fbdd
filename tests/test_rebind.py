"""Rebind: another model of the same space is asked about the vectors that are live.

`equal` is the table of `wordllama` in another file: other digests, the same vectors. `rounded` is
that table rounded to bfloat16, the smallest change of a model that anybody makes.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file, save_file

from embedmigrate import Collection, command, resolve, text
from embedmigrate.catalog import Catalog, indexes, schema, spaces
from embedmigrate.catalog.records import IndexRecord, IndexState
from embedmigrate.command.project import Project
from embedmigrate.embedders.files import package_folder
from embedmigrate.engine import settle
from embedmigrate.engine.guard import Guard
from embedmigrate.engine.job import StopSignal
from embedmigrate.engine.proof import (
    EQUAL_DISTANCE,
    CanaryProof,
    SampleProof,
    prove_on_canaries,
    prove_on_sample,
)
from embedmigrate.errors import (
    Fork,
    IndexGone,
    ModelMismatch,
    NotProven,
    ScriptError,
    SourceMismatch,
    StickyState,
    UsageError,
)
from embedmigrate.models import EmbeddingModel, Recipe
from embedmigrate.models.pin_file import read_pins
from embedmigrate.models.witness import Witness
from embedmigrate.sources.base import Source
from embedmigrate.stores.base import IndexReader, Row
from tests.faults.project import Faulty, kill_at
from tests.workspace import GENERAL, Workspace, documents, wait_for

DOCUMENTS, SAMPLE = 24, 16
QUERY = "a night with a telescope"
PROMPT = "which notes are about: "

MODELS = """
[models.equal]
provider = "static"
weights = { path = "EQUAL" }
tokenizer = { package = "wordllama", path = "TOKENIZER" }
normalize = true

[models.rounded]
provider = "static"
weights = { path = "ROUNDED" }
tokenizer = { package = "wordllama", path = "TOKENIZER" }
normalize = true
""".replace("TOKENIZER", "tokenizers/l2_supercat_tokenizer_config.json")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Faulty:
    """`wordllama` is live; nothing is pending. To be copied, not to be touched."""
    folder = tmp_path_factory.mktemp("rebind")
    weights = package_folder("wordllama") / "weights" / "l2_supercat_256.safetensors"
    table = load_file(weights)["embedding.weight"].astype(np.float32)
    save_file({"table": table}, folder / "equal.safetensors")
    save_file({"table": as_bfloat16(table)}, folder / "rounded.safetensors")
    models = MODELS.replace("EQUAL", str(folder / "equal.safetensors"))
    models = models.replace("ROUNDED", str(folder / "rounded.safetensors"))
    made = Workspace.make(
        folder / "template",
        corpus=documents(DOCUMENTS),
        general=GENERAL + f"proof_sample = {SAMPLE}\n" + models,
        pin=("wordllama", "equal", "rounded"),
    )
    project = Faulty(made.root)
    project.revision("wordllama", "first index")
    project.upgrade()
    return project


def as_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    bits = values.view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return (rounded & np.uint32(0xFFFF0000)).view(np.float32)


@pytest.fixture
def project(template: Faulty, tmp_path: Path) -> Faulty:
    return template.copy(tmp_path / "project")


@pytest.fixture
def prompted(project: Faulty) -> Faulty:
    """The same, with a revision to another query prompt pending."""
    ask_with_prompt(project, "wordllama")
    return project


@pytest.fixture
def moving(project: Faulty) -> Faulty:
    """The same, with a revision to the equal model pending."""
    project.edit_config('model = "wordllama"', 'model = "equal"')
    rebind(project, "equal")
    return project


def ask_with_prompt(project: Workspace, model: str) -> None:
    declared = f"[models.{model}]"
    project.edit_config(declared, f"{declared}\nquery_prompt = {json.dumps(PROMPT)}")
    command.pin(project.to_pin, model)
    project.revision(model, "ask with a prompt")


def rebind(project: Workspace, to: str, **options: Any) -> Path:
    return command.revision(
        project.settings, "rebind", collection="articles", to=to, rebind=True, **options
    )


def fingerprint(project: Workspace, model: str) -> str:
    return resolve.pinned(project.settings, model).fingerprint


def containers(project: Workspace) -> list[str]:
    return sorted(path.name for path in (project.root / "indexes").iterdir())


def stamps(project: Workspace, container: str = "articles-0001") -> dict[str, int]:
    """Vectors by fingerprint, read from the store."""
    with closing(project.settings.open_store("articles").reader(container)) as reader:
        return {stamp.fingerprint: stamp.vectors for stamp in reader.stamps()}


def catalog_rows(project: Workspace, table: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(project.root / "catalog.db")) as catalog:
        catalog.row_factory = sqlite3.Row
        rows = catalog.execute(f"SELECT * FROM embedmigrate_{table} ORDER BY 1").fetchall()
    return [dict(row) for row in rows]


def evidence(project: Workspace, index: str) -> dict[int, dict[str, Any]]:
    return {
        row["invariant"]: json.loads(row["measured"])
        for row in catalog_rows(project, "evidence")
        if row["index_name"] == index
    }


def change_one_document(project: Workspace) -> str:
    corpus = documents(DOCUMENTS)
    corpus[0]["text"] = "Submarines dive silently below the arctic ice."
    project.write_corpus(corpus)
    return corpus[0]["_id"]


# -- another query side -----------------------------------------------------------------------


@pytest.mark.parametrize("model", ["wordllama", pytest.param("minilm", marks=pytest.mark.slow)])
def test_another_query_prompt_moves_no_vector(model: str, tmp_path: Path) -> None:
    project = Faulty(Workspace.make(tmp_path / "p", corpus=documents(8), pin=(model,)).root)
    project.edit_config('model = "wordllama"', f'model = "{model}"')
    project.revision(model, "first index")
    project.upgrade()
    files = {name: data for name, data in project.snapshot().items() if name.endswith(".f32")}
    asked = len(project.asked())
    ask_with_prompt(project, model)

    (entry,) = project.upgrade()

    assert entry["live"] and entry["container"] == "articles-0001"
    assert (entry["total"], entry["done"], entry["embedded"]) == (0, 0, 0)
    assert [len(texts) for _, _, texts in project.asked()[asked:]] == [8], "the sample alone"
    now = {name: data for name, data in project.snapshot().items() if name.endswith(".f32")}
    assert files and now == files
    assert command.check(project.settings)["agrees"]
    assert command.verify(project.settings)["holds"]
    with Collection.open("articles", project.settings) as articles, articles.route() as route:
        assert route.model.query_prompt == PROMPT
        plain = route._embedder.embed_documents([PROMPT + QUERY])[0]
        assert np.array_equal(route.embed_query(QUERY), plain)
        assert route.search_vector(plain)[0].metadata == {"topic": "astronomy"}


def test_a_revision_of_the_query_side_alone_is_written_as_a_rebind(prompted: Faulty) -> None:
    script = command.show(prompted.settings, "articles@head").split("Path: ")[1].split("\n")[0]
    text = Path(script).read_text("utf-8")

    assert "op.rebind(" in text and "op.reembed" not in text and "Recipe" not in text
    assert f'query_prompt="{PROMPT}"' in text
    (planned,) = command.plan(prompted.settings)["collections"]
    assert (planned["rebind"], planned["documents"], planned["vector_bytes"]) == (True, 0, 0)


def test_a_reader_asks_each_generation_with_its_own_query_side(prompted: Faulty) -> None:
    seen: set[tuple[int, str, str]] = set()
    over = threading.Event()
    prompts = {"articles-0001": "", "articles-0002": PROMPT}

    def read(articles: Collection) -> None:
        while not over.is_set():
            with articles.route() as route:
                seen.add((route.generation, route.index, route.model.query_prompt))
                asked = route._embedder.embed_documents([prompts[route.index] + QUERY])[0]
                if not np.array_equal(route.embed_query(QUERY), asked):
                    seen.add((route.generation, route.index, "another query vector"))

    command.upgrade(prompted.settings, until_ready=True)
    with Collection.open("articles", prompted.settings) as articles:
        reader = threading.Thread(target=read, args=(articles,))
        reader.start()
        wait_for(lambda: len(seen), bool)
        command.cutover(prompted.settings)
        wait_for(lambda: max(it[0] for it in set(seen)), lambda generation: generation == 2)
        command.rollback(prompted.settings, "articles")
        wait_for(lambda: max(it[0] for it in set(seen)), lambda generation: generation == 3)
        over.set()
        reader.join()

    assert seen == {
        (1, "articles-0001", ""),
        (2, "articles-0002", PROMPT),
        (3, "articles-0001", ""),
    }


def test_a_transition_between_two_query_sides_names_what_differs(
    prompted: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    command.upgrade(prompted.settings, until_ready=True)
    (planned,) = command.plan(prompted.settings)["collections"]
    assert planned["source"] == planned["target"] and planned["query_prompt"] == PROMPT
    assert f"with the query prompt {PROMPT!r}" in text.planned({"collections": [planned]})
    Collection.open("articles", prompted.settings).close()
    assert f"with the query prompt ''; {PROMPT!r} is what is configured" in caplog.text


def test_a_second_query_side_has_a_pin_file_of_its_own(prompted: Faulty) -> None:
    pins = read_pins(prompted.settings.pins, "wordllama")

    assert [pin.model.query_prompt for pin in pins] == ["", PROMPT]
    assert len({pin.model.fingerprint for pin in pins}) == 1
    assert not command.pin(prompted.to_pin, "wordllama")["changed"]
    prompted.edit_config(f"\nquery_prompt = {json.dumps(PROMPT)}", "")
    assert resolve.pinned(prompted.settings, "wordllama").query_prompt == ""


def test_a_rollback_embeds_what_changed_with_the_witness_of_the_old_query_side(
    prompted: Faulty,
) -> None:
    prompted.upgrade()
    changed = change_one_document(prompted)

    command.rollback(prompted.settings, "articles")

    assert prompted.status()["live"]["index"] == "articles-0001"
    with Collection.open("articles", prompted.settings) as articles, articles.route() as route:
        assert route.model.query_prompt == ""
        assert articles.search("submarine under ice", k=1).hits[0].id == changed


def test_the_old_query_side_is_checked_on_its_documents_when_its_pin_file_is_gone(
    prompted: Faulty,
) -> None:
    prompted.upgrade()
    for path in prompted.settings.pins.glob("wordllama.*.json"):
        if "-" not in path.stem.partition(".")[2]:
            path.unlink()
    change_one_document(prompted)

    command.rollback(prompted.settings, "articles")

    assert prompted.status()["live"]["index"] == "articles-0001"


# -- equal vectors under other digests --------------------------------------------------------


def test_the_same_weights_in_another_file_are_rebound_and_the_spaces_joined(
    moving: Faulty,
) -> None:
    asked = moving.texts_asked()

    (entry,) = moving.upgrade()

    assert moving.live() == "equal" and entry["container"] == "articles-0001"
    assert containers(moving) == ["articles-0001"]
    assert moving.texts_asked() - asked == SAMPLE
    first, second = (fingerprint(moving, name) for name in ("wordllama", "equal"))
    assert first != second
    (proof,) = catalog_rows(moving, "proof")
    assert (proof["first"], proof["second"]) == (first, second)
    found = evidence(moving, "articles-0002")
    assert found[4]["bound"] == EQUAL_DISTANCE >= found[4]["documents"]
    assert found[4]["queries"] == found[4]["documents"], "the query side is compared as well"
    assert (found[6]["compared"], found[6]["skipped"]) == (SAMPLE, 0)
    assert found[6]["largest"] <= found[6]["bound"] == EQUAL_DISTANCE
    assert stamps(moving) == {first: DOCUMENTS}, "no stamp was rewritten"


def test_what_changes_after_it_is_stamped_by_the_new_model_in_the_old_container(
    moving: Faulty,
) -> None:
    moving.upgrade(until_ready=True)
    changed = change_one_document(moving)

    command.cutover(moving.settings)

    first, second = (fingerprint(moving, name) for name in ("wordllama", "equal"))
    assert stamps(moving) == {first: DOCUMENTS - 1, second: 1}
    with Collection.open("articles", moving.settings) as articles:
        assert articles.search("submarine under ice", k=1).hits[0].id == changed
    (found,) = command.verify(moving.settings)["collections"]
    assert found["holds"] and found["index"] == "articles-0002"
    (kept,) = command.verify(moving.settings, "articles", index="articles-0001")["collections"]
    assert kept["holds"], "the index that was left accepts both stamps, too"
    positions = {row["position"] for row in catalog_rows(moving, "index")}
    assert positions == {1}, "what is in the container is in both"


def test_without_the_proof_the_same_stamps_are_two_spaces(moving: Faulty) -> None:
    moving.upgrade(until_ready=True)
    change_one_document(moving)
    command.cutover(moving.settings)
    with closing(sqlite3.connect(moving.root / "catalog.db")) as catalog, catalog:
        catalog.execute("DELETE FROM embedmigrate_proof")

    with pytest.raises(ModelMismatch, match="does not hold what the catalog says"):
        Collection.open("articles", moving.settings)
    (found,) = command.verify(moving.settings)["collections"]
    assert [it["invariant"] for it in found["invariants"] if not it["holds"]] == [4]
    with (
        Project(moving.settings) as opened,
        opened.locked(["articles"]) as leases,
        pytest.raises(ModelMismatch),
    ):
        settle.catch_up(opened.job("articles"), leases["articles"], "articles-0002")


def test_a_vector_of_either_model_may_be_searched_with(moving: Faulty) -> None:
    settings = moving.settings
    first, second = (resolve.pinned(settings, name) for name in ("wordllama", "equal"))
    with closing(resolve.load_embedder(settings, first)) as embedder:
        vector = embedder.embed_queries([QUERY])[0]
    with Collection.open("articles", settings) as articles:
        with pytest.raises(ModelMismatch):
            articles.search_vector(vector, space=second.reference)

        moving.upgrade()

        wait_for(lambda: articles.search(QUERY).generation, lambda generation: generation == 2)
        answers = [articles.search_vector(vector, it.reference).hits for it in (first, second)]
        assert answers[0] == answers[1] != []
        with pytest.raises(ModelMismatch):
            articles.search_vector(vector, space=fingerprint(moving, "rounded"))


def test_a_second_upgrade_does_nothing_and_writes_nothing(moving: Faulty) -> None:
    moving.upgrade()
    before, asked = moving.snapshot(), moving.texts_asked()

    assert moving.upgrade() == []

    assert moving.snapshot() == before
    assert moving.texts_asked() == asked


# -- what is not proven -----------------------------------------------------------------------


def test_a_model_that_is_a_little_different_is_refused_and_nothing_is_changed(
    project: Faulty,
) -> None:
    rebind(project, "rounded")
    before = {name: catalog_rows(project, name) for name in ("index", "run", "proof", "route")}
    files = [path for path in project.snapshot() if path.startswith("indexes")]
    stored = {path: project.snapshot()[path] for path in files}
    asked = project.texts_asked()

    with pytest.raises(NotProven, match=r"rounded@.* is not shown to span") as refusal:
        project.upgrade()

    assert refusal.value.exit_code == 3
    assert "of 48 documents differ" in str(refusal.value.found)
    assert "1e-07" in str(refusal.value.expected)
    assert "--no-rebind" in str(refusal.value.next_step)
    assert {name: catalog_rows(project, name) for name in before} == before
    assert {path: project.snapshot()[path] for path in files} == stored
    assert project.texts_asked() == asked, "no document was embedded for it"
    assert project.live() == "wordllama"


def test_vectors_that_are_not_what_their_stamps_say_are_refused_by_name(
    moving: Faulty,
) -> None:
    settings, ids = moving.settings, [document["_id"] for document in documents(DOCUMENTS)]
    live = resolve.pinned(settings, "wordllama")
    other = EmbeddingModel.model_validate(
        live.model_dump(exclude={"fingerprint"}) | {"document_prompt": "passage: "}
    )
    config, cls = settings.model("wordllama"), settings.embedder_class("wordllama")
    with (
        closing(cls.load(config, other, moving.root)) as embedder,
        closing(settings.open_source("articles", settings.collection("articles").recipe)) as source,
        closing(settings.open_store("articles").writer("articles-0001", epoch=99, run="x")) as it,
    ):
        source.prepare()
        foreign = list(source.get(ids[: DOCUMENTS // 2]).values())
        rows = [Row(d.id, 0, 1, d.content_hash, d.metadata_hash, d.metadata) for d in foreign]
        it.write(rows, embedder.embed_documents([d.text for d in foreign]), space=live.fingerprint)

    with pytest.raises(NotProven, match=r"are not what equal@.* makes") as refusal:
        moving.upgrade()

    found = str(refusal.value.found)
    assert f"of {SAMPLE} differ by more than 1e-07" in found
    assert any(repr(document.id) in found for document in foreign)
    assert not any(document.text in str(refusal.value) for document in foreign)
    assert moving.live() == "wordllama"


def test_texts_that_changed_since_are_skipped_and_counted(moving: Faulty) -> None:
    corpus = documents(DOCUMENTS)
    for document in corpus[:14]:
        document["text"] = f"Rewritten. {document['text']}"
    moving.write_corpus(corpus)

    moving.upgrade(until_ready=True)

    sample = evidence(moving, "articles-0002")[6]
    assert (sample["compared"], sample["skipped"]) == (DOCUMENTS - 14, 14)


def test_an_index_of_which_every_text_has_changed_is_not_proven(moving: Faulty) -> None:
    corpus = documents(DOCUMENTS)
    for document in corpus:
        document["text"] = f"Rewritten. {document['text']}"
    moving.write_corpus(corpus)

    with pytest.raises(NotProven, match="no text of articles-0001"):
        moving.upgrade()


def test_a_model_of_which_nothing_was_recorded_is_not_proven(moving: Faulty) -> None:
    for path in moving.settings.pins.glob("wordllama.*.json"):
        content = json.loads(path.read_text("utf-8"))
        content["witness"]["records"] = []
        path.write_text(json.dumps(content), "utf-8")
    with closing(sqlite3.connect(moving.root / "catalog.db")) as catalog, catalog:
        catalog.execute("DELETE FROM embedmigrate_witness")

    with pytest.raises(NotProven, match="nothing was recorded") as refusal:
        moving.upgrade()

    assert "embedmigrate drift wordllama" in str(refusal.value.next_step)


def test_a_model_of_another_length_is_not_proven(project: Faulty) -> None:
    command.pin(project.to_pin, "wordllama-64")
    script = rebind(project, "equal")
    write_target(script, "equal", resolve.pinned(project.settings, "wordllama-64"))

    with pytest.raises(NotProven, match="is not shown to span") as refusal:
        project.upgrade()

    assert refusal.value.found == "64 dimensions"


def write_target(script: Path, constant: str, model: EmbeddingModel) -> None:
    """Replace the model that a script spells out, as a person might."""
    text = script.read_text("utf-8")
    start = text.index(f"{constant.upper()} = EmbeddingModel(")
    end = text.index("\n)\n", start) + 3
    spelt = f"{constant.upper()} = EmbeddingModel(**{model.model_dump(mode='json')!r})\n"
    script.write_text(text[:start] + spelt + text[end:], "utf-8")


# -- the bounds -------------------------------------------------------------------------------


class Open:
    """The parts that a proof needs, of a project whose first index is live."""

    def __init__(self, project: Workspace, target: str) -> None:
        settings = project.settings
        with Catalog(settings.catalog_url, create=False) as catalog, catalog.read() as connection:
            self.index: IndexRecord = indexes.get(connection, "articles-0001")
        self.pin = resolve.pin_of(settings, "wordllama")
        model = resolve.pin_of(settings, target)
        self.embedder = resolve.load_embedder(settings, model.model)
        self.guard = Guard(self.embedder, model.witness, lambda _: None, lambda _: None)
        self.guard.open()
        self.reader: IndexReader = settings.open_store("articles").reader("articles-0001")
        recipe = Recipe(text=("title", "text"))
        self.source: Source = settings.open_source("articles", recipe)
        self.source.prepare()

    def canaries(self, **changes: Any) -> CanaryProof:
        """The proof on the canaries, if the record of the live model had said something else."""
        (record,) = self.pin.witness.records
        platform = {key: changes.pop(key) for key in ("processor",) if key in changes}
        record = replace(record, behaviour=replace(record.behaviour, **changes), **platform)
        return prove_on_canaries(self.pin.model, Witness((record,)), self.guard)

    def sample(self, canaries: CanaryProof, **spec: Any) -> SampleProof:
        index = self.index
        changed = index.spec.model_copy(update=spec)
        index = replace(index, spec_json=changed.model_dump(mode="json"))
        return prove_on_sample(
            index, self.reader, self.source, self.guard, canaries, SAMPLE, StopSignal()
        )

    def close(self) -> None:
        for part in (self.reader, self.source, self.embedder):
            part.close()


@pytest.fixture
def equal(project: Faulty) -> Iterator[Open]:
    made = Open(project, "equal")
    yield made
    made.close()


@pytest.fixture
def itself(project: Faulty) -> Iterator[Open]:
    made = Open(project, "wordllama")
    yield made
    made.close()


def test_noise_widens_the_bound_until_a_change_could_hide_in_it(equal: Open) -> None:
    assert equal.canaries(noise=5e-7).bound == pytest.approx(5e-6)
    with pytest.raises(NotProven, match="is not shown to span") as refusal:
        equal.canaries(noise=2e-6)
    assert "differ from themselves: by 2e-06" in str(refusal.value.found)


def test_another_processor_excuses_nothing_when_the_digests_differ(
    equal: Open, itself: Open
) -> None:
    (record,) = equal.pin.witness.records
    rng = np.random.default_rng(1)
    shape = record.behaviour.documents.shape
    moved = record.behaviour.documents + rng.normal(0, 2e-3, shape).astype(np.float32)
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)

    assert itself.canaries(documents=moved, processor="another").documents > 1e-4
    for opened, elsewhere in ((itself, {}), (equal, {}), (equal, {"processor": "another"})):
        with pytest.raises(NotProven) as refusal:
            opened.canaries(documents=moved, **elsewhere)
        assert "documents differ" in str(refusal.value.found)


def test_lost_normalisation_is_told_by_the_norm(equal: Open) -> None:
    (record,) = equal.pin.witness.records

    with pytest.raises(NotProven) as refusal:
        equal.canaries(documents=2 * record.behaviour.documents)

    assert "norms of documents differ" in str(refusal.value.found)


def test_batches_widen_the_bound_of_the_sample_alone(equal: Open) -> None:
    canaries = equal.canaries(batch_noise=1e-3)

    assert canaries.bound == EQUAL_DISTANCE
    assert equal.sample(canaries).bound == pytest.approx(1e-2)
    noisier = replace(canaries, batch_noise=1.0)
    assert equal.sample(noisier).bound == 0.05, "further apart, it may be another text's vector"


def test_lengths_count_where_the_metric_sees_them(equal: Open) -> None:
    canaries = equal.canaries()
    vectors = equal.reader.vectors
    equal.reader.vectors = lambda keys: vectors(keys) * np.float32(2)  # type: ignore[method-assign]

    assert equal.sample(canaries).largest <= EQUAL_DISTANCE
    with pytest.raises(NotProven, match="are not what"):
        equal.sample(canaries, metric="inner_product")


def test_the_sample_says_which_mix_it_would_have_found(equal: Open) -> None:
    proof = asdict(equal.sample(equal.canaries()))

    assert proof["vectors"] == DOCUMENTS
    assert 1 - (1 - proof["finds"]) ** SAMPLE == pytest.approx(0.99)


def test_equal_spaces_are_found_through_any_chain_of_proofs(tmp_path: Path) -> None:
    a, b, c, d, other = (letter * 32 for letter in "abcde")
    with Catalog(f"sqlite:///{tmp_path}/catalog.db") as catalog:
        with catalog.write() as connection:
            for first, second in ((a, b), (c, b), (c, d), (a, d)):
                spaces.join(connection, first, second, {})
            spaces.join(connection, other, other, {})
        with catalog.read() as connection:
            for one in (a, b, c, d):
                assert spaces.equal_to(connection, one) == {a, b, c, d}
            assert spaces.equal_to(connection, other) == {other}
            joined = catalog_pairs(connection)
    assert joined == [(a, b), (c, b), (c, d)], "what follows already is not recorded again"


def catalog_pairs(connection: Any) -> list[tuple[str, str]]:
    return [(row.first, row.second) for row in connection.execute(schema.proof.select())]


# -- stopped, repeated, undone ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "samples"),
    [
        (kill_at("embedmigrate.engine.rebind:prove_on_sample", "after"), 2),
        (kill_at("embedmigrate.engine.rebind:_make_ready", "after"), 1),
        (kill_at("embedmigrate.catalog.routes:cut_over", "after"), 1),
        (kill_at("embedmigrate.command.forward:_walk", "after"), 1),
        (kill_at("embedmigrate.catalog.routes:note_settled", "after"), 1),
    ],
    ids=lambda value: value["at"].rpartition(":")[2] if isinstance(value, dict) else "",
)
def test_a_rebind_that_is_killed_is_finished_by_the_same_command(
    moving: Faulty, point: Any, samples: int
) -> None:
    asked = moving.texts_asked()

    moving.kill("upgrade", at=point)
    moving.upgrade()

    assert moving.live() == "equal" and command.check(moving.settings)["agrees"]
    assert moving.texts_asked() - asked == samples * SAMPLE
    assert [row["name"] for row in catalog_rows(moving, "index")] == [
        "articles-0001",
        "articles-0002",
    ]
    assert len(catalog_rows(moving, "proof")) == 1
    assert command.verify(moving.settings)["holds"]
    assert moving.upgrade() == []


def test_until_ready_offers_the_candidate_and_cutover_embeds_nothing(moving: Faulty) -> None:
    moving.upgrade(until_ready=True)
    status, asked = moving.status(), moving.texts_asked()
    assert (status["live"]["model"], status["shadow"]["state"]) == ("wordllama", "ready")
    assert status["shadow"]["container"] == "articles-0001"
    with Catalog(moving.settings.catalog_url) as catalog, catalog.read() as connection:
        assert indexes.get(connection, "articles-0002").state is IndexState.READY

    command.cutover(moving.settings)

    assert moving.live() == "equal" and moving.texts_asked() == asked


def test_a_rollback_moves_the_route_alone_and_holds_until_somebody_asks_again(
    moving: Faulty,
) -> None:
    revision = moving.upgrade()[0]["revision"]
    asked = moving.texts_asked()

    command.rollback(moving.settings, "articles", reason="slower there")

    assert (moving.live(), moving.texts_asked()) == ("wordllama", asked)
    with pytest.raises(StickyState, match="rolled back"):
        moving.upgrade()
    (entry,) = moving.upgrade(revision, again="faster now")
    assert entry["index"] == "articles-0002", "the same index is used again"
    assert moving.live() == "equal" and moving.status()["live"]["generation"] == 4


def test_a_rebind_back_takes_the_index_that_was_left(moving: Faulty) -> None:
    moving.upgrade()
    rebind(moving, "wordllama")

    (entry,) = moving.upgrade()

    assert entry["index"] == "articles-0001"
    assert len(catalog_rows(moving, "proof")) == 1, "it was proven already"


def test_contract_drops_a_container_with_the_last_index_that_uses_it(moving: Faulty) -> None:
    moving.upgrade()
    moving.let_grace_pass()

    (entry,) = command.contract(moving.settings)["collections"]

    assert entry["dropped"] == ["articles-0001"]
    assert containers(moving) == ["articles-0001"], "the live index uses it"
    change_one_document(moving)
    command.pin(moving.to_pin, "wordllama-64")
    moving.revision("wordllama-64")
    moving.upgrade()
    (kept,) = command.verify(moving.settings, "articles", index="articles-0002")["collections"]
    assert [it["invariant"] for it in kept["invariants"] if not it["holds"]] == [5], "one edit"
    moving.let_grace_pass()
    (entry,) = command.contract(moving.settings)["collections"]
    assert entry["dropped"] == ["articles-0002"]
    assert containers(moving) == ["articles-0003"]


def test_a_container_in_use_survives_a_drop_that_was_cut_short(moving: Faulty) -> None:
    moving.upgrade()
    moving.let_grace_pass()
    moving.kill("contract", at=kill_at("embedmigrate.catalog.indexes:move", "after"))
    command.contract(moving.settings)

    with Collection.open("articles", moving.settings) as articles:
        assert articles.search(QUERY, k=1).hits[0].metadata == {"topic": "astronomy"}


def test_a_container_that_somebody_else_made_is_neither_written_nor_dropped(
    moving: Faulty,
) -> None:
    with closing(sqlite3.connect(moving.root / "catalog.db")) as catalog, catalog:
        catalog.execute("""UPDATE embedmigrate_index SET adopted = '{"vectors": 24}'""")
    change_one_document(moving)
    folder = moving.root / "indexes" / "articles-0001"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    moving.upgrade()

    assert moving.live() == "equal"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    command.pin(moving.to_pin, "wordllama-64")
    moving.revision("wordllama-64")
    moving.upgrade()
    moving.let_grace_pass()
    command.contract(moving.settings)
    assert [row["state"] for row in catalog_rows(moving, "index")] == ["dropped", "dropped", "live"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_index_that_was_rebound_is_used_again_by_a_later_re_embedding(moving: Faulty) -> None:
    moving.upgrade()
    command.pin(moving.to_pin, "wordllama-64")
    moving.revision("wordllama-64", "away")
    moving.upgrade()
    moving.revision("equal", "and back")
    change_one_document(moving)

    (entry,) = moving.upgrade()

    assert entry["index"] == "articles-0002" and entry["embedded"] == 1
    assert containers(moving) == ["articles-0001", "articles-0003"]
    assert command.verify(moving.settings)["holds"]


def test_a_shared_container_that_is_gone_is_not_built_on(moving: Faulty) -> None:
    moving.upgrade()
    command.pin(moving.to_pin, "wordllama-64")
    moving.revision("wordllama-64", "away")
    moving.upgrade()
    shutil.rmtree(moving.root / "indexes" / "articles-0001")
    moving.revision("equal", "and back")

    (entry,) = moving.upgrade()

    assert entry["index"] == entry["container"] == "articles-0004"
    with pytest.raises(IndexGone):
        stamps(moving)


# -- several revisions, and scripts that are wrong --------------------------------------------


def test_of_several_pending_rebinds_only_the_last_is_proven(prompted: Faulty) -> None:
    between = command.show(prompted.settings, "articles@head").split()[1]
    rebind(prompted, "equal")
    asked = prompted.texts_asked()

    (entry,) = prompted.upgrade()

    assert entry["superseded"] == [between] and entry["model"].startswith("equal@")
    assert prompted.texts_asked() - asked == SAMPLE
    assert evidence(prompted, "articles-0002")[4]["queries"] is not None
    command.rollback(prompted.settings, "articles")
    assert prompted.live() == "wordllama"


def test_from_nothing_the_index_is_built_for_the_model_that_it_is_rebound_to(
    moving: Faulty,
) -> None:
    for file in moving.root.glob("catalog.db*"):
        file.unlink()
    shutil.rmtree(moving.root / "indexes")

    (entry,) = moving.upgrade()

    assert entry["embedded"] == DOCUMENTS and entry["container"] == "articles-0001"
    assert stamps(moving) == {fingerprint(moving, "equal"): DOCUMENTS}
    assert command.check(moving.settings)["agrees"]
    assert catalog_rows(moving, "proof") == []


def test_a_re_embedding_may_follow_a_rebind_and_names_its_target(moving: Faulty) -> None:
    command.pin(moving.to_pin, "wordllama-64")
    moving.revision("wordllama-64")

    (entry,) = moving.upgrade()

    assert len(entry["superseded"]) == 1 and moving.live() == "wordllama-64"


def test_a_rebind_leaves_exactly_what_is_live(moving: Faulty) -> None:
    moving.upgrade()
    script = rebind(moving, "wordllama")
    live, other = (fingerprint(moving, name) for name in ("equal", "wordllama"))
    script.write_text(
        script.read_text("utf-8").replace(f"equal@{live}", f"wordllama@{other}"), "utf-8"
    )

    with pytest.raises(SourceMismatch):
        moving.upgrade()


def test_two_open_moves_of_one_collection_are_a_fork(moving: Faulty) -> None:
    rebind(moving, "rounded", head=moving.status()["revision"], splice=True)

    with pytest.raises(Fork):
        moving.upgrade()


def test_a_rebind_before_any_index_is_a_script_that_is_wrong(moving: Faulty) -> None:
    script = Path(
        command.show(moving.settings, moving.status()["revision"]).split("Path: ")[1].split("\n")[0]
    )
    text = script.read_text("utf-8")
    start, end = text.index("    op.reembed("), text.index("def downgrade")
    script.write_text(f"{text[:start]}    pass\n\n\n{text[end:]}", "utf-8")

    with pytest.raises(ScriptError, match="rebound before any revision embeds it"):
        command.check(moving.settings)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('text = ["title", "text"]', 'text = ["text"]', "recipe"),
        ('path = "indexes" }', 'path = "indexes", factory = "HNSW16" }', "factory"),
        ('path = "indexes" }', 'path = "indexes", metric = "l2" }', "metric"),
    ],
)
def test_a_rebind_that_would_change_more_than_the_model_is_not_written(
    project: Faulty, old: str, new: str, what: str
) -> None:
    project.edit_config(old, new)

    with pytest.raises(UsageError, match="more changes than the model") as refusal:
        rebind(project, "equal")

    assert what in str(refusal.value.found)


def test_a_rebind_to_other_dimensions_or_of_nothing_is_not_written(project: Faulty) -> None:
    command.pin(project.to_pin, "wordllama-64")
    with pytest.raises(UsageError, match="more changes") as refusal:
        rebind(project, "wordllama-64")
    assert refusal.value.found == "dimensions: 64"
    for script in (project.root / "migrations" / "versions").glob("*.py"):
        script.unlink()
    with pytest.raises(UsageError, match="no vectors yet"):
        rebind(project, "equal")


def test_the_command_line_asks_for_the_one_or_the_other(project: Faulty) -> None:
    made = project.run("revision", "--collection", "articles", "--to", "equal", "--rebind")
    assert "op.rebind(" in Path(made.stdout.strip()).read_text("utf-8")
    Path(made.stdout.strip()).unlink()
    ask_with_prompt(project, "wordllama")
    for script in (project.root / "migrations" / "versions").glob("*prompt*.py"):
        script.unlink()

    made = project.run("revision", "--collection", "articles", "--no-rebind")

    assert "op.reembed(" in Path(made.stdout.strip()).read_text("utf-8")
    (entry,) = project.upgrade()
    assert entry["container"] == "articles-0002" and entry["embedded"] == DOCUMENTS
