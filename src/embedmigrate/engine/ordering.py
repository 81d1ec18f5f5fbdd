"""Does vector i belong to text i? (I6) Answers of one shape do not tell: one text a call is asked
for again, among others, before anything of its batch is written.

Whoever permutes a share ``f`` of the rows of ``c`` calls is missed with probability ``(1 - f)^c``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from embedmigrate.embedders.base import Vectors
from embedmigrate.engine.verify import SAME_TEXT_DISTANCE
from embedmigrate.errors import Inconsistent
from embedmigrate.models import EmbeddingModel
from embedmigrate.models.drift import distances_of, norm_ratios

_NORM_CHANGE = 0.1
"""Relative change of a norm that no rounding explains."""

Key = bytes
Ask = Callable[[Sequence[Key]], Vectors]


def check_order(
    model: EmbeddingModel,
    ask: Ask,
    calls: Sequence[Sequence[Key]],
    vectors: Mapping[Key, Vectors],
    call_size: int,
) -> None:
    """``Inconsistent`` when a text has another vector now than it had in its call.

    ``calls`` are those that were answered, ``vectors`` what came of them. A call of one text has no
    order. Where all vectors of a call are equal, its first and its last text are asked alone: texts
    may be the same to a model, and a model may have given one answer for all.
    """
    spots: list[Key] = []
    for keys in calls:
        if len(keys) < 2:
            continue
        if all(np.array_equal(vectors[keys[0]], vectors[key]) for key in keys[1:]):
            for key in (keys[0], keys[-1]):
                _compare(model, [key], ask([key]), vectors)
        else:
            spots.append(random.choice(keys))
    random.shuffle(spots)
    for start in range(0, len(spots), call_size):
        some = spots[start : start + call_size]
        _compare(model, some, ask(some), vectors)


def _compare(
    model: EmbeddingModel, keys: Sequence[Key], again: Vectors, vectors: Mapping[Key, Vectors]
) -> None:
    before = np.stack([vectors[key] for key in keys])
    distances = np.array(distances_of(before, again))
    norms = np.abs(np.array(norm_ratios(before, again)) - 1)
    wrong = int(((distances > SAME_TEXT_DISTANCE) | (norms > _NORM_CHANGE)).sum())
    if wrong:
        raise Inconsistent(
            f"{model.reference} answers a text otherwise among others than it did in its call",
            found=f"{wrong} of {len(keys)} texts that were asked again, cosine distance up to "
            f"{distances.max():.2g}",
            expected=f"at most {SAME_TEXT_DISTANCE}: vectors in the order of the texts, and each "
            "of its own text alone",
            next_step="do not use this model through this server or package; embedmigrate drift",
        )
