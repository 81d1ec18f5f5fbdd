"""Documents that a model cannot embed are set apart, listed, and never lost, counted twice or
taken for fresh; a cut-over waits for them as long as its script says so."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from embedmigrate import command
from embedmigrate.catalog import Catalog, dead_letters, journal, routes, runs
from embedmigrate.errors import DeadLetters, Refused, ScriptError
from tests import command_line
from tests.faults.project import Faulty, kill_at
from tests.workspace import Workspace, documents

WELL = '[models.fake-b]\nprovider = "hashing-not-a-model"'
ILL = '[models.fake-b]\nprovider = "misbehaving-not-a-model"\nkind = "{}"\nholding = "poison"'
COUNT = 60
POISONED = ("doc-000007", "doc-000033")


def corpus(poisoned: Iterable[str] = POISONED, edited: Iterable[str] = ()) -> list[dict[str, str]]:
    changed = {**dict.fromkeys(edited, " Edited."), **dict.fromkeys(poisoned, " Some poison.")}
    return [{**it, "text": it["text"] + changed.get(it["_id"], "")} for it in documents(COUNT)]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Faulty:
    """`fake-a` is live; `fake-b`, pending, answers NaN for two of the documents."""
    root = tmp_path_factory.mktemp("letters") / "template"
    project = Faulty.prepared(root, corpus(), "fake-a", "fake-b", batch_size=16)
    project.edit_config(WELL, ILL.format("NaN"))
    return project


@pytest.fixture
def project(template: Faulty, tmp_path: Path) -> Faulty:
    return template.copy(tmp_path / "project")


def allow(project: Workspace, count: int | str) -> None:
    (script,) = [
        path
        for path in (project.root / "migrations" / "versions").glob("*.py")
        if "target=FAKE_B" in path.read_text("utf-8")
    ]
    text = script.read_text("utf-8")
    script.write_text(
        text.replace("target=FAKE_B,", f"target=FAKE_B,\n        allow_failed={count},"), "utf-8"
    )


def get_well(project: Workspace) -> None:
    project.edit_config(ILL.format("NaN"), WELL)


def letters(project: Workspace) -> dict[str, int]:
    """Attempts by id, of every index."""
    with closing(sqlite3.connect(project.root / "catalog.db")) as catalog:
        rows = catalog.execute("SELECT document_id, attempts FROM embedmigrate_dead_letter")
        return dict(rows.fetchall())


def indexed(project: Workspace, index: str) -> set[str]:
    with closing(project.settings.open_store("articles").reader(index)) as reader:
        return {state.id for state in reader.states()}


def balances(project: Workspace) -> dict[str, Any]:
    shadow = project.status()["shadow"]
    assert shadow["done"] + shadow["failed"] + shadow["skipped"] == shadow["total"]
    return shadow  # type: ignore[no-any-return]


def live_again(project: Faulty) -> None:
    """Cut over with two dead letters, then be well."""
    allow(project, 2)
    project.upgrade()


# -- the cut-over -----------------------------------------------------------------------------


def test_dead_letters_stop_the_cut_over_and_nothing_else(project: Faulty) -> None:
    answer = command_line.run(project.root, "-q", "upgrade")

    assert answer.code == 6
    assert "2 documents of 'articles' cannot be embedded" in answer.err
    assert "'doc-000007': a vector with values that are not finite" in answer.err
    assert "Some poison" not in answer.err
    assert project.live() == "fake-a"
    shadow = balances(project)
    assert (shadow["done"], shadow["failed"], shadow["total"]) == (COUNT - 2, 2, COUNT)
    assert indexed(project, shadow["index"]) == {it["_id"] for it in corpus()} - set(POISONED)


@pytest.mark.parametrize(
    "again", [["upgrade"], ["upgrade", "--until", "ready"], ["cutover"]], ids=" ".join
)
def test_every_way_to_a_cut_over_is_refused(project: Faulty, again: list[str]) -> None:
    command_line.run(project.root, "-q", "upgrade")
    asked = project.texts_asked()

    answer = command_line.run(project.root, "-q", *again)

    assert answer.code == 6 and project.live() == "fake-a"
    assert project.texts_asked() == asked and letters(project) == dict.fromkeys(POISONED, 1), (
        "nobody pays again for what is known to be dead"
    )


def test_a_script_allows_so_many_and_no_more(project: Faulty) -> None:
    allow(project, 1)
    assert command_line.run(project.root, "-q", "upgrade").code == 6

    script = next(
        path
        for path in (project.root / "migrations" / "versions").glob("*.py")
        if "allow_failed=1" in path.read_text("utf-8")
    )
    script.write_text(script.read_text("utf-8").replace("allow_failed=1", "allow_failed=2"))
    answer = command_line.run(project.root, "-q", "upgrade")

    assert answer.code == 0 and "2 failed" in answer.out
    assert project.live() == "fake-b"
    assert project.status()["live"]["documents"] == COUNT - 2


@pytest.mark.parametrize("count", ["-1", "True", '"2"', "2.0"])
def test_what_a_script_allows_is_a_number_of_documents(project: Faulty, count: str) -> None:
    allow(project, count)
    with pytest.raises(ScriptError, match="allow_failed"):
        command.plan(project.settings)


def test_what_a_script_allows_is_literal(project: Faulty) -> None:
    allow(project, "int('2')")
    result = command.check_policy(project.settings)
    assert not result["agrees"]
    assert any("allow_failed" in finding["message"] for finding in result["findings"])


# -- the way out ------------------------------------------------------------------------------


def test_a_corrected_document_leaves_the_list_and_the_run_ends(project: Faulty) -> None:
    command_line.run(project.root, "-q", "upgrade")
    project.write_corpus(corpus(poisoned=[], edited=POISONED))

    (entry,) = project.upgrade()

    assert entry["live"] and (entry["done"], entry["failed"]) == (COUNT, 0)
    assert letters(project) == {}


def test_a_deleted_document_leaves_the_list(project: Faulty) -> None:
    command_line.run(project.root, "-q", "upgrade")
    project.write_corpus(it for it in corpus() if it["_id"] not in POISONED)

    (entry,) = project.upgrade()

    assert entry["live"] and entry["total"] == COUNT - 2
    assert letters(project) == {}


def test_a_document_without_text_leaves_the_list(project: Faulty) -> None:
    command_line.run(project.root, "-q", "upgrade")
    emptied = [{**it, "title": "", "text": ""} if it["_id"] in POISONED else it for it in corpus()]
    project.write_corpus(emptied)

    (entry,) = project.upgrade()

    assert (entry["done"], entry["skipped"], entry["failed"]) == (COUNT - 2, 2, 0)
    assert letters(project) == {}


def test_one_that_fails_again_counts_an_attempt(project: Faulty) -> None:
    command_line.run(project.root, "-q", "upgrade")
    one, other = POISONED
    edited = [{**it, "title": "new"} if it["_id"] == one else it for it in corpus()]
    project.write_corpus(edited)

    assert command_line.run(project.root, "-q", "upgrade").code == 6

    assert letters(project) == {one: 2, other: 1}
    balances(project)


def test_a_model_that_is_well_again_does_it_when_asked_to_retry(project: Faulty) -> None:
    command_line.run(project.root, "-q", "upgrade")
    assert command_line.run(project.root, "-q", "upgrade", "--retry-failed").code == 6
    assert set(letters(project).values()) == {2}
    get_well(project)
    assert command_line.run(project.root, "-q", "upgrade").code == 6, "nobody asked to retry"

    answer = command_line.run(project.root, "-q", "upgrade", "--retry-failed")

    assert answer.code == 0 and project.live() == "fake-b"
    assert letters(project) == {} and project.status()["live"]["documents"] == COUNT


def test_a_live_index_is_retried_as_well(project: Faulty) -> None:
    live_again(project)
    answer = command_line.run(project.root, "-q", "upgrade", "--retry-failed")
    assert answer.code == 6 and set(letters(project).values()) == {2}

    get_well(project)
    assert command_line.run(project.root, "-q", "upgrade", "--retry-failed").code == 0

    assert letters(project) == {} and project.status()["live"]["documents"] == COUNT
    assert command.verify(project.settings)["holds"]


# -- what an index holds ----------------------------------------------------------------------


def test_a_document_that_became_dead_is_taken_out_and_not_called_fresh(project: Faulty) -> None:
    """Ready, then edited into something that the model cannot embed, then followed."""
    allow(project, 3)
    project.upgrade(until_ready=True)
    victim = "doc-000011"
    project.write_corpus(corpus(poisoned=[*POISONED, victim]))

    (entry,) = project.upgrade()

    assert entry["live"] and victim in letters(project)
    assert victim not in indexed(project, entry["index"])
    assert (entry["done"], entry["failed"]) == (COUNT - 3, 3)
    result = command.verify(project.settings)
    assert result["holds"] and result["collections"][0]["failed"] == 3

    project.write_corpus(corpus(poisoned=POISONED, edited=[victim]))
    command.upgrade(project.settings, retry_failed=False)  # nothing is pending, nothing is followed
    result = command.verify(project.settings)
    assert not result["holds"], "what was corrected is missing now, and not accepted as dead"


def test_one_that_comes_between_ready_and_the_switch_stops_it(
    project: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(project, 2)

    def meanwhile(*_: Any) -> None:
        with Catalog(project.settings.catalog_url) as catalog, catalog.write() as connection:
            one = dead_letters.Failed("doc-000011", b"0" * 16, "a test", 1)
            dead_letters.record(connection, "articles-0002", [one])

    monkeypatch.setattr("embedmigrate.command.forward.ask_before_cutover", meanwhile)
    with pytest.raises(DeadLetters):
        project.upgrade()
    assert project.live() == "fake-a"


def test_more_than_the_script_allows_after_it_was_ready_stop_the_cut_over(project: Faulty) -> None:
    allow(project, 2)
    project.upgrade(until_ready=True)
    project.write_corpus(corpus(poisoned=[*POISONED, "doc-000011"]))

    assert command_line.run(project.root, "-q", "cutover").code == 6

    assert project.live() == "fake-a"
    project.write_corpus(corpus())
    assert command_line.run(project.root, "-q", "cutover").code == 6, "it was said to be prepared"
    assert command_line.run(project.root, "-q", "upgrade").code == 0
    assert project.live() == "fake-b"


def test_a_shadow_that_is_given_up_takes_its_dead_letters_along(project: Faulty) -> None:
    with pytest.raises(DeadLetters):
        project.upgrade()
    assert set(letters(project)) == set(POISONED)
    command.cancel(project.settings, "articles", reason="another model", drop=True)
    assert letters(project) == {}


def test_lists_belong_to_their_index(project: Faulty) -> None:
    live_again(project)
    command.rollback(project.settings, "articles")

    assert project.status()["live"]["documents"] == COUNT, "the old model embeds all"
    (listed,) = project.status()["dead_letters"]
    assert listed["index"] == "articles-0002"
    project.let_grace_pass()
    command.contract(project.settings)
    assert letters(project) == {}, "a list goes with its index"


# -- what is told -----------------------------------------------------------------------------


def test_status_lists_them_by_id_and_reason(project: Faulty) -> None:
    command_line.run(project.root, "-q", "upgrade")

    (listed,) = json.loads(command_line.run(project.root, "status", "--json").out)["collections"][
        0
    ]["dead_letters"]
    text = command_line.run(project.root, "status").out

    assert (listed["index"], listed["count"]) == ("articles-0002", 2)
    first = listed["documents"][0]
    assert (first["document_id"], first["chunk"], first["attempts"]) == (POISONED[0], 0, 1)
    assert first["first_at"] <= first["last_at"]
    assert "2 documents of articles-0002 cannot be embedded" in text
    assert f"{POISONED[0]}: a vector with values that are not finite, 1 attempt\n" in text


@pytest.mark.parametrize("kind", ["exception", "zero vector", "infinity", "wrong norm"])
def test_a_reason_says_what_happened_and_holds_no_text(project: Faulty, kind: str) -> None:
    project.edit_config('kind = "NaN"', f'kind = "{kind}"')
    assert command_line.run(project.root, "-q", "upgrade").code == 6
    with closing(sqlite3.connect(project.root / "catalog.db")) as catalog:
        dump = "\n".join(catalog.iterdump())
    assert "remark number" not in dump and "Some poison" not in dump
    reasons = {letter["reason"] for letter in project.status()["dead_letters"][0]["documents"]}
    assert len(reasons) == 1


def test_an_audit_counts_them_apart_from_what_is_missing(project: Faulty) -> None:
    live_again(project)
    result = command.audit(project.settings, "articles")
    (entry,) = result["collections"]
    assert result["clean"] and (entry["failed"], entry["missing"]) == (2, 0)


# -- nothing is lost or counted twice ---------------------------------------------------------


@pytest.mark.parametrize(
    "at",
    [
        kill_at("embedmigrate.engine.dead_letters:take_out", "after"),
        kill_at("embedmigrate.catalog.runs:finish_batch", "after", 1),
        kill_at("embedmigrate.catalog.dead_letters:record", "after", 1),
        kill_at("embedmigrate.catalog.dead_letters:record", "after", 3),
        kill_at("embedmigrate.engine.prepare:verify", "after"),
        kill_at("embedmigrate.engine.dead_letters:refusal", "after"),
    ],
    ids=lambda at: f"{at['at'].rpartition(':')[2]} {at['call']}",
)
def test_a_kill_loses_none_and_counts_none_twice(project: Faulty, at: dict[str, Any]) -> None:
    project.kill("upgrade", at=at)
    with Catalog(project.settings.catalog_url) as catalog, catalog.read() as connection:
        run = runs.latest(connection, "articles", index="articles-0002")
        assert run is not None and run.pending >= 0
        assert dead_letters.count(connection, "articles-0002") == run.failed

    assert command_line.run(project.root, "-q", "upgrade").code == 6

    assert letters(project) == dict.fromkeys(POISONED, 1)
    shadow = balances(project)
    assert (shadow["done"], shadow["failed"]) == (COUNT - 2, 2)


def test_a_kill_while_a_retry_is_followed_forgets_nobody(project: Faulty) -> None:
    live_again(project)
    get_well(project)
    project.kill(
        "upgrade",
        "--retry-failed",
        at=kill_at("embedmigrate.catalog.dead_letters:forget", "before"),
    )
    assert set(letters(project)) == set(POISONED)

    assert command_line.run(project.root, "-q", "upgrade", "--retry-failed").code == 0

    assert letters(project) == {} and project.status()["live"]["documents"] == COUNT
    assert command.verify(project.settings)["holds"]


def test_an_entry_about_an_unchanged_dead_document_costs_nothing(project: Faulty) -> None:
    allow(project, 2)
    project.upgrade(until_ready=True)
    with Catalog(project.settings.catalog_url) as catalog, catalog.write() as connection:
        journal.append(connection, "articles", [(id, "changed") for id in POISONED])
        assert routes.get(connection, "articles").candidate_index == "articles-0002"
    project.write_corpus(corpus(edited=["doc-000001"]))
    calls = len(project.asked())

    project.upgrade()

    assert [len(texts) for _, who, texts in project.asked()[calls:] if who != "verify"] == [1]
    assert letters(project) == dict.fromkeys(POISONED, 1)


# -- when it is not the documents -------------------------------------------------------------


def test_a_model_that_fails_on_too_many_is_not_believed_unless_somebody_says_so(
    project: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedmigrate.engine.dead_letters.ALWAYS_BELIEVED", 3)
    project.write_corpus(corpus(poisoned=[it["_id"] for it in documents(COUNT)[::4]]))

    with pytest.raises(Refused, match=r"cannot embed \d+ of 60 documents") as refused:
        project.upgrade()

    assert "add --yes" in str(refused.value) and project.live() == "fake-a"
    assert len(letters(project)) <= 6
    with pytest.raises(DeadLetters, match="15 documents"):
        project.upgrade(allow_mass_delete=True)
    assert len(letters(project)) == 15
    project.write_corpus(corpus(poisoned=[]))
    assert project.upgrade()[0]["live"] and letters(project) == {}
