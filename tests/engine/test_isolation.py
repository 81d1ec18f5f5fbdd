"""One text that a model cannot embed is found with few calls, and a model in trouble is not a text.

The model is the hashing embedder; what it may not be asked for, and what happens then, is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from embedmigrate.embedders.base import Vectors
from embedmigrate.engine.embedding import CALL_SIZE
from embedmigrate.engine.isolation import FEW, Isolation, reason_of
from embedmigrate.errors import (
    BadAnswer,
    Drifted,
    EmbedMigrateError,
    ModelMismatch,
    ModelRaised,
    NotFinite,
    Stopped,
    Temporary,
    TextRefused,
    WrongCount,
    ZeroVector,
)

SIZES = (1, 2, 3, 5, 7, 8, 17, 31, 33, 48, 63, CALL_SIZE)


class Model:
    """Answers each key with a vector of its own; raises for calls that hold a poisonous one."""

    def __init__(self, *poison: bytes, error: EmbedMigrateError | None = None) -> None:
        self.poison, self.calls = set(poison), 0
        self.error = error or NotFinite("not finite")
        self.probed = 0

    def ask(self, keys: Sequence[bytes]) -> Vectors:
        self.calls += 1
        if self.poison.intersection(keys):
            raise self.error
        return np.array([[int.from_bytes(key), 1] for key in keys], np.float32)

    def probe(self) -> None:
        self.probed += 1


def keys_of(count: int) -> list[bytes]:
    return [number.to_bytes(2) for number in range(count)]


def isolated(model: Model, keys: Sequence[bytes], **options: bool) -> Isolation:
    isolation = Isolation(model.ask, keys, model.probe, **options)
    for start in range(0, len(keys), CALL_SIZE):
        isolation.solve(keys[start : start + CALL_SIZE])
    return isolation


@pytest.mark.parametrize("size", SIZES)
def test_one_poisonous_text_costs_at_most_two_calls_a_halving(size: int) -> None:
    keys = keys_of(size)
    for position, poison in enumerate(keys):
        model = Model(poison)
        found = isolated(model, keys)
        extra = model.calls - 1

        assert extra <= 2 * math.log2(size), f"at {position} of {size}"
        assert found.failed == {poison: "a vector with values that are not finite"}
        assert set(found.vectors) == set(keys) - {poison}
        assert all(found.vectors[key][0] == int.from_bytes(key) for key in found.vectors)
        assert model.probed == (size == 1), "another text of the batch tells as much as a canary"


@pytest.mark.parametrize("count", [2, 3, 11, 40, 63])
def test_several_poisonous_texts_are_all_found(count: int) -> None:
    keys = keys_of(3 * CALL_SIZE)
    poison = keys[: 3 * count : 3]
    found = isolated(Model(*poison), keys)
    assert set(found.failed) == set(poison)
    assert set(found.vectors) == set(keys) - set(poison)


def test_a_call_that_fails_once_condemns_nobody() -> None:
    model = Model()
    answers = model.ask

    def first_one_fails(keys: Sequence[bytes]) -> Vectors:
        if model.calls == 0:
            model.calls += 1
            raise ModelRaised("failed", found="RuntimeError")
        return answers(keys)

    isolation = Isolation(first_one_fails, keys_of(8), model.probe)
    isolation.solve(keys_of(8))
    assert not isolation.failed and len(isolation.vectors) == 8


@pytest.mark.parametrize(
    "error",
    [
        Temporary("no answer"),
        WrongCount("half a batch"),
        ModelMismatch("another model"),
        Drifted("not itself"),
        Stopped("a signal"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_trouble_of_the_whole_model_is_raised_at_once(error: EmbedMigrateError) -> None:
    keys = keys_of(16)
    model = Model(keys[3], error=error)
    with pytest.raises(type(error)):
        isolated(model, keys)
    assert model.calls == 1


@pytest.mark.parametrize("size", [FEW + 1, 8, CALL_SIZE, 8 * CALL_SIZE])
def test_where_every_text_fails_it_is_the_model_though_it_answers_its_canaries(size: int) -> None:
    keys = keys_of(size)
    model = Model(*keys, error=ZeroVector("zero"))
    with pytest.raises(ZeroVector):
        isolated(model, keys)
    assert model.probed == 1
    assert model.calls <= 1 + 2 * math.log2(min(size, CALL_SIZE)) + FEW


def test_a_call_of_poisonous_texts_is_believed_when_another_one_is_answered() -> None:
    keys = keys_of(4 * CALL_SIZE)
    found = isolated(Model(*keys[:CALL_SIZE]), keys)
    assert set(found.failed) == set(keys[:CALL_SIZE])


@pytest.mark.parametrize("size", range(1, FEW + 1))
def test_a_few_texts_may_all_fail_when_the_canaries_hold(size: int) -> None:
    keys = keys_of(size)
    model = Model(*keys)
    assert set(isolated(model, keys).failed) == set(keys)
    assert model.probed == 1


def test_a_canary_that_fails_is_raised_and_nobody_is_condemned() -> None:
    model = Model(*keys_of(1))

    def drifted() -> None:
        raise Drifted("not itself")

    with pytest.raises(Drifted):
        Isolation(model.ask, keys_of(1), drifted).solve(keys_of(1))


def test_all_of_many_are_believed_when_somebody_says_so() -> None:
    keys = keys_of(20)
    assert set(isolated(Model(*keys), keys, believe=True).failed) == set(keys)


def test_without_a_probe_nothing_is_isolated() -> None:
    model = Model(keys_of(4)[2])
    with pytest.raises(NotFinite):
        Isolation(model.ask, keys_of(4), None).solve(keys_of(4))
    assert model.calls == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (lambda text: ModelRaised(text, found="RuntimeError"), "the model raises RuntimeError"),
        (lambda text: ModelRaised(text, found=text), "the model raises an exception"),
        (lambda text: TextRefused(text, found="413 APIStatusError"), "the server refuses it (413)"),
        (lambda text: TextRefused(text, found=text), "the server refuses it"),
        (lambda text: BadAnswer(text, found=text), "an answer that cannot be used"),
    ],
)
def test_a_reason_is_in_words_of_ours(
    error: Callable[[str], EmbedMigrateError], reason: str
) -> None:
    assert reason_of(error("the patient's name")) == reason
