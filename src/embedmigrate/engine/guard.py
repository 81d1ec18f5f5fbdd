"""The embedder that answers is the pinned one (I18): its witness, at the start and during a run.

Batches are worked off in windows. A window counts when the check that closes it passes; until then
its rows carry a stamp of their own, by which they are discarded if it does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from embedmigrate.embedders.base import Embedder
from embedmigrate.embedders.measuring import (
    behaviour,
    measured,
    processor_of,
    record_of,
    runtime_of,
)
from embedmigrate.errors import Drifted
from embedmigrate.models.canaries import SENTINELS
from embedmigrate.models.drift import figures_of, judge, reasons_of, threshold_of
from embedmigrate.models.witness import Behaviour, Witness, WitnessRecord


@dataclass
class Guard:
    """Watches one loaded model.

    ``witness`` is what was recorded of it; ``remember`` keeps the record of a platform that was
    not known; ``note`` tells a person.
    """

    embedder: Embedder
    witness: Witness
    remember: Callable[[WitnessRecord], None]
    note: Callable[[str], None]
    _record: WitnessRecord | None = field(default=None, init=False)
    _seen: Behaviour | None = field(default=None, init=False)

    @property
    def record(self) -> WitnessRecord:
        """How the model behaves on this platform, from its witness."""
        assert self._record is not None, "the guard is open"
        return self._record

    @property
    def seen(self) -> Behaviour:
        """What it answered when the guard was opened: all canaries, both sides."""
        assert self._seen is not None, "the guard is open"
        return self._seen

    def open(self) -> None:
        """Compare every canary of both sides with the record; ``Drifted`` when one has moved.

        On a platform without a record, what is seen now is remembered, unless it is further from
        the others than platforms can be.
        """
        runtime, processor = runtime_of(self.embedder), processor_of(self.embedder)
        record = self.witness.of(runtime, processor)
        seen = behaviour(self.embedder) if record is not None else measured(self.embedder)
        report = judge(self.witness, seen, runtime, processor)
        if not report.holds:
            raise self._drifted(report.summary(), report.threshold)
        if record is None:
            record = record_of(self.embedder, seen)
            self.remember(record)
            self.note(f"{self.embedder.model.reference}: {report.summary()}")
        self._record, self._seen = record, seen

    def check(self) -> None:
        """Compare the sentinels, of the document side; ``Drifted`` when one has moved."""
        if self._record is None:
            self.open()
            return
        then = self._record.behaviour
        seen = behaviour(self.embedder, SENTINELS, queries=False)
        threshold = threshold_of(then.noise)
        reasons = (
            [f"answers with {seen.dimensions} dimensions"]
            if seen.dimensions != then.dimensions
            else reasons_of(figures_of(then, seen, SENTINELS), threshold)
        )
        if seen.refusal:
            reasons.append(seen.refusal)
        if reasons:
            raise self._drifted("; ".join(reasons), threshold)

    def _drifted(self, found: str, threshold: float) -> Drifted:
        model = self.embedder.model
        return Drifted(
            f"{model.reference} does not behave as it did when it was {model.pinned_or_witnessed}",
            found=found,
            expected=f"at most {threshold:.2g} from its witness",
            next_step="embedmigrate drift; nothing that it made since its last good check is used",
        )
