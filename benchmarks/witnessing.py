"""Where the benchmarks of drift meet the witness. This module, and nothing else, knows its API."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from benchmarks.changed_embedders import Posing
from embedmigrate.embedders.base import Embedder
from embedmigrate.embedders.measuring import behaviour, measured, record_of
from embedmigrate.models import drift
from embedmigrate.models.canaries import CANARIES
from embedmigrate.models.witness import WitnessRecord

Recorded = dict[str, Any]
"""A witness record as JSON takes it: another process compares with it."""

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


def canaries() -> list[str]:
    """The texts that are embedded to record and to check."""
    return [canary.text for canary in CANARIES]


def record(embedder: Embedder) -> Recorded:
    """The witness record of the model that ``embedder`` is now."""
    return record_of(embedder, measured(embedder)).dump()


def compare(recorded: Recorded, embedder: Embedder) -> Verdict:
    """Ask for the canaries again and say whether ``embedder`` is the model that was recorded.

    Always with this record, whatever the runtime: torch and ONNX must pass for one another.
    """
    report = drift.compare(WitnessRecord.load(recorded), behaviour(embedder))
    near = report.neighbourhood
    figures: dict[str, float | None] = {
        "largest": report.largest,
        "median": report.median,
        "moved": float(report.moved),
        "norm": max((abs(figure.norm_ratio - 1) for figure in report.figures), default=None),
        "overlap": near.overlap if near else None,
        "finds itself": near.finds_itself if near else None,
    }
    return Verdict(report.verdict, figures)
