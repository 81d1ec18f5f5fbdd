"""Watching the model of a running application: is it still itself?

A check asks the canaries, both sides, in a thread of its own: no request waits for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from embedmigrate.embedders.base import Embedder
from embedmigrate.embedders.measuring import behaviour, processor_of, record_of, runtime_of
from embedmigrate.errors import Drifted, EmbedMigrateError
from embedmigrate.models import EmbeddingModel
from embedmigrate.models.drift import DriftReport, judge
from embedmigrate.models.witness import Witness, WitnessRecord

OnDrift = Literal["refuse", "serve"]
Hook = Callable[[DriftReport], None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LastCheck:
    """What the last check found, of which model, and when (seconds since 1970)."""

    model: EmbeddingModel
    report: DriftReport
    at: float


class WitnessWatch:
    """Checks the model that is served, now and then, and one that is to be served, before.

    ``embedder`` gives what is served now, ``witness`` what was recorded of a model. With
    ``on_drift = "refuse"``, ``refuse_drifted`` raises as long as the last check of that model
    failed; with ``"serve"`` it never does. ``hook`` hears every report that is a drift.
    """

    def __init__(
        self,
        collection: str,
        check: Callable[[Callable[[Embedder], LastCheck]], LastCheck],
        witness: Callable[[EmbeddingModel], Witness],
        on_drift: OnDrift,
        hook: Hook | None = None,
    ) -> None:
        """``check`` runs a function on the embedder that is served now, kept open meanwhile."""
        self._collection, self._with_embedder, self._witness = collection, check, witness
        self._on_drift, self._hook = on_drift, hook
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._last: dict[tuple[str, str], LastCheck] = {}
        self._here: dict[tuple[str, str], WitnessRecord] = {}
        self.checks = self.alarms = self.failures = 0

    def start(self, every: float) -> None:
        """Check each ``every`` seconds from now on."""
        self._thread = threading.Thread(
            target=self._keep_checking,
            args=(every,),
            name=f"witness {self._collection}",
            daemon=True,
        )
        self._thread.start()

    def check(self) -> DriftReport:
        """Check what is served, now, in this thread."""
        return self._judged(self._with_embedder(self._compare))

    def examine(self, embedder: Embedder) -> DriftReport:
        """Check a model before it is served."""
        return self._judged(self._compare(embedder))

    def _judged(self, last: LastCheck) -> DriftReport:
        self._last[_key(last.model)] = last
        self.checks += 1
        report = last.report
        if report.verdict == "WARN":
            _log.warning("%s: %s: %s", self._collection, last.model.reference, report.summary())
        if not report.holds:
            self.alarms += 1
            _log.error(
                "%s: %s has drifted: %s", self._collection, last.model.reference, report.summary()
            )
            self._tell(report)
        return report

    def _compare(self, embedder: Embedder) -> LastCheck:
        key, witness, seen = (
            _key(embedder.model),
            self._witness(embedder.model),
            behaviour(embedder),
        )
        if (here := self._here.get(key)) is not None:
            witness = witness.having(here)
        report = judge(witness, seen, runtime_of(embedder), processor_of(embedder))
        if report.holds and not report.known_platform:
            # Later checks of this process are as strict as they are where there is a record.
            self._here[key] = record_of(embedder, seen)
        return LastCheck(embedder.model, report, time.time())

    def _tell(self, report: DriftReport) -> None:
        if self._hook is not None:
            try:
                self._hook(report)
            except Exception as error:  # a hook of the application must not end the watch
                _log.error("%s: the drift hook raised %s", self._collection, type(error).__name__)

    def refuse_drifted(self, model: EmbeddingModel) -> None:
        """``Drifted`` when the last check of ``model`` failed, and the policy is to refuse."""
        last = self._last.get(_key(model))
        if self._on_drift == "serve" or last is None or last.report.holds:
            return
        raise Drifted(
            f"{self._collection!r} does not answer: {model.reference} is not itself any more",
            found=last.report.summary(),
            expected=f"at most {last.report.threshold:.2g} from its witness",
            next_step=f'embedmigrate drift; restore the model, or set on_drift = "serve" '
            f"for {self._collection}",
        )

    def describe(self, model: EmbeddingModel | None = None) -> dict[str, Any]:
        """For a readiness probe and for metrics: how often, and what was found of ``model``."""
        last = None if model is None else self._last.get(_key(model))
        return {
            "checks": self.checks,
            "alarms": self.alarms,
            "failures": self.failures,
            "on_drift": self._on_drift,
            "verdict": None if last is None else last.report.verdict,
            "largest_distance": None if last is None else last.report.largest,
            "checked_at": None if last is None else last.at,
        }

    def _keep_checking(self, every: float) -> None:
        while not self._over.wait(every):
            try:
                self.check()
            except Exception as error:  # of whatever kind: without this thread nothing is checked
                self.failures += 1
                said = error.message if isinstance(error, EmbedMigrateError) else ""
                _log.warning(
                    "%s: the witness cannot be checked now: %s",
                    self._collection,
                    said or type(error).__name__,
                )

    def close(self) -> None:
        """Check no more. Also from the hook, which runs in the thread that checks."""
        self._over.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()


def _key(model: EmbeddingModel) -> tuple[str, str]:
    return model.fingerprint, model.query_side
