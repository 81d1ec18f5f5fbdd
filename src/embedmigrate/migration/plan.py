"""From recorded steps to what has to be done: of several re-embeddings only the last counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from embedmigrate.catalog.records import AppliedRecord
from embedmigrate.config import Settings
from embedmigrate.engine.prepare import Transition
from embedmigrate.errors import Irreversible, ScriptError
from embedmigrate.migration.operations import ReembedOp
from embedmigrate.migration.recorder import RecordedStep
from embedmigrate.models import IndexSpec


@dataclass(frozen=True)
class Upgrade:
    """What an upgrade does to one collection."""

    collection: str
    transition: Transition
    """The last pending re-embedding, leaving what is live now."""
    source_reference: str | None
    """``name@fingerprint`` of the model that it leaves, for people."""
    superseded: tuple[str, ...] = ()
    """Pending re-embeddings before it: their rows are written, nothing is built for them."""


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


def plan_upgrade(settings: Settings, steps: Sequence[RecordedStep]) -> list[Upgrade]:
    """One ``Upgrade`` a collection, in the order in which the walk reaches them.

    ``ScriptError`` when the steps of a collection do not join: each must leave what the one before
    it makes.
    """
    chains: dict[str, list[tuple[RecordedStep, ReembedOp]]] = {}
    for step in steps:
        if step.operation is None:
            continue
        if step.reembed is None:
            raise ScriptError(
                f"revision {step.revision} rolls back in upgrade()",
                expected="op.reembed in upgrade(), op.rollback in downgrade()",
                next_step="correct the script",
            )
        chains.setdefault(step.reembed.collection, []).append((step, step.reembed))
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
        last_step, last = chain[-1]
        upgrades.append(
            Upgrade(
                collection=collection,
                transition=Transition(
                    revision=last_step.revision,
                    spec=spec_of(settings, last),
                    leaves=chain[0][1].source,
                ),
                source_reference=chain[0][1].source_reference,
                superseded=tuple(step.revision for step, _ in chain[:-1]),
            )
        )
    return upgrades


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
