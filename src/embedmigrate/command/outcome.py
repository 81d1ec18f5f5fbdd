"""What becomes of each collection of an upgrade: ready, failed, or held back by a person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from embedmigrate.catalog import requests
from embedmigrate.catalog.locks import Lease
from embedmigrate.catalog.records import RunRecord
from embedmigrate.catalog.requests import Wanted, paused_by
from embedmigrate.command.project import Project
from embedmigrate.command.telling import failures_told
from embedmigrate.engine.control import comply
from embedmigrate.engine.prepare import Change, refuse_sticky
from embedmigrate.errors import AskedToStop, EmbedMigrateError, Stopped
from embedmigrate.migration.plan import Upgrade

_SEVERITY = (1, 3, 4, 5, 6, 7, 75)


def most_severe(failed: Iterable[EmbedMigrateError]) -> EmbedMigrateError:
    """Of what failed for several collections, what decides the exit code of the command.

    One that is not of ``_SEVERITY``, of configuration for example, comes before all others.
    """

    def rank(error: EmbedMigrateError) -> int:
        return _SEVERITY.index(error.exit_code) if error.exit_code in _SEVERITY else -1

    return min(failed, key=rank)


@dataclass
class Outcome:
    """What became of each collection: ready, failed, or held back without having failed."""

    project: Project
    held: dict[str, str]
    """Why, in words for people."""
    prepared: dict[str, RunRecord] = field(default_factory=dict)
    failed: dict[str, EmbedMigrateError] = field(default_factory=dict)

    @contextmanager
    def of(self, collection: str, lease: Lease, change: Change | None = None) -> Iterator[None]:
        """What fails, or is asked, for one collection is noted, and keeps the others from nothing.

        ``change`` is what is being prepared, or cut over.
        """
        try:
            with failures_told(self.project, collection):
                yield
        except AskedToStop:
            try:
                self._obey(collection, lease, change)
            except EmbedMigrateError as error:
                self.failed[collection] = error
        except Stopped:
            raise
        except EmbedMigrateError as error:
            self.failed[collection] = error

    def _obey(self, collection: str, lease: Lease, change: Change | None) -> None:
        revision = None if change is None else change.revision
        request = comply(self.project.catalog, lease, revision)
        if request is not None and request.wanted is Wanted.CANCEL and change is not None:
            refuse_sticky(self.project.job(collection), change, None)
        self.held[collection] = (
            paused_by(request)
            if request is not None
            else "stopped by a person who took that back; the next upgrade carries on"
        )

    @property
    def withheld(self) -> set[str]:
        return {*self.failed, *self.held}

    @property
    def about_to_switch(self) -> dict[str, RunRecord]:
        """The ready runs of the collections that nothing holds back."""
        return {name: run for name, run in self.prepared.items() if name not in self.withheld}

    def hold_manual_ones(self) -> None:
        """Those that are ready and whose cut-over is left to a person."""
        for collection in self.prepared.keys() - self.withheld:
            if self.project.settings.collection(collection).cutover == "manual":
                self.held[collection] = (
                    f'ready; cutover = "manual" leaves the switch to: embedmigrate cutover '
                    f"{collection}"
                )


def paused(project: Project) -> dict[str, str]:
    with project.catalog.read() as connection:
        asked = requests.every(connection)
    return {
        collection: paused_by(request)
        for collection, request in asked.items()
        if request.wanted is Wanted.PAUSE
    }


def do_what_was_asked_before(
    project: Project, upgrades: Sequence[Upgrade], leases: Mapping[str, Lease]
) -> None:
    """A cancel that no runner lived to see comes before this command, and before its ``again``."""
    for upgrade in upgrades:
        if upgrade.collection in leases:
            lease = leases[upgrade.collection]
            comply(project.catalog, lease, upgrade.transition.revision)
