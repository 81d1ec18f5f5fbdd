"""Killed at one exact point: whatever was half done there is finished by the same command."""

from __future__ import annotations

import pytest

from embedmigrate import command
from tests.faults.conftest import BATCH, DOCUMENTS, QUERY
from tests.faults.project import EndState, Fault, Faulty, kill_at
from tests.workspace import documents

CATALOG = "embedmigrate.catalog"
COMMAND = "embedmigrate.command"
ENGINE = "embedmigrate.engine"
FAISS = "embedmigrate.stores.faiss"


@pytest.mark.slow
@pytest.mark.parametrize(
    "point",
    [
        kill_at("embedmigrate.sources.spool:_fill", "after"),
        kill_at(f"{FAISS}.store:FaissStore.create", "before"),
        kill_at(f"{FAISS}.store:create_database", "after"),
        kill_at(f"{CATALOG}.runs:plan_batches", "after"),
        kill_at(f"{FAISS}.vectors:VectorFile.write", "after", 3),
        kill_at(f"{FAISS}.writer:FaissWriter.write", "after", 3),
        kill_at(f"{CATALOG}.runs:finish_batch", "after", 3),
        kill_at(f"{ENGINE}.follow:note_differences", "after"),
        kill_at(f"{CATALOG}.routes:offer_candidate", "after"),
        kill_at(f"{ENGINE}.prepare:_Preparation._finish", "after"),
        kill_at(f"{CATALOG}.routes:cut_over", "after"),
        kill_at(f"{COMMAND}.forward:_walk", "after"),
        kill_at(f"{FAISS}.writer:FaissWriter.set_generation", "after"),
        kill_at(f"{CATALOG}.routes:note_settled", "after"),
    ],
    ids=lambda point: f"{point['when']} {point['at'].rpartition(':')[2]} {point['call']}",
)
def test_an_upgrade_carries_on(project: Faulty, undisturbed: EndState, point: Fault) -> None:
    project.write_corpus(documents(DOCUMENTS))  # as new as can be, so that it is indexed again

    project.kill("upgrade", at=point)
    project.upgrade()

    assert project.end_state([QUERY]).differences(undisturbed) == []
    assert command.verify(project.settings)["holds"]
    assert sum(project.paid_twice().values()) <= 2 * BATCH
    assert project.upgrade() == []


def test_changes_that_came_before_the_resumption_are_in_the_index(project: Faulty) -> None:
    corpus = documents(DOCUMENTS)
    corpus[0]["text"] = "Changed before the crash."
    project.write_corpus(corpus)
    project.kill("upgrade", at=kill_at(f"{CATALOG}.runs:finish_batch", "after", 4))
    corpus[1]["text"] = "Changed after the crash."
    del corpus[2]
    project.write_corpus([*corpus, {"_id": "new", "title": "", "text": "Added.", "topic": "x"}])

    project.upgrade()

    assert command.verify(project.settings)["holds"]
    assert len(project.end_state().rows) == DOCUMENTS


@pytest.mark.slow
@pytest.mark.parametrize(
    "point",
    [
        kill_at(f"{ENGINE}.follow:_append", "after"),
        kill_at(f"{FAISS}.writer:FaissWriter.delete", "after"),
        kill_at(f"{CATALOG}.indexes:advance", "before"),
        kill_at(f"{COMMAND}.forward:_walk", "after"),
    ],
    ids=lambda point: point["at"].rpartition(":")[2],
)
def test_catching_up_carries_on(project: Faulty, point: Fault) -> None:
    project.upgrade(until_ready=True)
    corpus = documents(DOCUMENTS)
    corpus[0]["text"] = "Changed since."
    project.write_corpus([*corpus[:1], *corpus[3:]])

    project.kill("cutover", at=point)
    command.cutover(project.settings)

    assert project.live() == "fake-b"
    assert len(project.end_state().rows) == DOCUMENTS - 2
    assert command.verify(project.settings)["holds"]


@pytest.mark.parametrize("factory", ["HNSW16", "IVF4,Flat"])
def test_building_an_ann_structure_carries_on(project: Faulty, factory: str) -> None:
    project.edit_config('path = "indexes" }', f'path = "indexes", factory = "{factory}" }}')
    for script in (project.root / "migrations" / "versions").glob("*move*.py"):
        script.unlink()
    project.revision("fake-b", "approximate")

    project.kill("upgrade", at=kill_at(f"{FAISS}.ann:save", "after"))
    project.upgrade()

    assert command.verify(project.settings)["holds"]
    assert len(list((project.root / "indexes" / "articles-0002").glob("ann-*"))) == 1


# -- several revisions at once ----------------------------------------------------------------


@pytest.fixture
def two_pending(project: Faulty) -> Faulty:
    """The same with a third model after `fake-b`, so that `fake-b` is superseded."""
    with (project.root / "embedmigrate.toml").open("a", encoding="utf-8") as file:
        file.write('\n[models.fake-c]\nprovider = "hashing-not-a-model"\ndimensions = 16\n')
    command.pin(project.to_pin, "fake-c")
    project.revision("fake-c", "the last one counts")
    return project


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_block_that_was_cut_short_is_finished(two_pending: Faulty, when: str) -> None:
    before = two_pending.status()["revision"]
    two_pending.kill("upgrade", at=kill_at(f"{CATALOG}.routes:cut_over", when))
    assert two_pending.live() == "fake-a"

    two_pending.upgrade()

    assert two_pending.live() == "fake-c"
    command.rollback(two_pending.settings, "articles")
    assert (two_pending.live(), two_pending.status()["revision"]) == ("fake-a", before)


@pytest.mark.parametrize("verb", ["rollback articles", "downgrade articles@-1"])
def test_a_block_that_was_cut_short_can_be_given_up(two_pending: Faulty, verb: str) -> None:
    before = two_pending.status()["revision"]
    two_pending.kill("upgrade", at=kill_at(f"{CATALOG}.routes:cut_over"))

    given_up = two_pending.end(*verb.split())

    assert given_up.status == 0, given_up.errors
    assert (two_pending.live(), two_pending.status()["revision"]) == ("fake-a", before)
    two_pending.upgrade()
    assert two_pending.live() == "fake-c"


def test_a_block_that_was_cut_short_can_be_given_up_without_its_scripts(
    two_pending: Faulty,
) -> None:
    before = two_pending.status()["revision"]
    two_pending.kill("upgrade", at=kill_at(f"{CATALOG}.routes:cut_over"))
    for script in (two_pending.root / "migrations" / "versions").glob("*.py"):
        if "first" not in script.name:
            script.unlink()

    command.rollback(two_pending.settings, "articles")

    assert (two_pending.live(), two_pending.status()["revision"]) == ("fake-a", before)


def test_a_revision_that_came_after_the_crash_joins_the_block(two_pending: Faulty) -> None:
    before = two_pending.status()["revision"]
    two_pending.kill("upgrade", at=kill_at(f"{CATALOG}.routes:cut_over"))
    two_pending.revision("fake-b", "back to the second")

    two_pending.upgrade()

    assert two_pending.live() == "fake-b"
    command.rollback(two_pending.settings, "articles")
    assert (two_pending.live(), two_pending.status()["revision"]) == ("fake-a", before)


def test_a_rollback_of_a_block_that_was_cut_short_is_finished(two_pending: Faulty) -> None:
    before = two_pending.status()["revision"]
    two_pending.upgrade()

    two_pending.kill("rollback", "articles", at=kill_at(f"{CATALOG}.routes:undo", call=2))
    command.rollback(two_pending.settings, "articles")

    assert (two_pending.live(), two_pending.status()["revision"]) == ("fake-a", before)
    assert two_pending.end_state().settled


def test_an_index_that_was_prepared_and_not_chosen_is_not_kept_for_ever(
    two_pending: Faulty,
) -> None:
    two_pending.upgrade("articles@+1", until_ready=True)

    two_pending.upgrade()

    status = two_pending.status()
    assert status["shadow"] is None
    assert [index["model"] for index in status["retained"]] == ["fake-a", "fake-b"]
    two_pending.let_grace_pass()
    command.contract(two_pending.settings)
    assert [path.name for path in (two_pending.root / "indexes").iterdir()] == ["articles-0003"]


def test_a_downgrade_over_two_cut_overs_carries_on(two_pending: Faulty) -> None:
    first = two_pending.status()["revision"]
    two_pending.upgrade("articles@+1")
    two_pending.upgrade()

    two_pending.kill("downgrade", first, at=kill_at(f"{CATALOG}.routes:undo", call=2))
    command.downgrade(two_pending.settings, first)

    assert (two_pending.live(), two_pending.status()["revision"]) == ("fake-a", first)
    assert two_pending.end_state().settled


# -- back, and away ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scripts", "point"),
    [
        ("with scripts", kill_at(f"{CATALOG}.routes:undo", "after")),
        ("with scripts", kill_at(f"{COMMAND}.project:Project.settle")),
        ("with scripts", kill_at(f"{FAISS}.writer:FaissWriter.set_generation", "after")),
        ("without", kill_at(f"{CATALOG}.routes:undo", "after")),
        ("without", kill_at(f"{COMMAND}.project:Project.settle")),
    ],
    ids=lambda value: value if isinstance(value, str) else value["at"].rpartition(":")[2],
)
def test_a_rollback_carries_on_and_goes_back_once(
    project: Faulty, scripts: str, point: Fault
) -> None:
    project.upgrade()
    corpus = documents(DOCUMENTS)
    corpus[0]["text"] = "Changed since."
    project.write_corpus(corpus)
    if scripts == "without":
        for script in (project.root / "migrations" / "versions").glob("*move*.py"):
            script.unlink()

    project.kill("rollback", "articles", "--now", "--reason", "worse", at=point)
    result = command.rollback(project.settings, "articles", reason="worse")

    (entry,) = result["collections"]
    assert entry["live"] == "articles-0001" and "worse" in entry["reason"]
    assert project.live() == "fake-a"
    assert command.verify(project.settings)["holds"], "what changed is in the index"
    assert project.end_state().settled


def test_a_nightly_upgrade_settles_what_a_killed_rollback_left(project: Faulty) -> None:
    project.upgrade()
    corpus = documents(DOCUMENTS)
    corpus[0]["text"] = "Changed since."
    project.write_corpus(corpus)
    project.kill(
        "rollback", "articles", "--now", at=kill_at("embedmigrate.command.project:Project.settle")
    )

    assert project.end("upgrade").status == 3, "the rollback is sticky"

    assert project.live() == "fake-a"
    assert command.verify(project.settings)["holds"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_contract_carries_on(project: Faulty, when: str) -> None:
    project.upgrade()
    project.let_grace_pass()

    project.kill("contract", at=kill_at(f"{FAISS}.store:FaissStore.drop", when))
    command.contract(project.settings)

    assert [path.name for path in (project.root / "indexes").iterdir()] == ["articles-0002"]
    assert project.status()["retained"] == []
    assert command.verify(project.settings)["holds"]


NOTES = """
[collections.notes]
model = "fake-a"
store = { kind = "faiss", path = "indexes" }
source = { kind = "jsonl", path = "notes.jsonl", id = "_id", text = ["text"] }
"""


def test_a_collection_that_cannot_be_settled_does_not_keep_the_others(project: Faulty) -> None:
    with (project.root / "embedmigrate.toml").open("a", encoding="utf-8") as file:
        file.write(NOTES)
    project.write_corpus(documents(20), "notes.jsonl")
    project.kill("upgrade", at=kill_at(f"{COMMAND}.project:Project.settle"))
    project.write_corpus(documents(DOCUMENTS)[: DOCUMENTS // 2])  # half of them is too much
    project.revision("fake-a", "notes", collection="notes")

    assert project.end("upgrade").status == 3

    assert project.live("notes") == "fake-a"
    assert not project.end_state().settled
    assert project.end("upgrade", "--yes").status == 0
    assert project.end_state().settled and len(project.end_state().rows) == DOCUMENTS // 2
