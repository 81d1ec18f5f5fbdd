"""Prepare: from nothing to a ready index, resumed from wherever it stopped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from embedmigrate.catalog import journal, routes, runs
from embedmigrate.catalog.records import RunState
from embedmigrate.engine.job import StopSignal
from embedmigrate.engine.prepare import Transition, prepare
from embedmigrate.errors import (
    BadAnswer,
    Inconsistent,
    Refused,
    SourceMismatch,
    Stopped,
    VerificationFailed,
)
from tests.engine.parts import Bench


def transition(bench: Bench) -> Transition:
    return Transition(revision="r1", spec=bench.spec, leaves=None, allow_lag=True)


def test_every_document_is_embedded_once_and_accounted_for(bench: Bench) -> None:
    bench.source.texts |= {"empty": "", "blank": ""}

    with bench.locked() as lease:
        run = prepare(bench.job, lease, transition(bench))

    assert run.state is RunState.READY
    assert (run.total, run.done, run.skipped, run.pending) == (32, 30, 2, 0)
    assert set(bench.stored(run.index_name)) == set(bench.source.texts) - {"empty", "blank"}


def test_identical_texts_are_embedded_once(bench: Bench) -> None:
    bench.source.texts |= {f"copy{number:02d}": "the same words" for number in range(20)}

    with bench.locked() as lease:
        run = prepare(bench.job, lease, transition(bench))

    asked_while_building = bench.embedder.asked[: run.embedded]
    assert run.embedded == 31
    assert asked_while_building.count("the same words") == 1


def test_a_stopped_run_resumes_behind_its_last_batch(bench: Bench) -> None:
    bench.job.stop = stop = StopSignal()
    calls = 0

    def stop_in_the_third_batch(vectors: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 3:
            stop.set("a test")
        return vectors

    bench.embedder.spoil = stop_in_the_third_batch
    with bench.locked() as lease, pytest.raises(Stopped):
        prepare(bench.job, lease, transition(bench))
    paid = len(bench.embedder.asked)
    bench.job.stop = StopSignal()

    with bench.locked() as lease:
        run = prepare(bench.job, lease, transition(bench))

    assert run.state is RunState.READY
    assert paid + 8 >= 24 and run.embedded == 30
    assert len(set(bench.embedder.asked)) == 30


def test_a_change_behind_the_backfill_is_caught_up(bench: Bench) -> None:
    scans = 0

    def edit_what_was_read() -> None:
        nonlocal scans
        scans += 1
        if scans == 3:
            bench.source.texts["d00"] = "edited after it was read"
            bench.source.texts["a-new"] = "added behind the cursor"
            del bench.source.texts["d01"]

    bench.source.before_scan = edit_what_was_read
    with bench.locked() as lease:
        run = prepare(bench.job, lease, transition(bench))

    expected = {id: bench.source._document(id).content_hash for id in bench.source.texts}
    assert bench.stored(run.index_name) == expected
    with bench.catalog.read() as connection:
        assert journal.head(connection, "things") == 3, "each difference is a journal entry"


def test_a_wrong_answer_is_never_stored(bench: Bench) -> None:
    bench.embedder.spoil = lambda vectors: vectors * np.float32(np.nan)

    with bench.locked() as lease, pytest.raises(BadAnswer, match="not finite"):
        prepare(bench.job, lease, transition(bench))

    with bench.catalog.read() as connection:
        run = runs.latest(connection, "things")
    assert run is not None and run.state is RunState.FAILED
    assert bench.stored(run.index_name) == {}
    bench.embedder.spoil = lambda vectors: vectors
    with bench.locked() as lease:
        assert prepare(bench.job, lease, transition(bench)).state is RunState.READY


def test_what_a_model_raises_is_told_without_its_words(bench: Bench) -> None:
    def confide(vectors: np.ndarray) -> np.ndarray:
        raise RuntimeError(f"cannot embed {bench.embedder.asked[-1]!r}")

    bench.embedder.spoil = confide
    with bench.locked() as lease, pytest.raises(BadAnswer, match="RuntimeError") as failure:
        prepare(bench.job, lease, transition(bench))
    with bench.catalog.read() as connection:
        run = runs.latest(connection, "things")
    assert run is not None and "text 2" not in f"{failure.value} {run.reason}"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda vectors: np.roll(vectors, 1, axis=0),
        lambda vectors: np.tile(vectors[:1], (len(vectors), 1)),
    ],
    ids=["vectors that belong to other texts", "all vectors equal"],
)
@pytest.mark.parametrize("noticed", [True, False], ids=["by asking again", "by verification"])
def test_a_model_that_answers_plausible_nonsense_stops_before_ready(
    bench: Bench, spoil: object, noticed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.embedder.spoil = spoil  # type: ignore[assignment]
    if not noticed:
        monkeypatch.setattr("embedmigrate.engine.embedding.check_order", lambda *args: None)
    refusal = pytest.raises(Inconsistent) if noticed else pytest.raises(VerificationFailed)
    with bench.locked() as lease, refusal as refused:
        prepare(bench.job, lease, transition(bench))
    assert noticed or "I6" in str(refused.value)
    with bench.catalog.read() as connection:
        assert routes.get(connection, "things").candidate_index is None


def test_a_transition_that_leaves_another_model_is_refused(bench: Bench) -> None:
    elsewhere = replace(transition(bench), leaves="0" * 32)
    with bench.locked() as lease, pytest.raises(SourceMismatch):
        prepare(bench.job, lease, elsewhere)
    assert bench.embedder.asked == []


def test_a_source_that_lost_its_documents_is_not_followed_unasked(bench: Bench) -> None:
    with bench.locked() as lease:
        run = prepare(bench.job, lease, transition(bench))
        for number in range(20):
            del bench.source.texts[f"d{number:02d}"]
        with pytest.raises(Refused, match="no longer has 20 of 30"):
            prepare(bench.job, lease, transition(bench))
        assert len(bench.stored(run.index_name)) == 30
        bench.job.allow_mass_delete = True
        prepare(bench.job, lease, transition(bench))
        assert len(bench.stored(run.index_name)) == 10


def test_a_document_that_changes_in_every_round_is_a_lag_not_a_fault(bench: Bench) -> None:
    edits = 0
    states = bench.source.states

    def states_of_a_busy_source():  # type: ignore[no-untyped-def]
        nonlocal edits
        edits += 1
        bench.source.texts["d05"] = f"edit {edits}"
        return states()

    bench.source.states = states_of_a_busy_source  # type: ignore[method-assign]
    with bench.locked() as lease:
        assert prepare(bench.job, lease, transition(bench)).state is RunState.READY


def test_a_write_that_does_not_hold_is_a_fault(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedmigrate.stores.base import Written
    from embedmigrate.stores.faiss.writer import FaissWriter

    with bench.locked() as lease:
        prepare(bench.job, lease, transition(bench))
        bench.source.texts["d05"] = "edited"
        monkeypatch.setattr(FaissWriter, "write", lambda self, rows, vectors, space: Written(0, 0))
        with pytest.raises(VerificationFailed, match="I5"):
            prepare(bench.job, lease, transition(bench))
