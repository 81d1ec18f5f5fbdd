"""I18: what a model made counts only when the model was itself, before and after."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from embedmigrate.catalog import dead_letters, events, indexes, requests, runs
from embedmigrate.catalog.records import RunRecord, RunState
from embedmigrate.embedders.base import Embedder, Vectors
from embedmigrate.embedders.measuring import measured, record_of
from embedmigrate.engine import guard as guard_module
from embedmigrate.engine.control import comply
from embedmigrate.engine.job import StopSignal
from embedmigrate.engine.prepare import Transition, prepare
from embedmigrate.errors import Drifted, Stopped, VerificationFailed
from embedmigrate.models import EmbeddingModel
from embedmigrate.models.witness import Witness
from embedmigrate.testing.embedders import Misbehaving
from tests.engine.parts import Bench, ListSource

DOCUMENTS = 60
BATCH, WINDOW = 8, 2


def rotated(vectors: Vectors) -> Vectors:
    """Another model of the same dimension and the same norms."""
    return np.ascontiguousarray(np.roll(vectors, 1, axis=1))


@pytest.fixture
def pinned(tmp_path: Path) -> Bench:
    """A collection whose model has a witness, and is checked every two batches."""
    bench = Bench(tmp_path, ListSource({f"d{n:02d}": f"text {n}" for n in range(DOCUMENTS)}))
    witness = Witness((record_of(bench.embedder, measured(bench.embedder)),))
    bench.job.pinned_witness = lambda model: witness
    bench.job.batch_size, bench.job.witness_batches = BATCH, WINDOW
    return bench


def run_it(bench: Bench, again: str | None = None) -> RunRecord:
    with bench.locked() as lease:
        first = Transition("r1", bench.spec, None, allow_lag=True)
        return prepare(bench.job, lease, first, again=again)


class Swap:
    """The model becomes another one after so many documents, until after so many more."""

    def __init__(self, bench: Bench, first: int, last: int | None = None) -> None:
        self.bench, self.first, self.last = bench, first, last
        bench.embedder.spoil = bench.embedder.spoil_canaries = self

    def __call__(self, vectors: Vectors) -> Vectors:
        asked = len(self.bench.embedder.asked)
        is_other = asked > self.first and (self.last is None or asked <= self.last)
        return rotated(vectors) if is_other else vectors


def wrong_vectors(bench: Bench, index: str = "things-0001") -> int:
    """Vectors in the store that the pinned model did not make."""
    itself: Callable[[Vectors], Vectors] = lambda vectors: vectors  # noqa: E731
    bench.embedder.spoil = itself
    with closing(bench.job.store.reader(index)) as reader:
        keys = [(state.id, state.chunk) for state in reader.states()]
        stored = reader.vectors(keys)
    expected = bench.embedder.embed_documents([bench.source.texts[id] for id, _ in keys])
    return int((np.abs(stored - expected).max(axis=1) > 1e-6).sum())


def discarded(bench: Bench) -> dict[str, object] | None:
    with bench.catalog.read() as connection:
        event = events.last(connection, "things", "window_discarded")
    return None if event is None else event["data"]


def test_a_model_that_is_not_itself_at_the_start_embeds_nothing(pinned: Bench) -> None:
    pinned.embedder.spoil_canaries = rotated
    with pytest.raises(Drifted, match="does not behave as it did") as refusal:
        run_it(pinned)
    assert refusal.value.exit_code == 3
    assert pinned.embedder.asked == []


def test_a_window_in_which_the_model_was_another_is_done_again(pinned: Bench) -> None:
    Swap(pinned, first=20, last=32)

    run = run_it(pinned)

    assert wrong_vectors(pinned) == 0
    window = discarded(pinned)
    assert window is not None and window["batches"] == WINDOW
    with pinned.catalog.read() as connection:
        done = runs.latest(connection, "things")
    assert done == run and done is not None and done.state is RunState.READY
    assert (done.done, done.total, done.pending) == (DOCUMENTS, DOCUMENTS, 0)
    assert done.embedded == DOCUMENTS + BATCH * WINDOW, "what was paid twice is counted"


def test_a_model_that_stays_another_stops_the_run_and_leaves_nothing_of_it(pinned: Bench) -> None:
    Swap(pinned, first=20)
    with pytest.raises(Drifted):
        run_it(pinned)

    assert wrong_vectors(pinned) == 0
    with closing(pinned.job.store.reader("things-0001")) as reader:
        assert reader.statistics().vectors == BATCH * WINDOW, "the first window was good"
    with pinned.catalog.read() as connection:
        run = runs.latest(connection, "things")
    assert run is not None and run.state is RunState.FAILED and run.done == BATCH * WINDOW
    assert run.pending == run.total - run.done

    pinned.job.close()
    pinned.embedder.spoil_canaries = pinned.embedder.spoil
    before = run.embedded
    again = run_it(pinned)

    assert again.embedded - before == DOCUMENTS - BATCH * WINDOW
    assert wrong_vectors(pinned) == 0


def test_the_open_window_of_a_runner_that_died_is_closed_by_the_next_one(
    pinned: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    Swap(pinned, first=0)

    def dies(self: guard_module.Guard) -> None:
        raise Stopped("killed before it could check")

    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(guard_module.Guard, "check", dies)
        run_it(pinned)
    with pinned.catalog.read() as connection:
        run = runs.latest(connection, "things")
        assert run is not None and runs.has_open_window(connection, run.id)
    pinned.job.close()

    with pytest.raises(Drifted):  # the next runner finds the model still another
        run_it(pinned)

    with pinned.catalog.read() as connection:
        assert not runs.has_open_window(connection, run.id)
    assert discarded(pinned) is not None and wrong_vectors(pinned) == 0
    pinned.job.close()
    pinned.embedder.spoil_canaries = pinned.embedder.spoil
    run_it(pinned)
    assert wrong_vectors(pinned) == 0


def test_a_run_that_is_stopped_in_a_window_of_another_model_leaves_nothing_of_it(
    pinned: Bench,
) -> None:
    swap = Swap(pinned, first=16)

    def stops(vectors: Vectors) -> Vectors:
        if len(pinned.embedder.asked) > 24:
            pinned.job.stop.set("a signal")
        return swap(vectors)

    pinned.embedder.spoil = stops
    pinned.job.witness_batches = 5
    with pytest.raises(Stopped):
        run_it(pinned)

    assert discarded(pinned) is not None and wrong_vectors(pinned) == 0
    pinned.job.close()
    pinned.job.stop = StopSignal()
    pinned.embedder.spoil_canaries = pinned.embedder.spoil
    assert run_it(pinned).state is RunState.READY
    assert wrong_vectors(pinned) == 0


@pytest.mark.parametrize("files", [True, False], ids=["pinned by files", "behind a server"])
@pytest.mark.parametrize("cancelled", [False, True], ids=["resumed", "cancelled and begun again"])
def test_a_window_that_a_kill_left_open_counts_only_where_files_prove_who_made_it(
    pinned: Bench, monkeypatch: pytest.MonkeyPatch, files: bool, cancelled: bool
) -> None:
    if not files:
        served = EmbeddingModel(
            name="served",
            vendor="acme",
            dimensions=pinned.embedder.model.dimensions,
            normalize=True,
            witness="sha256:" + "a" * 64,
        )
        pinned.embedder.model = served
        pinned.spec = pinned.spec.model_copy(update={"model": served})
        witness = Witness((record_of(pinned.embedder, measured(pinned.embedder)),))
        pinned.job.pinned_witness = lambda model: witness

    def killed(self: guard_module.Guard) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(guard_module.Guard, "check", killed)
        run_it(pinned)
    pinned.job.close()
    if cancelled:
        with pinned.catalog.write() as connection:
            requests.file(connection, "things", requests.Wanted.CANCEL, None, None)
        with pinned.locked() as lease:
            comply(pinned.catalog, lease)

    run = run_it(pinned, again="go on" if cancelled else None)

    spent = BATCH * WINDOW
    again = 0 if files else spent
    assert run.embedded == DOCUMENTS + again - (spent if cancelled else 0)
    assert run.done == DOCUMENTS
    assert (discarded(pinned) is None) is files


def test_an_index_that_was_found_to_hold_wrong_vectors_is_not_built_on_again(
    pinned: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(guard_module.Guard, "check", lambda self: None)
        Swap(pinned, first=8)
        with pytest.raises(VerificationFailed, match="I6"):
            run_it(pinned)
    pinned.job.close()
    itself: Callable[[Vectors], Vectors] = lambda vectors: vectors  # noqa: E731
    pinned.embedder.spoil = pinned.embedder.spoil_canaries = itself

    run = run_it(pinned)

    assert run.index_name == "things-0002" and run.state is RunState.READY
    assert wrong_vectors(pinned, "things-0002") == 0


def test_without_the_check_the_index_is_a_mix(
    pinned: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard_module.Guard, "check", lambda self: None)
    monkeypatch.setattr("embedmigrate.engine.prepare.verify", lambda *args, **options: [])
    Swap(pinned, first=20, last=32)
    run_it(pinned)
    assert wrong_vectors(pinned) > 0


def test_changes_that_are_followed_are_written_after_the_check(pinned: Bench) -> None:
    run_it(pinned)
    pinned.job.close()
    pinned.source.texts["d00"] = "edited"
    asked = len(pinned.embedder.asked)
    Swap(pinned, first=asked)
    with pytest.raises(Drifted):
        run_it(pinned)
    with pinned.catalog.read() as connection:
        position = indexes.get(connection, "things-0001").position
    assert pinned.stored("things-0001")["d00"] != pinned.source._document("d00").content_hash
    assert position == 0, "the change is still to be applied"


def test_a_discarded_window_takes_its_dead_letters_along(
    pinned: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model was another one: that it refused a text proves nothing."""
    ill = Misbehaving(pinned.embedder, "NaN", holding="text 7")
    pinned.job.load_embedder = lambda model: cast(Embedder, ill)
    found: list[int] = []

    def drifted(self: guard_module.Guard) -> None:
        with pinned.catalog.read() as connection:
            found.append(dead_letters.count(connection, "things-0001"))
        raise Drifted("another model")

    with monkeypatch.context() as patched, pytest.raises(Drifted):
        patched.setattr(guard_module.Guard, "check", drifted)
        run_it(pinned)

    assert found == [1, 1], "found in both attempts, before the check"
    with pinned.catalog.read() as connection:
        run = runs.latest(connection, "things")
        assert dead_letters.count(connection, "things-0001") == 0
    assert run is not None and (run.done, run.failed, run.pending) == (0, 0, DOCUMENTS)

    pinned.job.close()
    ill.kind = None
    assert run_it(pinned).done == DOCUMENTS


def test_a_platform_that_was_never_seen_is_remembered(pinned: Bench) -> None:
    notes: list[str] = []
    pinned.job.reporter.note = notes.append  # type: ignore[method-assign, assignment]
    pinned.embedder.runtime = "another runtime"
    run_it(pinned)
    assert any("no record of another runtime" in note for note in notes)

    pinned.job.close()
    notes.clear()
    pinned.source.texts["d00"] = "edited"
    run_it(pinned)
    assert not any("no record" in note for note in notes)
