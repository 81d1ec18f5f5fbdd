"""Fourteen ways in which a model can answer badly: none of them reaches a live index.

Each is met for ever and for one call only, by a backfill and by what follows changes. A command
either ends with a contracted status and leaves what is live alone, or with everything right; and
with a model that is well again the same command finishes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from embedmigrate.testing.embedders import KINDS, Kind
from tests import command_line
from tests.faults.conftest import DOCUMENTS, QUERY
from tests.faults.project import EndState, Faulty
from tests.workspace import documents

WELL = '[models.fake-b]\nprovider = "hashing-not-a-model"'
GENERAL = "[embedmigrate]\n"
EDITED = [{**it, "text": f"{it['text']} Edited."} for it in documents(DOCUMENTS)[:80]]
WORDS = "remark number"
"""In every document, and in no canary."""

FOR_EVER: dict[Kind, int] = {
    "wrong count": 1,
    "half a batch": 1,
    "exception": 1,
    "timeout": 75,
    "hang": 75,
}
"""Status when the model never answers well again; where it answers canaries badly, too, or a text
otherwise among others, it is not itself: 3."""
ONE_CALL: dict[Kind, int] = {"wrong count": 1, "half a batch": 1, "timeout": 75, "hang": 75}
"""Status when one call is answered badly; the others are asked again, and end well."""


def misbehave(project: Faulty, kind: Kind, **how: int | str) -> Callable[[], None]:
    """Make the pending model misbehave; returns what makes it well again."""
    settings = {"kind": kind, **how}
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
    ill = f'[models.fake-b]\nprovider = "misbehaving-not-a-model"\n{lines}'
    project.edit_config(WELL, ill)
    project.edit_config(GENERAL, f"{GENERAL}call_seconds = 0.5\n")

    def get_well() -> None:
        project.edit_config(ill, WELL)
        project.edit_config(f"{GENERAL}call_seconds = 0.5\n", GENERAL)

    return get_well


def command(project: Faulty, *args: str) -> command_line.Answer:
    answer = command_line.run(project.root, "-q", *args)
    assert WORDS not in answer.err + answer.out, "no text of a document is told"
    return answer


@pytest.fixture(scope="session")
def ready(template: Faulty, tmp_path_factory: pytest.TempPathFactory) -> Faulty:
    """The pending index is ready, and 80 documents were edited since. To be copied."""
    project = template.copy(tmp_path_factory.mktemp("faults") / "ready")
    project.upgrade(until_ready=True)
    project.write_corpus([*EDITED, *documents(DOCUMENTS)[80:]])
    return project


@pytest.fixture(scope="session")
def followed(ready: Faulty, tmp_path_factory: pytest.TempPathFactory) -> EndState:
    """What the cut-over of that leads to when nothing happens."""
    project = ready.copy(tmp_path_factory.mktemp("faults") / "followed")
    project.upgrade()
    return project.end_state([QUERY])


@pytest.mark.parametrize("kind", KINDS)
def test_a_backfill_with_a_model_that_stays_bad_stops(
    project: Faulty, undisturbed: EndState, kind: Kind
) -> None:
    get_well = misbehave(project, kind, first_call=3)

    answer = command(project, "upgrade")

    assert answer.code == FOR_EVER.get(kind, 3), answer.err
    status = project.status()
    assert status["live"]["model"] == "fake-a" and status["live"]["documents"] == DOCUMENTS
    assert status["dead_letters"] == [], "a model in trouble condemns no document"
    get_well()
    assert command(project, "upgrade").code == 0
    assert project.end_state([QUERY]).differences(undisturbed) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_backfill_with_one_bad_answer_stops_or_ends_right(
    project: Faulty, undisturbed: EndState, kind: Kind
) -> None:
    get_well = misbehave(project, kind, first_call=3, calls=1)

    answer = command(project, "upgrade")

    assert answer.code == ONE_CALL.get(kind, 0), answer.err
    get_well()
    assert command(project, "upgrade").code == 0
    assert project.end_state([QUERY]).differences(undisturbed) == []
    assert project.status()["dead_letters"] == []


@pytest.mark.parametrize("calls", [0, 1], ids=["for ever", "once"])
@pytest.mark.parametrize("kind", KINDS)
def test_changes_that_are_followed_stop_or_end_right(
    ready: Faulty, followed: EndState, tmp_path: Path, kind: Kind, calls: int
) -> None:
    project = ready.copy(tmp_path / "project")
    get_well = misbehave(project, kind, calls=calls)

    answer = command(project, "cutover")

    expected = {**FOR_EVER, **(ONE_CALL if calls else {})}
    # what the witness or an order shows is not asked for again here: nothing was written
    passes = calls and kind not in {*ONE_CALL, "swapped order", "all equal", *ALONE}
    assert answer.code == (0 if passes else expected.get(kind, 3)), answer.err
    assert passes or project.live() == "fake-a"
    get_well()
    assert command(project, "cutover").code == 0
    assert project.end_state([QUERY]).differences(followed) == []
    assert project.status()["dead_letters"] == []


ALONE = ("truncated", "other model")
"""Answers that are seen because a text is answered otherwise when it is asked for again."""
