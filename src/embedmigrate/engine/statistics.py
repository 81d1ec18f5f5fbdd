"""What a sample says of the whole."""

from __future__ import annotations

import math
from statistics import NormalDist


def sample_size(share: float, confidence: float) -> int:
    """The smallest sample that holds a member of a part of this ``share`` with ``confidence``.

    The smallest n with 1 - (1 - share)^n >= confidence: 459 for 1 % and 99 %. Drawn without
    replacement the chance is greater still.
    """
    return math.ceil(math.log1p(-confidence) / math.log1p(-share))


def upper_bound(n: int, confidence: float) -> float:
    """The greatest share of which a sample of ``n`` may hold nothing, at this ``confidence``.

    1 - (1 - confidence)^(1/n): the one-sided Clopper-Pearson bound for nothing found.
    """
    return 1.0 if n == 0 else 1 - (1 - confidence) ** (1 / n)


def wilson(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """Wilson's score interval of a share, two-sided (E. B. Wilson, JASA 22, 1927)."""
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, weight = successes / n, z * z / n
    centre = (share + weight / 2) / (1 + weight)
    spread = z / (1 + weight) * math.sqrt(share * (1 - share) / n + weight / (4 * n))
    return max(0.0, centre - spread), min(1.0, centre + spread)
