"""Reading the operations of scripts without doing anything: what is pending, and is it sound?

A script's Python is executed against an offline context whose handler only takes notes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import pairwise

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory

from embedmigrate.errors import EmbedMigrateError, Fork, ScriptError, UnknownRevision
from embedmigrate.migration.environment import script_errors
from embedmigrate.migration.operations import (
    HANDLER,
    MoveOp,
    RebindOp,
    ReembedOp,
    RollbackOp,
)


@dataclass(frozen=True)
class RecordedStep:
    """One revision with the embedding operation that it holds, if any."""

    revision: str
    operation: MoveOp | RollbackOp | None

    @property
    def move(self) -> MoveOp | None:
        """The operation, if it moves a collection forward."""
        return self.operation if isinstance(self.operation, MoveOp) else None


class _Notes:
    """A handler that writes down what it is asked for."""

    def __init__(self) -> None:
        self.operations: list[MoveOp | RollbackOp] = []

    def reembed(self, context: MigrationContext, operation: ReembedOp) -> None:
        self.operations.append(operation)

    def rebind(self, context: MigrationContext, operation: RebindOp) -> None:
        self.operations.append(operation)

    def rollback(self, context: MigrationContext, operation: RollbackOp) -> None:
        self.operations.append(operation)


def record(script: Script, *, upgrade: bool = True) -> RecordedStep:
    """Run ``upgrade()`` or ``downgrade()`` of one script and note its embedding operation.

    ``ScriptError`` when it raises, or holds more than one.
    """
    notes = _Notes()
    context = MigrationContext.configure(
        dialect_name="sqlite",
        opts={"as_sql": True, "output_buffer": io.StringIO(), HANDLER: notes},
    )
    name = "upgrade" if upgrade else "downgrade"
    function = getattr(script.module, name, None)
    if function is None:
        raise ScriptError(
            f"revision {script.revision} has no {name}()",
            found=script.path,
            expected=f"def {name}() -> None",
            next_step="correct the script",
        )
    try:
        with script_errors(), redirect_stdout(io.StringIO()), Operations.context(context):
            function()
    except EmbedMigrateError as error:
        error.message = f"revision {script.revision}: {error.message}"
        raise
    if len(notes.operations) > 1:
        raise ScriptError(
            f"revision {script.revision} holds {len(notes.operations)} embedding operations",
            found=", ".join(operation.collection for operation in notes.operations),
            expected="at most one",
            next_step="write one revision for each",
        )
    if notes.operations and isinstance(script.down_revision, tuple):
        raise ScriptError(
            f"revision {script.revision} merges branches and holds an embedding operation",
            found=notes.operations[0].collection,
            expected="one parent, which a rollback goes back to",
            next_step="leave the merge empty, and write the operation as the revision after it",
        )
    return RecordedStep(script.revision, notes.operations[0] if notes.operations else None)


def recorded(scripts: ScriptDirectory, revision: str) -> RecordedStep:
    """The upgrade of one revision by its id."""
    with script_errors():
        script = scripts.get_revision(revision)
    assert script is not None
    return record(script)


def pending_upgrades(
    scripts: ScriptDirectory, heads: tuple[str, ...], targets: Sequence[str]
) -> list[RecordedStep]:
    """The steps from the applied ``heads`` up to ``targets``, in the order of the walk."""
    return _record_steps(scripts, heads, targets, upgrade=True)


def pending_downgrades(
    scripts: ScriptDirectory, heads: tuple[str, ...], target: str
) -> list[RecordedStep]:
    """The steps from the applied ``heads`` down to ``target``, in the order of the walk."""
    return _record_steps(scripts, heads, [target], upgrade=False)


def _record_steps(
    scripts: ScriptDirectory, heads: tuple[str, ...], targets: Sequence[str], *, upgrade: bool
) -> list[RecordedStep]:
    steps_to = scripts._upgrade_revs if upgrade else scripts._downgrade_revs
    if gone := set(heads) - {script.revision for script in scripts.walk_revisions()}:
        raise ScriptError(
            f"the script of an applied revision is gone: {', '.join(sorted(gone))}",
            found=f"no such script in {scripts.versions}",
            expected="every applied revision's script",
            next_step="restore it from version control, or embedmigrate rollback COLLECTION",
        )
    seen: dict[str, RecordedStep] = {}
    for target in targets:
        if not upgrade and not heads:
            raise UnknownRevision(
                "nothing is applied that could be undone",
                found=f"target {target}",
                expected="an applied revision",
                next_step="embedmigrate current",
            )
        with script_errors():
            try:
                steps = steps_to(target, heads)  # type: ignore[arg-type]
            except (AssertionError, TypeError) as error:  # Alembic's way to say "no such target"
                raise UnknownRevision(
                    f"{target!r} names no revision",
                    found=target or "an empty target",
                    expected="a revision, a collection, or one of heads, +1, articles@-1",
                    next_step="embedmigrate history",
                ) from error
        for step in steps:
            script = step.revision
            assert isinstance(script, Script)
            if script.revision not in seen:
                seen[script.revision] = record(script, upgrade=upgrade)
    return list(seen.values())


def all_moves(scripts: ScriptDirectory) -> dict[str, list[RecordedStep]]:
    """Every re-embedding and rebind by collection, ancestors first."""
    found: dict[str, list[RecordedStep]] = {}
    for script in reversed(list(scripts.walk_revisions())):
        step = record(script)
        if step.move is not None:
            found.setdefault(step.move.collection, []).append(step)
    return found


def find_forks(
    scripts: ScriptDirectory, moves: Mapping[str, Sequence[RecordedStep]]
) -> Iterator[tuple[str, Fork]]:
    """Where two moves of one collection do not follow one another, by collection."""
    for collection, steps in moves.items():
        for earlier, later in pairwise(steps):
            ancestors = {
                script.revision
                for script in scripts.iterate_revisions(later.revision, "base", inclusive=True)
            }
            if earlier.revision not in ancestors:
                yield (
                    collection,
                    Fork(
                        f"collection {collection!r} has two open re-embeddings",
                        found=f"revisions {earlier.revision} and {later.revision}, "
                        "neither after the other",
                        expected="one re-embedding after the other",
                        next_step="rebase the one that is not applied yet (embedmigrate current): "
                        "set its down_revision to the other's id and its source to the other's "
                        "target; or delete it",
                    ),
                )


def refuse_forks(scripts: ScriptDirectory, collections: Iterable[str] | None = None) -> None:
    """``Fork`` when two re-embeddings of one collection do not follow one another."""
    for collection, fork in find_forks(scripts, all_moves(scripts)):
        if collections is None or collection in collections:
            raise fork
