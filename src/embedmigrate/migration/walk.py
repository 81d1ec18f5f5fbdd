"""The handler of a walk: inside each step's transaction it changes the route, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from alembic.runtime.migration import MigrationContext
from sqlalchemy.engine import Connection

from embedmigrate.catalog import routes
from embedmigrate.catalog.locks import Lease
from embedmigrate.catalog.records import RunRecord
from embedmigrate.errors import Refused
from embedmigrate.migration.operations import MoveOp, RebindOp, ReembedOp, RollbackOp
from embedmigrate.migration.plan import Downgrade, Upgrade

Publish = Callable[[Connection, str], None]
"""Lets what outsiders read of a collection follow its route, in the same transaction (I10)."""


class UpgradeWalk:
    """Cuts over to what was prepared; superseded revisions leave a row."""

    def __init__(
        self,
        upgrades: Sequence[Upgrade],
        leases: Mapping[str, Lease],
        prepared: Mapping[str, RunRecord],
        publish: Publish,
    ) -> None:
        """``leases`` and ``prepared`` (ready runs) are by collection."""
        self._publish = publish
        self._by_collection = {upgrade.collection: upgrade for upgrade in upgrades}
        self._leases, self._prepared = leases, prepared
        self._step: Any = None
        self.walked: list[str] = []
        """The revisions whose steps were begun; what raised was the last one."""

    def on_step(self, step: Any) -> None:
        self._step = step
        self.walked.append(step.revision.revision)

    def reembed(self, context: MigrationContext, operation: ReembedOp) -> None:
        self._move(context, operation)

    def rebind(self, context: MigrationContext, operation: RebindOp) -> None:
        self._move(context, operation)

    def _move(self, context: MigrationContext, operation: MoveOp) -> None:
        assert context.connection is not None
        revision = self._step.revision.revision
        down_revision = self._step.revision.down_revision
        upgrade, lease = (
            self._by_collection[operation.collection],
            self._leases[operation.collection],
        )
        if revision in upgrade.superseded:
            routes.note_superseded(
                context.connection,
                lease,
                revision=revision,
                down_revision=down_revision,
                superseded_by=upgrade.transition.revision,
            )
            return
        if revision != upgrade.transition.revision:
            raise Refused(
                f"revision {revision} was not prepared", next_step="run the same command again"
            )
        run = self._prepared[operation.collection]
        routes.cut_over(
            context.connection,
            lease,
            revision=revision,
            down_revision=down_revision,
            index_name=run.index_name,
            run_id=run.id,
        )
        self._publish(context.connection, operation.collection)

    def rollback(self, context: MigrationContext, operation: RollbackOp) -> None:
        raise Refused(f"a rollback of {operation.collection!r} is not part of an upgrade")


class DowngradeWalk:
    """Switches back at the first step of each collection; the others only lose their row."""

    def __init__(
        self,
        downgrades: Sequence[Downgrade],
        leases: Mapping[str, Lease],
        reason: str | None,
        publish: Publish,
        *,
        now: bool = False,
    ) -> None:
        """``now`` switches to an index that lacks what changed since."""
        self._publish = publish
        self._by_collection = {downgrade.collection: downgrade for downgrade in downgrades}
        self._leases, self.reason, self._now = leases, reason, now
        self._step: Any = None

    def on_step(self, step: Any) -> None:
        self._step = step

    def reembed(self, context: MigrationContext, operation: ReembedOp) -> None:
        raise Refused(f"a re-embedding of {operation.collection!r} is not part of a downgrade")

    def rebind(self, context: MigrationContext, operation: RebindOp) -> None:
        raise Refused(f"a rebind of {operation.collection!r} is not part of a downgrade")

    def rollback(self, context: MigrationContext, operation: RollbackOp) -> None:
        assert context.connection is not None
        downgrade = self._by_collection.get(operation.collection)
        if downgrade is None:
            raise Refused(
                f"nothing of {operation.collection!r} is applied that could be rolled back",
                next_step="embedmigrate status",
            )
        revision = self._step.revision.revision
        routes.undo(
            context.connection,
            self._leases[operation.collection],
            next(record for record in downgrade.undone if record.revision == revision),
            target_index=downgrade.target_index,
            switch=downgrade.switches and revision == downgrade.undone[0].revision,
            reason=self.reason,
            now=self._now,
        )
        self._publish(context.connection, operation.collection)


class OfflineWalk:
    """For ``--sql``: an operation leaves a comment that says what it is, and that SQL cannot."""

    def reembed(self, context: MigrationContext, operation: ReembedOp) -> None:
        self._comment(context, operation)

    def rebind(self, context: MigrationContext, operation: RebindOp) -> None:
        self._comment(context, operation)

    def rollback(self, context: MigrationContext, operation: RollbackOp) -> None:
        self._comment(context, operation)

    def _comment(self, context: MigrationContext, operation: MoveOp | RollbackOp) -> None:
        kind, collection, *models = operation.to_diff_tuple()
        context.impl.static_output(
            f"{kind} {collection}: {' -> '.join(str(model) for model in models)}; "
            "not possible in SQL"
        )
