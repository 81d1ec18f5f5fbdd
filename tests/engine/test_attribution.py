"""Attribution: which of the candidates made each vector; unknown stays unknown."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from embedmigrate.embedders.base import Embedder, Vectors
from embedmigrate.engine.attributed import Attribution
from embedmigrate.engine.attribution import PILOT, attribute
from embedmigrate.engine.candidates import (
    Candidate,
    Record,
    candidates_of,
    common_recipes,
    prompts_of,
)
from embedmigrate.engine.job import StopSignal
from embedmigrate.engine.statistics import sample_rows, sample_size
from embedmigrate.errors import BadAnswer, Refused, Stopped
from embedmigrate.models import Recipe
from embedmigrate.stores.faiss.external import ExternalFaiss
from tests.embedders.handmade_models import MINILM, WORDLLAMA, load
from tests.engine.attribution_helpers import (
    DIMENSIONS,
    TEXT,
    TITLE_TEXT,
    Records,
    Remembering,
    close_enough,
    corpus,
    made_by,
)

RECIPES = common_recipes(["title", "text"])
FEW = [TITLE_TEXT, Recipe(text=("title", "text"), joiner=". "), TEXT, Recipe(text=("title",))]
"""For the transformer: it does not see white space, and takes its time."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def wordllama(root: Path) -> Iterator[Remembering]:
    with closing(Remembering(load(root, **WORDLLAMA))) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def minilm(root: Path) -> Iterator[Remembering]:
    """Another model, cut to the same dimension: no database can tell their vectors apart."""
    with closing(Remembering(load(root, **MINILM, dimensions=DIMENSIONS))) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def records() -> Records:
    return corpus(120)


@pytest.fixture(scope="module")
def both(wordllama: Remembering, minilm: Remembering) -> list[Candidate]:
    """Every common recipe of the one model, and some of the other."""
    return [
        *candidates_of("wordllama", wordllama, RECIPES),
        *candidates_of("minilm", minilm, FEW),
    ]


def attributed(
    vectors: Vectors,
    records: Mapping[str, Record | None],
    candidates: Sequence[Candidate],
    **options: Any,
) -> Attribution:
    options = {"tolerance": close_enough, **options}
    return attribute(vectors, list(records.values()), candidates, ids=list(records), **options)


def makers(found: Attribution) -> list[str | None]:
    """Who made each vector; None where nobody is proven to have."""
    return [it.candidate if it.kind == "proven" else None for it in found.assignments]


# -- which model -----------------------------------------------------------------------------


def test_a_mix_of_two_models_in_a_real_index_is_assigned_without_one_error(
    tmp_path: Path, wordllama: Remembering, minilm: Remembering, records: Records, both: Any
) -> None:
    ids, rows = list(records), np.random.default_rng(3).choice(120, 12, replace=False)
    vectors = made_by(wordllama, records)
    vectors[rows] = made_by(minilm, records)[rows]
    index = faiss.IndexFlatIP(DIMENSIONS)
    index.add(vectors)
    faiss.write_index(index, str(tmp_path / "theirs.faiss"))
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    truth = ["wordllama: title + text"] * 120
    for row in rows:
        truth[row] = "minilm: title + text"

    with closing(ExternalFaiss.open(tmp_path / "theirs.faiss", tmp_path / "ids.json")) as theirs:
        sample = sample_rows(len(theirs), 100, seed=1)
        sampled = {theirs.ids[row]: records[theirs.ids[row]] for row in sample}
        found = attributed(theirs.vectors(sample), sampled, both)

    assert makers(found) == [truth[row] for row in sample]
    assert found.is_mix and not found.is_uniform and found.ambiguous == 0
    assert found.smallest_margin is not None and found.smallest_margin > 0.3
    first, second = found.made
    assert (first.candidate, second.candidate) == (truth[1], "minilm: title + text")
    assert first.proportion.vectors + second.proportion.vectors == found.sampled == 100
    for made, share in ((first, 0.9), (second, 0.1)):
        assert made.proportion.low < share < made.proportion.high
        assert made.norms == {"as made": made.proportion.vectors}
        assert made.space == made.model.rpartition("@")[2]
    assert found.kinds["proven"].share == 1 and found.kinds["foreign"].high < 0.04


def test_a_model_that_is_no_candidate_is_foreign(
    wordllama: Remembering, minilm: Remembering, records: Records
) -> None:
    found = attributed(
        made_by(minilm, records), records, candidates_of("wordllama", wordllama, RECIPES)
    )
    assert {it.kind for it in found.assignments} == {"foreign"}
    assert found.made == () and not found.is_mix and not found.is_uniform
    assert found.kinds["foreign"].vectors == 120 and found.ids("foreign") == list(records)
    for it in found.assignments:
        assert it.candidate is not None and it.distance is not None and it.distance > 0.5


def test_a_model_of_another_dimension_is_ruled_out(
    root: Path, wordllama: Remembering, records: Records
) -> None:
    with closing(load(root, **WORDLLAMA, dimensions=64)) as short:
        candidates = [Candidate("short", short, TITLE_TEXT), Candidate("w", wordllama, TITLE_TEXT)]
        vectors = made_by(wordllama, records)
        found = attributed(vectors, records, candidates)
        assert found.ruled_out == ("short",) and found.is_uniform
        alone = attributed(vectors, records, candidates[:1])
    assert {it.kind for it in alone.assignments} == {"foreign"} and alone.embeddings == 0


def test_one_percent_is_found_as_often_as_the_sample_size_promises(
    wordllama: Remembering, minilm: Remembering, records: Records
) -> None:
    """10,000 vectors, 1 % of them of another model; 459 are drawn, again and again."""
    rows = np.arange(10_000) % len(records)
    foreign = np.random.default_rng(5).permutation(10_000) < 100
    mine, theirs = made_by(wordllama, records), made_by(minilm, records)
    vectors = np.where(foreign[:, np.newaxis], theirs[rows], mine[rows])
    listed = list(records.values())
    found = attribute(
        vectors,
        [listed[row] for row in rows],
        [Candidate("wordllama", wordllama, TITLE_TEXT)],
        ids=[f"d{number:05d}" for number in range(10_000)],
        tolerance=close_enough,
    )
    unproven = np.array([it.kind == "foreign" for it in found.assignments])
    np.testing.assert_array_equal(unproven, foreign)
    assert found.embeddings == len(records), "every text once"

    size = sample_size(0.01, 0.99)
    times = [unproven[sample_rows(10_000, size, seed)].any() for seed in range(1000)]
    assert size == 459 and np.mean(times) >= 0.985


# -- which recipe ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wordllama", "minilm"])
def test_title_and_text_is_told_from_text_only(
    name: str, wordllama: Remembering, minilm: Remembering, records: Records, both: Any
) -> None:
    embedder = {"wordllama": wordllama, "minilm": minilm}[name]
    vectors = made_by(embedder, records)
    vectors[::3] = made_by(embedder, records, TEXT)[::3]
    found = attributed(vectors, records, both)
    assert makers(found) == [
        f"{name}: text" if row % 3 == 0 else f"{name}: title + text" for row in range(120)
    ]
    assert not found.is_mix and not found.is_uniform and len(found.made) == 2


@pytest.mark.parametrize("recipe", RECIPES, ids=repr)
def test_every_common_recipe_is_recognised_by_what_it_makes(
    recipe: Recipe, wordllama: Remembering, records: Records
) -> None:
    candidates = candidates_of("w", wordllama, RECIPES)
    vectors = made_by(wordllama, records, recipe)
    found = attributed(vectors, records, candidates)
    assert {it.kind for it in found.assignments} == {"proven"}
    (made,) = found.made
    chosen = next(it for it in candidates if it.label == made.candidate)
    again = made_by(wordllama, records, chosen.recipe)
    assert (1 - (again * vectors).sum(axis=1)).max() < 1e-6, (
        "the same vectors, whatever it is called"
    )


def test_a_tie_goes_to_the_recipe_that_explains_most(
    wordllama: Remembering, records: Records
) -> None:
    """Documents without a title have the same vector either way."""
    bare: Records = {
        id: record | ({"title": ""} if number % 4 else {})
        for number, (id, record) in enumerate(records.items())
    }
    candidates = [Candidate("text", wordllama, TEXT), Candidate("both", wordllama, TITLE_TEXT)]
    found = attributed(made_by(wordllama, bare), bare, candidates)
    assert makers(found) == ["both"] * 120 and found.is_uniform and found.ambiguous == 0


def test_recipes_that_make_the_same_texts_are_merged_into_the_first(
    wordllama: Remembering, records: Records
) -> None:
    bare: Records = {id: record | {"title": " "} for id, record in records.items()}
    wordllama.asked = 0
    found = attributed(made_by(wordllama, bare), bare, candidates_of("w", wordllama, RECIPES))
    assert found.is_uniform and found.made[0].candidate == "w: title + text"
    assert found.merged["w: text"] == found.merged["w: text + title"] == "w: title + text"
    assert "w: title" not in found.merged, "no texts are not the same texts"
    assert found.embeddings == 120 and wordllama.asked == 240


def test_common_recipes_begin_with_the_one_that_is_configured() -> None:
    assert common_recipes(["text"]) == [TEXT]
    assert common_recipes(["a", "b"], ["; ", " ", " "])[:2] == [
        Recipe(text=("a", "b"), joiner="; "),
        Recipe(text=("a", "b")),
    ]
    several = common_recipes(["a", "b", "c"])
    assert len(several) == len(set(several)) == 4 + 4 + 3
    assert Recipe(text=("c", "b", "a"), joiner="\n\n") in several
    assert Recipe(text=("b",)) in several


# -- which prompt ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prompted(root: Path) -> Iterator[Embedder]:
    prompts: dict[str, Any] = {"document_prompt": "passage: ", "query_prompt": "query: "}
    with closing(load(root, **WORDLLAMA, **prompts)) as embedder:
        yield embedder


def test_prompts_on_or_off_or_swapped_are_told_apart(
    prompted: Embedder, wordllama: Remembering, records: Records
) -> None:
    candidates = candidates_of("w", prompted, [TITLE_TEXT])
    labels = ["w: title + text", "w: title + text, no prompt", "w: title + text, query prompt"]
    assert [it.label for it in candidates] == labels
    texts = [TITLE_TEXT.make_text(record) for record in records.values()]
    ways = [
        prompted.embed_documents(texts),
        wordllama.embed_documents(texts),
        prompted.embed_queries(texts),
    ]
    vectors = np.array([ways[row % 3][row] for row in range(120)])
    found = attributed(vectors, records, candidates)
    assert makers(found) == [labels[row % 3] for row in range(120)]
    assert found.is_mix and {it.proportion.vectors for it in found.made} == {40}
    spaces = {it.candidate: it.space for it in found.made}
    assert spaces[labels[0]] == prompted.model.fingerprint
    assert spaces[labels[1]] == wordllama.model.fingerprint
    assert len(set(spaces.values())) == 3


def test_the_same_space_under_two_names_is_one_candidate(
    prompted: Embedder, wordllama: Remembering, records: Records
) -> None:
    candidates = [
        Candidate("plain", wordllama, TITLE_TEXT),
        Candidate("bare", prompted, TITLE_TEXT, "none"),
    ]
    found = attributed(made_by(wordllama, records), records, candidates)
    assert found.is_uniform and found.merged == {"bare": "plain"} and found.ambiguous == 0


def test_prompts_are_tried_as_far_as_they_differ(
    root: Path, prompted: Embedder, wordllama: Remembering
) -> None:
    assert prompts_of(wordllama) == ["document"]
    assert prompts_of(prompted) == ["document", "none", "query"]
    declarations: list[tuple[dict[str, Any], list[str]]] = [
        ({"document_prompt": "p: "}, ["document", "none"]),
        ({"query_prompt": "q: "}, ["document", "query"]),
        ({"query_prompt": "p: ", "document_prompt": "p: "}, ["document", "none"]),
    ]
    for declared, expected in declarations:
        with closing(load(root, **WORDLLAMA, **declared)) as embedder:
            assert prompts_of(embedder) == expected


# -- what cannot be proven -------------------------------------------------------------------

EDITS: dict[str, Callable[[str], str]] = {
    "a correction": lambda text: text.replace(" the ", " every ", 1) + " Indeed.",
    "a sentence more": lambda text: text + " This was confirmed by a later trial in mice.",
    "half of it": lambda text: text[: len(text) // 2],
    "the other way round": lambda text: " ".join(reversed(text.split())),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_text_that_was_edited_is_never_proven_but_probably_stale(
    edit: str, wordllama: Remembering, minilm: Remembering, records: Records, both: Any
) -> None:
    vectors = made_by(minilm, records)
    now: Records = {
        id: record | ({"text": EDITS[edit](record["text"])} if number % 5 == 0 else {})
        for number, (id, record) in enumerate(records.items())
    }
    found = attributed(vectors, now, both)
    edited = found.assignments[::5]
    assert "proven" not in {it.kind for it in edited}
    assert sum(it.kind == "probably stale" for it in edited) >= 0.9 * len(edited)
    assert all(it.candidate and it.candidate.startswith("minilm") for it in edited)
    assert {it.kind for row, it in enumerate(found.assignments) if row % 5} == {"proven"}
    assert found.kinds["proven"].vectors == 96


def test_an_edit_that_the_model_does_not_see_leaves_the_vector_proven(
    minilm: Remembering, records: Records
) -> None:
    """It was trained on lower case, so that the vector is what it makes of the text today."""
    now = {id: record | {"text": record["text"].upper()} for id, record in records.items()}
    candidates = candidates_of("minilm", minilm, [TITLE_TEXT])
    assert attributed(made_by(minilm, records), now, candidates).is_uniform


def test_a_document_that_became_another_one_is_foreign(
    wordllama: Remembering, records: Records
) -> None:
    ids, texts = list(records), list(records.values())
    exchanged = dict(zip(ids, texts[1:] + texts[:1], strict=True))
    candidates = candidates_of("w", wordllama, [TITLE_TEXT])
    found = attributed(made_by(wordllama, records), exchanged, candidates)
    assert found.kinds["proven"].vectors == 0
    assert found.kinds["foreign"].vectors >= 110, "two abstracts may happen to be related"


def test_without_documents_to_compare_nothing_is_called_stale(
    wordllama: Remembering, records: Records
) -> None:
    few = dict(list(records.items())[:5])
    now = {id: record | {"text": record["text"] + " Indeed."} for id, record in few.items()}
    found = attributed(made_by(wordllama, few), now, candidates_of("w", wordllama, [TITLE_TEXT]))
    assert {it.kind for it in found.assignments} == {"foreign"}


def test_documents_that_are_gone_and_vectors_that_are_none_are_counted_apart(
    wordllama: Remembering, records: Records
) -> None:
    vectors = made_by(wordllama, records)
    vectors[3], vectors[4], vectors[5] = 0, np.nan, np.inf
    there: dict[str, Record | None] = dict(records)
    for id in list(records)[:3]:
        there[id] = None
    there[list(records)[6]] = {"title": "", "text": None}
    found = attributed(vectors, there, candidates_of("w", wordllama, [TITLE_TEXT]))
    kinds = [it.kind for it in found.assignments]
    assert kinds == ["orphan"] * 3 + ["broken"] * 3 + ["foreign"] + ["proven"] * 113
    assert found.assignments[6].candidate is None, "nothing can be embedded for it"
    assert found.sampled == 120 and found.kinds["proven"].share == pytest.approx(113 / 120)


def test_a_sample_without_anything_is_no_error(wordllama: Remembering) -> None:
    candidates = candidates_of("w", wordllama, [TITLE_TEXT])
    nothing = attributed(np.empty((0, DIMENSIONS), np.float32), {}, candidates)
    assert nothing.sampled == 0 and nothing.made == () and nothing.smallest_margin is None
    gone = attributed(np.ones((2, DIMENSIONS), np.float32), {"a": None, "b": None}, candidates)
    assert gone.ids("orphan") == ["a", "b"] and gone.embeddings == 0


def test_a_sample_that_is_everything_leaves_nothing_to_guess(
    wordllama: Remembering, records: Records
) -> None:
    some = dict(list(records.items())[:20])
    candidates = candidates_of("w", wordllama, [TITLE_TEXT])
    vectors = np.ones((20, DIMENSIONS), np.float32)
    everything = attributed(vectors, some, candidates, population=20).kinds["foreign"]
    some_of_it = attributed(vectors, some, candidates, population=21).kinds["foreign"]
    assert (everything.low, everything.share, everything.high) == (1.0, 1.0, 1.0)
    assert some_of_it.low < some_of_it.share


def test_what_two_spaces_explain_alike_is_said_to_be_ambiguous(
    root: Path, wordllama: Remembering, records: Records
) -> None:
    """A text cut off at 64 tokens is in another space, but a short one has the same vector."""
    mixed: Records = {
        id: record | ({"text": ""} if number % 2 else {"text": record["text"] * 3})
        for number, (id, record) in enumerate(records.items())
    }
    with closing(load(root, **WORDLLAMA, max_tokens=64)) as cut:
        candidates = [Candidate("whole", wordllama, TITLE_TEXT), Candidate("cut", cut, TITLE_TEXT)]
        found = attributed(made_by(cut, mixed), mixed, candidates)
    assert makers(found) == ["cut"] * 120, "the one that explains all"
    assert found.ambiguous == 60
    assert {it.also for it in found.assignments[1::2]} == {("whole",)}
    assert {it.also for it in found.assignments[::2]} == {()}
    assert found.smallest_margin == pytest.approx(0, abs=1e-6)


def test_a_tolerance_of_its_own_decides_for_each_candidate(
    wordllama: Remembering, minilm: Remembering, records: Records, both: Any
) -> None:
    """Noise of 1e-3 is within the tolerance of one model and not of the other."""
    noise = np.random.default_rng(0).standard_normal((120, DIMENSIONS), np.float32) * 0.0028
    vectors = made_by(wordllama, records) + noise
    vectors[60:] = made_by(minilm, records)[60:] + noise[60:]
    found = attributed(
        vectors,
        records,
        both,
        tolerance=lambda it: 1e-2 if it.embedder is wordllama else 1e-5,
    )
    kinds = [it.kind for it in found.assignments]
    assert kinds == ["proven"] * 60 + ["probably stale"] * 60


# -- norms, and what an index loses ----------------------------------------------------------


def test_norms_say_whether_vectors_are_as_made_or_normalised_since(
    root: Path, records: Records
) -> None:
    declared = {**WORDLLAMA, "normalize": False}
    with closing(load(root, **declared)) as raw:
        vectors = made_by(raw, records)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors[40:80] /= norms[40:80]
        vectors[80:] *= 7
        found = attributed(vectors, records, candidates_of("raw", raw, [TITLE_TEXT]))
    assert [it.norm for it in found.assignments] == (
        ["as made"] * 40 + ["normalised since"] * 40 + ["neither"] * 40
    )
    assert found.is_uniform
    assert found.made[0].norms == {"as made": 40, "normalised since": 40, "neither": 40}


@pytest.mark.parametrize(("factory", "loss"), [("SQ8", 1e-3), ("PQ64x4np", 0.35)])
def test_a_compressed_index_is_attributed_within_its_loss(
    tmp_path: Path,
    wordllama: Remembering,
    minilm: Remembering,
    records: Records,
    both: Any,
    factory: str,
    loss: float,
) -> None:
    vectors = made_by(wordllama, records)
    vectors[::10] = made_by(minilm, records)[::10]
    index = faiss.index_factory(DIMENSIONS, factory, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(tmp_path / "theirs.faiss"))
    (tmp_path / "ids.json").write_text(json.dumps(list(records)))
    with closing(ExternalFaiss.open(tmp_path / "theirs.faiss", tmp_path / "ids.json")) as theirs:
        assert theirs.lossy
        stored = theirs.vectors(np.arange(120))
    found = attributed(stored, records, both, tolerance=lambda it: loss)
    models = [label and label.partition(":")[0] for label in makers(found)]
    assert models == ["wordllama" if row % 10 else "minilm" for row in range(120)]


# -- cost, privacy, trouble ------------------------------------------------------------------


def test_all_candidates_are_tried_on_the_pilot_and_only_the_good_ones_on_the_rest(
    wordllama: Remembering, minilm: Remembering, records: Records, both: Any
) -> None:
    vectors = made_by(wordllama, records)
    wordllama.asked = minilm.asked = 0
    found = attributed(vectors, records, both)
    assert found.is_uniform
    distinct = len({TEXT.make_text(it) for it in records.values()})
    assert distinct == 120
    assert minilm.asked == len(FEW) * PILOT + (120 - PILOT), "its best candidate only"
    assert wordllama.asked <= len(RECIPES) * PILOT + 2 * (120 - PILOT)
    assert found.embeddings == wordllama.asked + minilm.asked


def test_what_the_pilot_did_not_meet_is_still_found(
    wordllama: Remembering, records: Records
) -> None:
    """One vector of another recipe: most pilots do not hold it, and drop the recipe."""
    vectors = made_by(wordllama, records)
    vectors[17] = made_by(wordllama, records, TEXT)[17]
    candidates = candidates_of("w", wordllama, RECIPES)
    for seed in range(10):
        found = makers(attributed(vectors, records, candidates, seed=seed))
        assert found[17] == "w: text" and found.count("w: title + text") == 119


def test_a_result_holds_ids_and_no_text(wordllama: Remembering, records: Records) -> None:
    vectors = made_by(wordllama, records)
    now = {id: record | {"text": record["text"] + " Secret."} for id, record in records.items()}
    found = attributed(vectors, now, candidates_of("w", wordllama, RECIPES))
    written = json.dumps(dataclasses.asdict(found))
    assert all(id in written for id in records)
    for record in now.values():
        assert record["title"] not in written and record["text"][:40] not in written


class Failing(Remembering):
    """A model that fails on some texts the way runtimes do."""

    def __init__(self, embedder: Any, error: Exception, on: str) -> None:
        super().__init__(embedder)
        self._error, self._on = error, on

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        if any(self._on in text for text in texts):
            raise self._error
        return super().embed_documents(texts)


def test_one_text_that_the_model_has_no_vector_for_does_not_fail_the_others(
    wordllama: Remembering, records: Records
) -> None:
    title = records[list(records)[7]]["title"]
    failing = Failing(wordllama, BadAnswer("answered with zero vectors"), title)
    vectors = made_by(wordllama, records)
    found = attributed(vectors, records, [Candidate("w", failing, TITLE_TEXT)])
    assert found.ids("foreign") == [list(records)[7]]
    assert found.kinds["proven"].vectors == 119


def test_a_model_that_always_fails_is_an_error_and_not_a_foreign_index(
    wordllama: Remembering, records: Records
) -> None:
    vectors = made_by(wordllama, records)
    for error in (BadAnswer("answered with zero vectors"), RuntimeError("cannot embed a secret")):
        failing = Failing(wordllama, error, "")
        with pytest.raises(BadAnswer) as refusal:
            attributed(vectors, records, [Candidate("w", failing, TITLE_TEXT)])
        assert "secret" not in str(refusal.value)


def test_it_stops_when_asked(wordllama: Remembering, records: Records) -> None:
    stop = StopSignal()
    stop.set("a test")
    with pytest.raises(Stopped):
        attributed(
            made_by(wordllama, records),
            records,
            candidates_of("w", wordllama, RECIPES),
            stop=stop,
        )


def test_fields_mean_what_they_mean_to_a_source(wordllama: Remembering, records: Records) -> None:
    some: dict[str, Record] = {
        "a": {"title": 17, "text": True},
        "b": {"title": None, "text": "b\ud83d"},
    }
    vectors = wordllama.embed_documents(["17 true", "b\ufffd"])
    candidates = candidates_of("w", wordllama, [TITLE_TEXT])
    assert attributed(vectors, some, candidates).is_uniform
    with pytest.raises(Refused, match=r"document 'b': field 'text' has no single text") as refusal:
        attributed(vectors, some | {"b": {"title": "x", "text": ["secret"]}}, candidates)
    assert "secret" not in str(refusal.value)


def test_what_does_not_belong_together_is_refused(wordllama: Remembering, records: Records) -> None:
    vectors = made_by(wordllama, records)
    twice = [Candidate("w", wordllama, TITLE_TEXT), Candidate("w", wordllama, TEXT)]
    with pytest.raises(ValueError, match="same label"):
        attributed(vectors, records, twice)
    with pytest.raises(ValueError, match="119 vectors, 120 records"):
        attributed(vectors[1:], records, twice[:1])
