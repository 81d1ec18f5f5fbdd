"""What a sample proves: the formulas against their definitions, tables, and an independent library.

The expected figures of Clopper-Pearson and Wilson are those of ``scipy.stats``: ``beta.ppf``
and ``binomtest(...).proportion_ci``.
"""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from embedmigrate.engine.statistics import sample_rows, sample_size, upper_bound, wilson


@pytest.mark.parametrize(
    ("share", "confidence", "expected"),
    [(0.01, 0.99, 459), (0.01, 0.95, 299), (0.001, 0.99, 4603), (0.5, 0.75, 2), (0.9, 0.5, 1)],
)
def test_the_sample_is_the_smallest_that_is_large_enough(
    share: float, confidence: float, expected: int
) -> None:
    n = sample_size(share, confidence)
    assert n == expected
    assert 1 - (1 - share) ** n >= confidence
    assert n == 1 or 1 - (1 - share) ** (n - 1) < confidence


@pytest.mark.parametrize("share", [0.5, 0.1, 0.05, 0.02, 0.0001])
@pytest.mark.parametrize("confidence", [0.5, 0.75, 0.9, 0.99, 0.9999])
def test_no_rounding_makes_the_sample_too_small(share: float, confidence: float) -> None:
    n = sample_size(share, confidence)
    assert -math.expm1(n * math.log1p(-share)) >= confidence
    assert n == 1 or -math.expm1((n - 1) * math.log1p(-share)) < confidence


def test_the_bound_belongs_to_the_sample_size() -> None:
    assert 0.0099 < upper_bound(459, 0.99) <= 0.01 < upper_bound(458, 0.99)
    assert upper_bound(300, 0.95) == pytest.approx(3 / 300, rel=0.01)
    assert upper_bound(0, 0.99) == 1.0


@pytest.mark.parametrize(
    ("found", "n", "confidence", "expected"),
    [
        (1, 459, 0.99, 0.014374),
        (5, 100, 0.95, 0.102253),
        (50, 100, 0.95, 0.586378),
        (400, 1000, 0.99, 0.436882),
        (9, 10, 0.95, 0.994884),
        (10, 10, 0.95, 1.0),
    ],
)
def test_what_was_found_raises_the_bound_exactly(
    found: int, n: int, confidence: float, expected: float
) -> None:
    assert upper_bound(n, confidence, found) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("successes", "n", "expected"),
    [
        (0, 10, (0, 0.277533)),
        (10, 10, (0.722467, 1)),
        (5, 10, (0.236593, 0.763407)),
        (90, 100, (0.825634, 0.944770)),
        (1, 459, (0.000385, 0.012236)),
        (0, 0, (0, 1)),
    ],
)
def test_the_interval_is_wilsons(successes: int, n: int, expected: tuple[float, float]) -> None:
    assert wilson(successes, n, 0.95) == pytest.approx(expected, abs=1e-6)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    drawn = np.random.default_rng(0).binomial(459, 0.1, 4000).tolist()
    covered = [low <= 0.1 <= high for low, high in (wilson(it, 459, 0.95) for it in drawn)]
    assert 0.94 < np.mean(covered) < 0.965


def test_a_sample_is_drawn_without_replacement_and_repeats_with_its_seed() -> None:
    rows = sample_rows(1000, 459, seed=7)
    assert len(np.unique(rows)) == 459 and (np.diff(rows) > 0).all()
    assert rows.min() >= 0 and rows.max() < 1000
    np.testing.assert_array_equal(rows, sample_rows(1000, 459, seed=7))
    assert not np.array_equal(rows, sample_rows(1000, 459, seed=8))
    np.testing.assert_array_equal(sample_rows(3, 459, seed=7), [0, 1, 2])
    assert len(sample_rows(0, 459, seed=7)) == 0


def test_every_row_is_as_likely_as_every_other() -> None:
    drawn = np.bincount(np.concatenate([sample_rows(50, 10, s) for s in range(5000)]))
    assert drawn.shape == (50,) and np.abs(drawn - 1000).max() < 4.5 * math.sqrt(800)


def test_memory_grows_with_the_sample_and_not_with_the_rows() -> None:
    tracemalloc.start()
    sample_rows(10**12, 459, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.1, 99])
def test_what_is_no_probability_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        sample_size(probability, 0.99)
    with pytest.raises(ValueError, match="between 0 and 1"):
        wilson(1, 2, probability)
    with pytest.raises(ValueError, match="3 <= 2"):
        upper_bound(2, 0.9, found=3)
