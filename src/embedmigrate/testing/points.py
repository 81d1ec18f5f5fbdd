"""The crash points: every boundary between two steps that are durable on their own.

A point lies in a scenario: a command that is killed there, and run again. Whatever the point, the
end must be the same. Points of your own, in a store for example, are made like these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from embedmigrate.testing.breaking import Event, When
from embedmigrate.testing.embedders import Kind as Misbehaviour
from embedmigrate.testing.subject import SourceKind

_WALK = "embedmigrate.command.forward:_walk"
_COMPARE = "embedmigrate.engine.follow:note_differences"


@dataclass(frozen=True)
class Step:
    """A command with its options; see ``tasks.Order``."""

    verb: str
    options: tuple[tuple[str, Any], ...] = ()


def _changes(count: int) -> Step:
    return Step("change", (("number", 1), ("changes", count)))


@dataclass(frozen=True)
class Scenario:
    """``command`` runs after ``before``; killed, it is run again; ``after`` ends what is left.

    ``events`` happen in the run that is killed alone: changes of the source among them. Without a
    ``source`` both kinds take turns.
    """

    command: Step
    before: tuple[Step, ...] = ()
    after: tuple[Step, ...] = ()
    events: tuple[Event, ...] = ()
    source: SourceKind | None = None
    with_index: bool = True
    captured: bool = True
    misbehaves: tuple[Misbehaviour, int] | None = None
    """How the model of the run that is killed misbehaves, and from which call on."""
    live: str = "second"
    """Name of the model that is live in the end."""


SCENARIOS = {
    "first upgrade": Scenario(Step("upgrade"), with_index=False, live="first"),
    "upgrade": Scenario(
        Step("upgrade"),
        before=(_changes(5),),
        events=(
            Event(_COMPARE, "change", value=(1, 40)),
            Event(_WALK, "change", value=(1, 20)),
        ),
    ),
    "upgrade of a model that drifts": Scenario(
        Step("upgrade"), misbehaves=("other model", 4), after=(Step("sync"),)
    ),
    "upgrade after a rollback": Scenario(
        Step("upgrade", (("again", "once more"),)),
        before=(Step("upgrade"), _changes(10), Step("rollback"), _changes(30)),
        events=(Event(_WALK, "change", value=(1, 20)),),
    ),
    "rollback": Scenario(
        Step("rollback", (("unless_at", "first"),)),
        before=(Step("upgrade"), _changes(10), Step("sync"), _changes(30)),
        events=(Event("embedmigrate.command.back:_settle", "change", value=(1, 20)),),
        after=(Step("sync"),),
        live="first",
    ),
    "rollback --now": Scenario(
        Step("rollback", (("unless_at", "first"), ("now", True))),
        before=(Step("upgrade"), _changes(30)),
        after=(Step("sync"),),
        live="first",
    ),
    "sync": Scenario(Step("sync"), before=(Step("upgrade"), _changes(40)), source="managed"),
    "sync by triggers": Scenario(
        Step("sync"), before=(Step("upgrade"), _changes(40)), source="sql"
    ),
    "contract": Scenario(
        Step("contract"), before=(Step("upgrade"), _changes(10)), after=(Step("sync"),)
    ),
    "capture install": Scenario(
        Step("capture install"),
        before=(_changes(10),),
        after=(_changes(20), Step("sync"), _changes(20), Step("sync")),
        source="sql",
        captured=False,
        live="first",
    ),
    "capture remove": Scenario(
        Step("capture remove"),
        before=(_changes(20),),
        after=(_changes(20), Step("sync")),
        source="sql",
        live="first",
    ),
}


@dataclass(frozen=True)
class CrashPoint:
    """The process is killed ``when`` a call of ``at`` is made; see ``breaking`` for places.

    ``call`` says which call; None: any, drawn by the seed. ``store`` is the kind of store that has
    the point, None where every one does.
    """

    name: str
    at: str
    when: When
    scenario: str
    about: str
    call: int | None = None
    store: str | None = None


_CATALOG = "embedmigrate.catalog"
_COMMAND = "embedmigrate.command"
_ENGINE = "embedmigrate.engine"
_FAISS = "embedmigrate.stores.faiss"
_PREPARE = f"{_ENGINE}.prepare:_Preparation"

_Line = tuple[str, str, When, str] | tuple[str, str, When, str, int]

_UPGRADE: tuple[_Line, ...] = (
    ("lock wanted", f"{_CATALOG}.locks:acquire", "before", "nothing is taken", 1),
    ("lock taken", f"{_CATALOG}.locks:acquire", "after", "it is held by a dead process", 1),
    ("intake begun", f"{_ENGINE}.intake:begin", "after", "what comes is counted from here"),
    ("run wanted", f"{_ENGINE}.prepare:_open_run", "before", "no run, no index"),
    ("run opened", f"{_ENGINE}.prepare:_open_run", "after", "a run without a container", 1),
    ("container wanted", "store.create", "before", "the catalog names an index that is not there"),
    ("container made", "store.create", "after", "an empty index, no batches"),
    ("batches planned", f"{_CATALOG}.runs:plan_batches", "after", "the run is still planned"),
    ("moved to backfilling", f"{_PREPARE}._move", "after", "the total is known", 1),
    ("moved to catching up", f"{_PREPARE}._move", "after", "every batch is done", 2),
    ("moved to building", f"{_PREPARE}._move", "after", "nothing differs", 3),
    ("moved to verifying", f"{_PREPARE}._move", "after", "the index is built", 4),
    ("texts asked for", f"{_ENGINE}.embedding:_ask", "after", "paid, and not stored"),
    ("batch wanted", f"{_ENGINE}.backfill:_BackfillWork.save", "before", "embedded, not stored"),
    ("rows committed", "writer.write", "after", "stored, and not counted"),
    ("batch counted", f"{_CATALOG}.runs:finish_batch", "after", "counted, not committed"),
    ("batch saved", f"{_ENGINE}.backfill:_BackfillWork.save", "after", "stored and counted"),
    ("window to confirm", f"{_ENGINE}.backfill:_confirm", "before", "the witness held"),
    ("window confirmed", f"{_ENGINE}.backfill:_confirm", "after", "its batches count for good"),
    ("comparison wanted", _COMPARE, "before", "all recorded changes are in the journal"),
    ("differences entered", f"{_ENGINE}.follow:_append", "after", "found, and not applied"),
    ("comparison done", _COMPARE, "after", "found, and not tracked"),
    ("index tracked", f"{_ENGINE}.intake:track", "after", "the journal has every difference"),
    ("entries taken in", f"{_CATALOG}.intake:take_in", "after", "entered, not committed"),
    ("entries in the journal", f"{_ENGINE}.intake:take_in", "after", "the source forgot them"),
    ("page read", f"{_ENGINE}.follow:_apply", "before", "nothing of a page is applied"),
    ("page applied", f"{_ENGINE}.follow:_apply", "after", "applied, and the position is before"),
    ("position advanced", f"{_CATALOG}.indexes:advance", "after", "advanced, not committed"),
    ("rows deleted", "writer.delete", "after", "deleted, the rest of the page is not applied"),
    ("metadata written", "writer.write_metadata", "after", "the texts of the page are not"),
    ("index to build", "writer.build", "before", "caught up, not built"),
    ("index built", "writer.build", "after", "built, and not said to be"),
    ("verification wanted", f"{_ENGINE}.prepare:verify", "before", "built, not verified"),
    ("verified", f"{_ENGINE}.prepare:verify", "after", "findings that nobody knows of"),
    ("candidate offered", f"{_CATALOG}.routes:offer_candidate", "after", "not committed"),
    ("ready", f"{_PREPARE}._finish", "after", "the run is ready"),
    ("window of the cut-over", f"{_ENGINE}.settle:catch_up", "after", "caught up, not switched", 1),
    ("walk wanted", _WALK, "before", "caught up, and documents changed since"),
    ("switch wanted", f"{_CATALOG}.routes:cut_over", "before", "in the transaction, nothing done"),
    ("switched", f"{_CATALOG}.routes:cut_over", "after", "route changed, not committed"),
    ("walked", _WALK, "after", "route and version row are committed, nothing is settled"),
    ("scripts noted", f"{_COMMAND}.forward:note_applied", "after", "the lock file is written"),
    ("generation wanted", "writer.set_generation", "before", "the index does not say it is live"),
    ("generation set", "writer.set_generation", "after", "the index says that it is live"),
    ("tombstones forgotten", "writer.forget_tombstones", "after", "everybody has passed them"),
    ("settlement noted", f"{_CATALOG}.routes:note_settled", "after", "not committed"),
    ("settled", f"{_COMMAND}.project:Project.settle", "after", "the locks are held"),
    ("lock to give back", f"{_CATALOG}.locks:release", "before", "all is done"),
    ("lock given back", f"{_CATALOG}.locks:release", "after", "the other lock is held", 1),
)
_OTHERS: dict[str, tuple[_Line, ...]] = {
    "first upgrade": (
        ("catalog wanted", f"{_CATALOG}.database:Catalog._create", "before", "an empty file"),
        ("catalog made", f"{_CATALOG}.database:Catalog._create", "after", "no collection"),
        ("collection made", f"{_CATALOG}.indexes:ensure_collection", "after", "not committed"),
        ("first switch", f"{_CATALOG}.routes:cut_over", "after", "not committed"),
        ("first walk", _WALK, "after", "something is live for the first time"),
    ),
    "upgrade of a model that drifts": (
        ("discard wanted", f"{_ENGINE}.backfill:discard_window", "before", "the witness failed"),
        ("rows discarded", "writer.discard", "after", "out of the store, counted in the catalog"),
        ("window discarded", f"{_CATALOG}.runs:discard_window", "after", "not committed"),
        ("discard done", f"{_ENGINE}.backfill:discard_window", "after", "to be done again"),
    ),
    "upgrade after a rollback": (
        ("index reused", f"{_ENGINE}.prepare:_open_run", "after", "a new run, an old index"),
        ("reused index caught up", f"{_ENGINE}.follow:_apply", "after", "the position is before"),
        ("reused index ready", f"{_PREPARE}._finish", "after", "nothing was built anew"),
        ("switched again", f"{_CATALOG}.routes:cut_over", "after", "not committed"),
        ("walked again", _WALK, "after", "committed, nothing is settled"),
    ),
    "rollback": (
        ("way back wanted", f"{_ENGINE}.settle:catch_up", "before", "the old index is behind", 1),
        ("page of the old index", f"{_ENGINE}.follow:_apply", "after", "the position is before"),
        ("old index caught up", f"{_COMMAND}.back:_make_targets_ready", "after", "not switched"),
        ("undo wanted", f"{_CATALOG}.routes:undo", "before", "in the transaction, nothing done"),
        ("undone", f"{_CATALOG}.routes:undo", "after", "route changed, not committed"),
        ("rolled back", f"{_COMMAND}.back:_settle", "before", "committed, nothing is settled"),
        ("generation set on the way back", "writer.set_generation", "after", "not settled"),
        ("rollback settled", f"{_COMMAND}.back:_settle", "after", "the locks are held"),
    ),
    "rollback --now": (
        ("deletes taken along", f"{_COMMAND}.back:delete_in_retained", "after", "not switched"),
        ("undone at once", f"{_CATALOG}.routes:undo", "after", "route changed, not committed"),
        ("rolled back at once", f"{_COMMAND}.back:_settle", "before", "the index is behind"),
    ),
    "sync": (
        ("changes read", f"{_CATALOG}.intake:take_in", "before", "recorded, not entered"),
        ("changes entered", f"{_CATALOG}.intake:take_in", "after", "entered, not committed"),
        (
            "record to forget",
            "embedmigrate.sources.managed:ManagedSource.forget",
            "before",
            "in the journal and in the source",
        ),
        (
            "record forgotten",
            "embedmigrate.sources.managed:ManagedSource.forget",
            "after",
            "in the journal alone",
        ),
        ("live page applied", f"{_ENGINE}.follow:_apply", "after", "the position is before"),
        ("live index caught up", f"{_ENGINE}.sync:catch_up", "after", "retained ones are not"),
        ("retained index to clean", f"{_ENGINE}.sync:delete_in_retained", "before", "not cleaned"),
        ("retained rows deleted", "writer.delete", "after", "not noted"),
        ("retained deletes noted", f"{_CATALOG}.indexes:note_deleted", "after", "not committed"),
        ("journal to prune", f"{_ENGINE}.sync:prune", "before", "every index has passed"),
        ("journal pruned", f"{_CATALOG}.journal:prune", "after", "not committed"),
        ("round done", f"{_COMMAND}.syncing:sync_once", "after", "the lock is held"),
    ),
    "sync by triggers": (
        (
            "triggers' record to forget",
            "capture.forget",
            "before",
            "in the journal and in the source",
        ),
        (
            "triggers' record forgotten",
            "capture.forget",
            "after",
            "in the journal alone",
        ),
    ),
    "contract": (
        ("drop wanted", f"{_CATALOG}.indexes:move", "before", "nothing is dropped"),
        ("drop noted", f"{_CATALOG}.indexes:move", "after", "not committed"),
        ("container to drop", "store.drop", "before", "dropped, says the catalog"),
        ("container dropped", "store.drop", "after", "the lock is held"),
    ),
    "capture install": (
        ("triggers wanted", "capture.install", "before", "nothing is recorded"),
        ("triggers to make", "capture._change", "before", "the statements are known"),
        ("triggers made", "capture.install", "after", "recorded, and nobody reads it"),
    ),
    "capture remove": (
        ("triggers to remove", "capture._change", "before", "recording"),
        ("triggers removed", "capture.remove", "after", "nothing records"),
    ),
}
_OF_FAISS: tuple[_Line, ...] = (
    ("vectors durable", f"{_FAISS}.vectors:VectorFile.write", "after", "no row names them"),
    ("rows to commit", f"{_FAISS}.ownership:Ownership.commit", "before", "vectors are durable"),
    ("container half made", f"{_FAISS}.store:create_database", "after", "not under its name"),
)


def _points(scenario: str, lines: tuple[_Line, ...], store: str | None = None) -> list[CrashPoint]:
    return [
        CrashPoint(name, at, when, scenario, about, call[0] if call else None, store)
        for name, at, when, about, *call in lines
    ]


POINTS: tuple[CrashPoint, ...] = (
    *_points("upgrade", _UPGRADE),
    *(point for scenario, lines in _OTHERS.items() for point in _points(scenario, lines)),
    *_points("upgrade", _OF_FAISS, "faiss"),
)
"""In the order in which they are passed. Names are unique."""
