"""Which revision made an index, told by digests and generations alone; what stays open."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from embedmigrate.catalog.rebuilding import Rebuilt
from embedmigrate.errors import NotProven, UnknownCatalog
from embedmigrate.migration.operations import MoveOp, RebindOp, ReembedOp
from embedmigrate.migration.recognising import Container, Move, Recognition
from embedmigrate.migration.recorder import RecordedStep
from embedmigrate.models import EmbeddingModel, IndexSpec, Recipe
from embedmigrate.stores.base import IndexManifest

RECIPE = Recipe(text=["text"])


def model(name: str) -> EmbeddingModel:
    """Models with one first letter are of one space; what follows it is the query prompt."""
    digest = "sha256:" + f"{ord(name[0]):02x}" * 32
    made = EmbeddingModel(
        name=name, artifacts={"weights": digest}, dimensions=8, query_prompt=name[1:]
    )
    return EmbeddingModel(
        **{**made.model_dump(exclude_unset=True), "fingerprint": made.fingerprint}
    )


def spec(of: EmbeddingModel) -> IndexSpec:
    return IndexSpec(model=of, recipe=RECIPE, store_kind="faiss")


def moves(*targets: str) -> list[Move]:
    """``"a"`` embeds with model a; ``"=b"`` asks b about the vectors that are there."""
    made: list[Move] = []
    built = None
    for number, target in enumerate(targets, start=1):
        to = model(target.removeprefix("="))
        operation: MoveOp
        if target.startswith("="):
            operation = RebindOp("things", source=made[-1].spec.model.reference, target=to)
        else:
            built = spec(to)
            before = made[-1].spec.model.reference if made else None
            operation = ReembedOp(
                "things", source=before, target=to, recipe=RECIPE, factory="Flat", metric="cosine"
            )
        assert built is not None
        step = RecordedStep(f"r{number}", operation)
        down = f"r{number - 1}" if number > 1 else None
        made.append(Move(step, down, built.model_copy(update={"model": to}), built))
    return made


def container(number: int, of: str, generation: int, *, adopted: bool = False) -> Container:
    made_to = spec(model(of))
    manifest = IndexManifest(
        index=f"things-{number:04d}",
        collection="things",
        catalog_id="c",
        spec_digest=made_to.digest,
        fingerprint=made_to.model.fingerprint,
        dimensions=8,
        metric="cosine",
        normalized=False,
        factory="Flat",
        generation=generation,
    )
    return Container(manifest, adopted)


def recognised(
    targets: Sequence[str], containers: Sequence[Container], applied: str | None = None
) -> Rebuilt:
    return Recognition("things", moves(*targets), containers, applied).recognise()


def rows(rebuilt: Rebuilt) -> list[tuple[str, str | None, str | None, str | None]]:
    return [(it.revision, it.index, it.previous, it.superseded_by) for it in rebuilt.applied]


def states(rebuilt: Rebuilt) -> dict[str, str]:
    return {it.name: str(it.state) for it in rebuilt.indexes}


def test_the_greatest_generation_is_live_and_the_others_are_retained() -> None:
    found = recognised("ab", [container(1, "a", 1), container(2, "b", 2)])
    assert found.live == "things-0002"
    assert states(found) == {"things-0001": "retained", "things-0002": "live"}
    assert rows(found) == [
        ("r1", "things-0001", None, None),
        ("r2", "things-0002", "things-0001", None),
    ]
    assert found.floor.generation > 3 and found.floor.made == 2 and found.undone == ()


def test_what_was_live_before_and_comes_later_was_rolled_back() -> None:
    found = recognised("abc", [container(1, "a", 3), container(2, "b", 2)])
    assert found.live == "things-0001" and found.undone == ("r2",)
    assert [it.revision for it in found.applied] == ["r1"]


def test_of_revisions_that_were_applied_as_one_only_the_last_was_live() -> None:
    """Generation 2 follows generation 1: nothing was live between."""
    found = recognised("abc", [container(1, "a", 1), container(2, "c", 2)])
    assert rows(found) == [
        ("r1", "things-0001", None, None),
        ("r2", None, None, "r3"),
        ("r3", "things-0002", "things-0001", None),
    ]


def test_what_was_live_between_and_is_gone_was_dropped() -> None:
    found = recognised("abc", [container(1, "a", 1), container(3, "c", 3)])
    lost = found.applied[1].index
    assert lost is not None and states(found)[lost] == "dropped"
    assert found.applied[2].previous == lost
    assert lost.endswith("-lost") and found.floor.made > 3


def test_what_never_was_live_is_built_on() -> None:
    found = recognised("ab", [container(1, "a", 1), container(2, "b", 0)])
    assert states(found) == {"things-0001": "live", "things-0002": "building"}
    assert {it.name: it.revision for it in found.indexes}["things-0002"] == "r2"


def test_nothing_that_was_live_is_no_live_index() -> None:
    found = recognised("a", [container(1, "a", 0)])
    assert found.live is None and found.applied == () and found.floor.generation == 0


def test_two_of_one_generation_are_open() -> None:
    with pytest.raises(UnknownCatalog, match="which of its indexes is live"):
        recognised("ab", [container(1, "a", 2), container(2, "b", 2)])


def test_what_several_revisions_want_is_open_until_a_person_says() -> None:
    lying = [container(1, "a", 3), container(2, "b", 2)]
    with pytest.raises(UnknownCatalog, match="which revision") as asked:
        recognised("aba", lying)
    assert "r1, r3" in str(asked.value.found)
    back, forth = (recognised("aba", lying, applied) for applied in ("r1", "r3"))
    assert back.undone == ("r2",) and [it.revision for it in back.applied] == ["r1"]
    assert rows(forth) == [
        ("r1", "things-0001", None, None),
        ("r2", "things-0002", "things-0001", None),
        ("r3", "things-0001", "things-0002", None),
    ]
    assert states(forth) == {"things-0001": "live", "things-0002": "retained"}


def test_an_index_that_was_adopted_may_be_live_again_without_a_note() -> None:
    lying = [container(1, "a", 1, adopted=True), container(2, "b", 2)]
    with pytest.raises(UnknownCatalog, match="went back to the index that was adopted"):
        recognised("ab", lying)
    assert states(recognised("ab", lying, "r2")) == {
        "things-0001": "adopted",
        "things-0002": "live",
    }
    back = recognised("ab", lying, "r1")
    assert back.live == "things-0001" and back.undone == ("r2",)


def test_vectors_that_another_query_side_asks_are_two_indexes_of_one_container() -> None:
    """``a`` and ``ab`` are of one space: no proof is needed."""
    lying = [container(1, "a", 2)]
    with pytest.raises(UnknownCatalog):
        recognised(("a", "=ab"), lying)
    found = recognised(("a", "=ab"), lying, "r2")
    assert {(it.name, it.container, str(it.state)) for it in found.indexes} == {
        ("things-0001", "things-0001", "retained"),
        ("things-0002", "things-0001", "live"),
    }
    assert found.live == "things-0002" and found.applied[1].previous == "things-0001"
    assert recognised(("a", "=ab"), lying, "r1").live == "things-0001"


def test_a_rebinding_whose_proof_is_lost_is_proven_again() -> None:
    with pytest.raises(NotProven, match="is lost") as lost:
        recognised(("a", "=b"), [container(1, "a", 2)], "r2")
    assert "--applied r1" in str(lost.value)
    equal = {model("b").fingerprint: {model("a").fingerprint}}
    found = Recognition("things", moves("a", "=b"), [container(1, "a", 2)], "r2", equal)
    assert found.recognise().live == "things-0002"


def test_a_revision_that_no_index_is_of_cannot_be_the_last_one() -> None:
    with pytest.raises(UnknownCatalog, match="no index that revision r2"):
        recognised("ab", [container(1, "a", 1)], "r2")


def test_what_no_script_wants_is_strange_and_in_nothing_else() -> None:
    lying = [container(1, "a", 1), container(2, "z", 0)]
    recognition = Recognition("things", moves("a"), lying)
    assert [it.name for it in recognition.strange] == ["things-0002"]
    assert list(states(recognition.recognise())) == ["things-0001"]
    assert recognition.recognise().floor.made == 2
