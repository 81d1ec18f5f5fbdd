"""How far a walk may go when some collections are to be left where they are."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from alembic.script import ScriptDirectory

from embedmigrate.migration.recorder import RecordedStep


def reachable(
    scripts: ScriptDirectory, steps: Sequence[RecordedStep], withheld: Collection[str]
) -> list[str]:
    """The newest of ``steps`` that a walk can go to without a step of a ``withheld`` collection.

    ``steps`` are in the order of the walk. The last step of a collection is its cut-over: where
    that cannot be reached, none of its steps is taken, so that no row stands for work that waits.
    """
    parents = {step.revision: _parents(scripts, step.revision) for step in steps}
    left_out, blocked = set(withheld), set[str]()
    while True:
        for step in steps:
            operation = step.operation
            if operation is not None and operation.collection in left_out:
                blocked.add(step.revision)
            if not blocked.isdisjoint(parents[step.revision]):
                blocked.add(step.revision)
        behind = {
            step.operation.collection
            for step in steps
            if step.operation is not None and step.revision in blocked
        }
        if behind <= left_out:
            break
        left_out |= behind
    free = [step.revision for step in steps if step.revision not in blocked]
    inner = set[str]().union(*(parents[revision] for revision in free))
    return [revision for revision in free if revision not in inner]


def _parents(scripts: ScriptDirectory, revision: str) -> set[str]:
    script = scripts.get_revision(revision)
    assert script is not None
    return set(script._all_down_revisions)
