"""From recorded steps to what has to be done: of several moves of a collection the last counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from embedmigrate.catalog.records import AppliedRecord
from embedmigrate.config import Settings
from embedmigrate.engine.prepare import Transition
from embedmigrate.engine.rebind import Rebinding
from embedmigrate.errors import Irreversible, ScriptError
from embedmigrate.migration.operations import MoveOp, ReembedOp
from embedmigrate.migration.recorder import RecordedStep
from embedmigrate.models import IndexSpec


@dataclass(frozen=True)
class Upgrade:
    """What an upgrade does to one collection."""

    collection: str
    transition: Transition | Rebinding
    """The last pending move, leaving what is live now: a rebind if all that are pending are."""
    source_reference: str | None
    """``name@fingerprint`` of the model that it leaves, for people."""
    superseded: tuple[str, ...] = ()
    """Pending moves before it: their rows are written, nothing is built for them."""


@dataclass(frozen=True)
class Downgrade:
    """What a downgrade does to one collection."""

    collection: str
    undone: tuple[AppliedRecord, ...]
    """The applied revisions that are undone, the last first."""
    switches: bool
    """Whether the route moves. It does so in the first step: a walk that is cut short behind it
    leaves only rows to remove, and the same command removes them."""
    target_index: str | None
    """The index that it moves to; None for no index."""


def spec_of(settings: Settings, operation: ReembedOp) -> IndexSpec:
    """The index that an operation wants, in the store that is configured here."""
    return IndexSpec(
        model=operation.target,
        recipe=operation.recipe,
        store_kind=settings.collection(operation.collection).store.kind,
        factory=operation.factory,
        metric=operation.metric,
    )


def spec_after(settings: Settings, moves: Sequence[MoveOp]) -> IndexSpec:
    """The index that a collection has after these moves, the first one first.

    ``ScriptError`` when none of them builds one.
    """
    last = moves[-1]
    built = next((move for move in reversed(moves) if isinstance(move, ReembedOp)), None)
    if built is None:
        raise ScriptError(
            f"collection {last.collection!r} is rebound before any revision embeds it",
            found=f"op.rebind to {last.target.reference}",
            expected="op.reembed in a revision before it",
            next_step="correct the scripts",
        )
    return spec_of(settings, built).model_copy(update={"model": last.target})


def plan_upgrade(settings: Settings, steps: Sequence[RecordedStep]) -> list[Upgrade]:
    """One ``Upgrade`` a collection, in the order in which the walk reaches them.

    ``ScriptError`` when the steps of a collection do not join: each must leave what the one before
    it makes.
    """
    chains: dict[str, list[tuple[RecordedStep, MoveOp]]] = {}
    for step in steps:
        if step.operation is None:
            continue
        if step.move is None:
            raise ScriptError(
                f"revision {step.revision} rolls back in upgrade()",
                expected="op.reembed or op.rebind in upgrade(), op.rollback in downgrade()",
                next_step="correct the script",
            )
        chains.setdefault(step.move.collection, []).append((step, step.move))
    upgrades = []
    for collection, chain in chains.items():
        for (_, before), (step, after) in pairwise(chain):
            if after.source != before.target.fingerprint:
                raise ScriptError(
                    f"revision {step.revision} does not leave what the one before it makes",
                    found=f"source {after.source}",
                    expected=f"source {before.target.reference}",
                    next_step="correct the script",
                )
        moves = [move for _, move in chain]
        upgrades.append(
            Upgrade(
                collection=collection,
                transition=_transition(settings, chain[-1][0].revision, moves),
                source_reference=moves[0].source_reference,
                superseded=tuple(step.revision for step, _ in chain[:-1]),
            )
        )
    return upgrades


def _transition(
    settings: Settings, revision: str, moves: Sequence[MoveOp]
) -> Transition | Rebinding:
    leaves, target = moves[0].source, moves[-1].target
    if leaves is not None and not any(isinstance(move, ReembedOp) for move in moves):
        return Rebinding(revision=revision, model=target, leaves=leaves)
    built = next(move for move in reversed(moves) if isinstance(move, ReembedOp))
    return Transition(
        revision=revision,
        spec=spec_after(settings, moves),
        leaves=leaves,
        allow_lag=built.allow_lag,
        allow_failed=built.allow_failed,
    )


def plan_downgrade(
    steps: Sequence[RecordedStep],
    applied: Mapping[str, Sequence[AppliedRecord]],
) -> list[Downgrade]:
    """One ``Downgrade`` a collection.

    ``applied`` are the applied revisions of each collection, the last first. ``Irreversible`` when
    the target lies inside a block whose revisions were applied as one.
    """
    undone_revisions = {step.revision for step in steps}
    downgrades = []
    for collection, records in applied.items():
        undone = tuple(record for record in records if record.revision in undone_revisions)
        if not undone:
            continue
        left = [record for record in records if record.revision not in undone_revisions]
        if left and left[0].superseded_by in undone_revisions:
            raise _inside_block(collection, left)
        cut_overs = [record for record in undone if record.superseded_by is None]
        downgrades.append(
            Downgrade(
                collection=collection,
                undone=undone,
                switches=bool(cut_overs),
                target_index=cut_overs[-1].previous_index if cut_overs else None,
            )
        )
    return downgrades


def _inside_block(collection: str, left: Sequence[AppliedRecord]) -> Irreversible:
    base = next((record for record in left if record.superseded_by is None), None)
    target = base.revision if base is not None else f"{collection}@base"
    return Irreversible(
        f"revision {left[0].revision} of {collection!r} never was live: it was applied as one "
        f"with {left[0].superseded_by}",
        found=f"a downgrade to {left[0].revision}",
        expected=f"a downgrade to {target}, where that block begins",
        next_step=f"embedmigrate downgrade {target}",
    )
