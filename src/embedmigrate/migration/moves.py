"""What the scripts want of each collection, as ``recognising`` compares it."""

from __future__ import annotations

from alembic.script import Script, ScriptDirectory

from embedmigrate.config import Settings
from embedmigrate.migration.environment import script_errors
from embedmigrate.migration.operations import ReembedOp
from embedmigrate.migration.plan import spec_after, spec_of
from embedmigrate.migration.recognising import Move
from embedmigrate.migration.recorder import all_moves


def moves_of(settings: Settings, scripts: ScriptDirectory) -> dict[str, list[Move]]:
    """The moves of the collections that are configured, ancestors first."""
    found: dict[str, list[Move]] = {}
    for collection, steps in all_moves(scripts).items():
        if collection not in settings.collections:
            continue
        operations = [step.move for step in steps if step.move is not None]
        for number, step in enumerate(steps, start=1):
            below = operations[:number]
            spec = spec_after(settings, below)
            built = next(it for it in reversed(below) if isinstance(it, ReembedOp))
            down = _down_revision(scripts, step.revision)
            found.setdefault(collection, []).append(
                Move(step, down, spec, spec_of(settings, built))
            )
    return found


def _down_revision(scripts: ScriptDirectory, revision: str) -> str | None:
    with script_errors():
        script = scripts.get_revision(revision)
    assert isinstance(script, Script)
    down = script.down_revision
    assert down is None or isinstance(down, str), "a merge holds no operation"
    return down
