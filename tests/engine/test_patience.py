"""A call that does not come back is not waited for for ever."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from embedmigrate.catalog import locks
from embedmigrate.catalog.records import RunState
from embedmigrate.embedders.hashing import HashingEmbedder
from embedmigrate.engine.patience import Patient
from embedmigrate.engine.prepare import Transition, prepare
from embedmigrate.errors import Temporary
from embedmigrate.testing.embedders import Misbehaving
from tests.engine.parts import HASHING, Bench


def hashing() -> HashingEmbedder:
    model = HashingEmbedder.identify("hashing", HASHING, Path())
    return HashingEmbedder.load(HASHING, model, Path())


def test_answers_and_exceptions_come_through() -> None:
    patient = Patient(hashing(), 5)
    expected = hashing().embed_documents(["a", "b"])
    assert np.array_equal(patient.embed_documents(["a", "b"]), expected)
    assert np.array_equal(patient.embed_queries(["a", "b"]), expected)
    assert patient.model == hashing().model
    with pytest.raises(RuntimeError):
        Patient(Misbehaving(hashing(), "exception"), 5).embed_documents(["some"])  # type: ignore[arg-type]


def test_a_hang_is_temporary_and_the_model_is_left_alone() -> None:
    class Closing(Misbehaving):
        closed = False

        def close(self) -> None:
            self.closed = True

    hanging = Closing(hashing(), "hang")
    patient = Patient(hanging, 0.1)  # type: ignore[arg-type]
    begun = time.monotonic()
    with pytest.raises(Temporary, match="does not answer"):
        patient.embed_documents(["a secret"])
    assert time.monotonic() - begun < 2
    patient.close()
    assert not hanging.closed


@pytest.mark.parametrize("first_call", [1, 3])
def test_a_hang_gives_the_lock_back_and_the_run_goes_on_later(
    bench: Bench, first_call: int
) -> None:
    ill = Misbehaving(bench.embedder, "hang", first_call=first_call)
    bench.job.load_embedder = lambda model: ill  # type: ignore[assignment, return-value]
    bench.job.call_seconds = 0.2

    with pytest.raises(Temporary), bench.locked() as lease:
        prepare(bench.job, lease, Transition("r1", bench.spec, None, allow_lag=True))

    with bench.catalog.read() as connection:
        assert locks.holder(connection, "things") is None
    bench.job.close()
    ill.kind = None
    with bench.locked() as lease:
        run = prepare(bench.job, lease, Transition("r1", bench.spec, None, allow_lag=True))
    assert run.state is RunState.READY and run.done == run.total
