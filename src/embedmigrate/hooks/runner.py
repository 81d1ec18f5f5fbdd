"""Running hooks: each once for each occasion, never inside a transaction, never in the way.

Only ``before_cutover`` may stop something, and fails closed: a hook that cannot answer says no.
What any other hook does, or fails to do, is recorded and changes nothing.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from embedmigrate.catalog import Catalog, events
from embedmigrate.catalog.database import actor
from embedmigrate.engine.job import Reporter, StopSignal
from embedmigrate.engine.occasion import Occasion
from embedmigrate.errors import EmbedMigrateError, Stopped, Vetoed
from embedmigrate.hooks import process
from embedmigrate.hooks.config import Hook, HooksConfig, hooks_for
from embedmigrate.logs import say, utc

_log = logging.getLogger(__name__)

STOPPING_SECONDS = 5.0
"""How long a hook may still take once its command has been asked to stop."""


class HookRunner:
    """The configured hooks of a project, for one command."""

    def __init__(
        self,
        general: HooksConfig,
        collections: Mapping[str, HooksConfig | None],
        folder: Path,
        *,
        catalog: Catalog | None,
        reporter: Reporter,
        stop: StopSignal,
        masked: Collection[str] = (),
    ) -> None:
        """``folder`` is where hooks run; ``masked`` are words that no reason may show."""
        self._general, self._collections, self._folder = general, collections, folder
        self._catalog, self._reporter, self._stop = catalog, reporter, stop
        self._masked = masked
        self._told: dict[tuple[object, ...], Vetoed | None] = {}

    def tell(self, occasion: Occasion) -> None:
        """Run the hooks of an occasion in order, unless they were run for it already.

        ``Vetoed`` by the first hook of ``before_cutover`` that does not say yes; the later ones are
        not asked then.
        """
        once = _identity(occasion)
        if once not in self._told:
            self._told[once] = None
            hooks = hooks_for(self._general, self._collections, occasion.collection)
            try:
                for hook in hooks.of(occasion.event):
                    self._run(hook, occasion, hooks.timeout)
            except Vetoed as veto:
                self._told[once] = veto
        if (vetoed := self._told[once]) is not None:
            raise vetoed

    def _run(self, hook: Hook, occasion: Occasion, timeout: float) -> None:
        reason = process.run(
            hook,
            json.dumps(document_of(occasion), ensure_ascii=False),
            folder=self._folder,
            seconds=_Patience(timeout, self._stop),
        )
        if reason is None:
            return
        name, reason = process.name_of(hook), self._without_secrets(reason)
        if occasion.event == "before_cutover":
            self._stop.check()  # killed because of that, it has not said no
            self._record("cutover_vetoed", occasion, name, reason)
            raise Vetoed(
                f"the hook {name} does not let {occasion.collection!r} be cut over",
                found=reason,
                expected=f"a yes to revision {occasion.revision}, which stays ready",
                next_step=f"embedmigrate cutover {occasion.collection}, when the hook agrees",
            )
        about = occasion.collection or "embedmigrate"
        self._reporter.note(f"{about}: the hook {name} ({occasion.event}) failed: {reason}")
        self._record("hook_failed", occasion, name, reason)

    def _record(self, kind: str, occasion: Occasion, name: str, reason: str) -> None:
        facts = {
            "revision": occasion.revision,
            "hook": name,
            "on": occasion.event,
            "reason": reason,
        }
        if self._catalog is None:
            say(_log, logging.WARNING, kind, kind.replace("_", " "), facts)
            return
        with suppress(EmbedMigrateError), self._catalog.write() as connection:
            events.record(connection, kind, occasion.collection, facts, run_id=occasion.run)

    def _without_secrets(self, reason: str) -> str:
        for word in sorted(self._masked, key=len, reverse=True):
            reason = reason.replace(word, "…")
        return reason


class _Patience:
    """How many seconds a hook may take, from its start: less once the command is to stop."""

    def __init__(self, timeout: float, stop: StopSignal) -> None:
        self._timeout, self._stop = timeout, stop
        self._start = time.monotonic()
        self._stopping: float | None = None

    def __call__(self) -> float:
        if self._stopping is None:
            try:
                self._stop.check()
            except Stopped:
                self._stopping = time.monotonic() - self._start + STOPPING_SECONDS
        return min(self._timeout, self._stopping or self._timeout)


def _identity(occasion: Occasion) -> tuple[object, ...]:
    """What makes two occasions the same, for one command."""
    error = occasion.error and (occasion.error["kind"], occasion.error["message"])
    return occasion.event, occasion.collection, occasion.revision, occasion.run, error


def document_of(occasion: Occasion) -> dict[str, Any]:
    """What a hook is given."""
    facts = asdict(occasion)
    ends = {
        name: {"index": facts.pop(f"{name}_index"), "model": facts.pop(f"{name}_model")}
        for name in ("from", "to")
    }
    return {"schema": 1, "time": utc(time.time()), "actor": actor(), **facts, **ends}
