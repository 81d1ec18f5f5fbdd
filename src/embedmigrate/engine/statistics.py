"""What a sample proves about everything that was not looked at.

Every formula takes the sample as drawn at random from much more than itself. Drawn without
replacement from little, it proves more than they say, never less.
"""

from __future__ import annotations

import math
import random
from statistics import NormalDist

import numpy as np
import numpy.typing as npt


def sample_size(share: float, confidence: float) -> int:
    """How many to look at, so that something found in ``share`` of all is met at least once.

    The smallest n with ``1 - (1 - share)**n >= confidence``: 459 for 1 % with 99 %. A sample of n
    misses it n times in a row, each with probability ``1 - share``; auditors know this as
    discovery sampling.
    """
    _require_probability("share", share)
    _require_probability("confidence", confidence)
    n = max(1, math.ceil(math.log1p(-confidence) / math.log1p(-share)))
    # The logarithms may be off by a rounding where n is whole: the definition decides.
    while n > 1 and _met(share, n - 1) >= confidence:
        n -= 1
    while _met(share, n) < confidence:
        n += 1
    return n


def upper_bound(n: int, confidence: float, found: int = 0) -> float:
    """The share that is not exceeded, with ``confidence``, when ``found`` of ``n`` had it.

    The exact one-sided bound of C. J. Clopper and E. S. Pearson, "The use of confidence or
    fiducial limits illustrated in the case of the binomial", Biometrika 26 (1934): the share for
    which at most ``found`` would turn up with probability ``1 - confidence``. For none found it is
    ``1 - (1 - confidence)**(1 / n)``, about ``3 / n`` at 95 %.
    """
    _require_probability("confidence", confidence)
    _require_counts(found, n)
    if found == n:  # of an empty sample too
        return 1.0
    if found == 0:
        return -math.expm1(math.log1p(-confidence) / n)
    low, high = found / n, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        if _at_most(found, n, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def wilson(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """The interval of the share, two-sided, when ``successes`` of ``n`` had it.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal
    of the American Statistical Association 22 (1927). Unlike the usual ±, it stays within 0 and 1
    and says something for none and for all.
    """
    _require_probability("confidence", confidence)
    _require_counts(successes, n)
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, weight = successes / n, z * z / n
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / n + weight / (4 * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def sample_rows(rows: int, size: int, seed: int) -> npt.NDArray[np.int64]:
    """``size`` different numbers below ``rows``, ascending; all of them if there are not more.

    The same seed draws the same numbers. Memory grows with the sample, not with the rows.
    """
    chosen = random.Random(seed).sample(range(rows), min(size, rows))
    return np.array(sorted(chosen), dtype=np.int64)


def _met(share: float, n: int) -> float:
    """Probability that a sample of ``n`` holds at least one."""
    return -math.expm1(n * math.log1p(-share))


def _at_most(found: int, n: int, share: float) -> float:
    """Probability that a sample of ``n`` holds at most ``found``."""
    if share >= 1:
        return 0.0
    yes, no = math.log(share), math.log1p(-share)
    all_orders = math.lgamma(n + 1)
    return math.fsum(
        math.exp(all_orders - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * yes + (n - k) * no)
        for k in range(found + 1)
    )


def _require_probability(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} is between 0 and 1, found {value}")


def _require_counts(some: int, n: int) -> None:
    if not 0 <= some <= n:
        raise ValueError(f"expected 0 <= {some} <= {n}")
