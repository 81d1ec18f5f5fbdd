"""Where the benchmarks of drift meet the witness. This module, and nothing else, knows its API.

TO BE REPLACED: until ``embedmigrate.models.witness`` is there, ``canaries``, ``record`` and
``compare`` stand in for it with the simplest thing that can be meant, so that what is built on
them can be run. ``verdict_of`` stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from benchmarks.changed_embedders import Posing
from benchmarks.known_items import EXAMPLE, Distance, read_texts
from embedmigrate.embedders.base import Embedder, Vectors

Recorded = dict[str, Any]
"""A witness as JSON takes it: another process compares with it."""

ALARM_DISTANCE = 1e-6
ALARM_NORM = 1e-4

_records: WeakKeyDictionary[Embedder, Recorded] = WeakKeyDictionary()
"""Many variants are changes of one model, which is recorded once."""


@dataclass(frozen=True)
class Verdict:
    """OK, WARN or DRIFT, and the figures that say why."""

    verdict: str
    figures: dict[str, float | None] = field(default_factory=dict)

    @property
    def alarm(self) -> bool:
        """Whether somebody is called."""
        return self.verdict == "DRIFT"


def verdict_of(base: Embedder, variant: Embedder) -> Verdict:
    """What a check for drift says when ``variant`` answers where ``base`` was pinned."""
    if base not in _records:
        _records[base] = record(base)
    return compare(_records[base], Posing(variant, base.model))


# -- what stands in for embedmigrate.models.witness ---------------------------------------------


def canaries() -> list[str]:
    """The texts that are embedded to record and to check."""
    abstracts = [text for _, text in read_texts(EXAMPLE, 24)]
    short = [
        "a",
        "café déjà-vu ﬁﬂ ①",
        "def f(x):\n\treturn  x",
        "ПРИВЕТ, мир",
        "日本語",
        "  spaces  ",
    ]
    return [*short, *(text[:200] for text in abstracts[12:]), *abstracts[:12], *_long(abstracts)]


def _long(abstracts: Sequence[str]) -> list[str]:
    pairs = zip(abstracts[::2], abstracts[1::2], strict=True)
    return [f"{one} {other}" for one, other in list(pairs)[:4]]


def record(embedder: Embedder) -> Recorded:
    """The witness of the model that ``embedder`` is now."""
    return {side: vectors.tolist() for side, vectors in _measured(embedder).items()}


def compare(recorded: Recorded, embedder: Embedder) -> Verdict:
    """Embed the canaries again and say whether ``embedder`` is the model that was recorded."""
    figures: dict[str, float | None] = {}
    drift = False
    for side, new in _measured(embedder).items():
        distance = Distance.between(np.asarray(recorded[side], np.float32), new)
        figures[f"{side} distance"] = distance.greatest if distance else None
        figures[f"{side} norm"] = distance.norm if distance else None
        drift |= (
            distance is None or distance.greatest > ALARM_DISTANCE or distance.norm > ALARM_NORM
        )
    return Verdict("DRIFT" if drift else "OK", figures)


def _measured(embedder: Embedder) -> dict[str, Vectors]:
    texts = canaries()
    return {
        "documents": np.concatenate([embedder.embed_documents([text]) for text in texts]),
        "queries": np.concatenate([embedder.embed_queries([text]) for text in texts]),
    }
