"""Rows of the catalog as frozen dataclasses, and the states they go through."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from sqlalchemy.engine import Row

from embedmigrate.models import EmbeddingModel, IndexSpec


class IndexState(StrEnum):
    BUILDING = "building"
    READY = "ready"
    LIVE = "live"
    RETAINED = "retained"
    DROPPED = "dropped"
    ADOPTED = "adopted"


class RunState(StrEnum):
    PLANNED = "planned"
    BACKFILLING = "backfilling"
    CATCHING_UP = "catching_up"
    BUILDING = "building"
    VERIFYING = "verifying"
    READY = "ready"
    PAUSED = "paused"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ROLLED_BACK = "rolled_back"


STICKY = frozenset({RunState.CANCELLED, RunState.ROLLED_BACK})
"""States that a person chose; no scheduled command leaves them."""

UNDER_WAY = frozenset(
    {
        RunState.PLANNED,
        RunState.BACKFILLING,
        RunState.CATCHING_UP,
        RunState.BUILDING,
        RunState.VERIFYING,
    }
)
"""States that a runner works in, or died in."""


@dataclass(frozen=True)
class IndexRecord:
    """A row of ``embedmigrate_index``."""

    name: str
    collection: str
    spec_digest: str
    spec_json: dict[str, Any]
    fingerprint: str
    state: IndexState
    position: int
    created_at: float
    retained_at: float | None
    container: str
    """What holds its vectors in the store: a container of its own, or that of the index that it
    was rebound from."""
    adopted: dict[str, Any] | None = None
    """How the vectors of a container that somebody else made were proven; None for our own."""
    tracked_by: str | None = None
    """The recording of changes for which ``position`` is complete; None: only a comparison with the
    source tells what the index lacks."""
    compared_at: float | None = None
    deleted_through: int | None = None
    """Position through which deletes were applied, where that is beyond ``position``."""

    @cached_property
    def spec(self) -> IndexSpec:
        return IndexSpec.model_validate(self.spec_json)

    @property
    def model(self) -> EmbeddingModel:
        return self.spec.model

    @classmethod
    def of(cls, row: Row[Any]) -> IndexRecord:
        return cls(
            name=row.name,
            collection=row.collection,
            spec_digest=row.spec_digest,
            spec_json=row.spec,
            fingerprint=row.fingerprint,
            state=IndexState(row.state),
            position=row.position,
            created_at=row.created_at,
            retained_at=row.retained_at,
            container=row.container or row.name,
            adopted=row.adopted,
            tracked_by=row.tracked_by,
            compared_at=row.compared_at,
            deleted_through=row.deleted_through,
        )


@dataclass(frozen=True)
class Route:
    """What readers follow: one versioned record a collection."""

    collection: str
    live_index: str | None
    candidate_index: str | None
    generation: int
    settled_generation: int = 0
    """Last generation whose changes since verification were applied after the switch."""


@dataclass(frozen=True)
class RunRecord:
    """A row of ``embedmigrate_run``. I16: done + failed + skipped + pending = total."""

    id: int
    collection: str
    revision: str
    index_name: str
    state: RunState
    epoch: int
    total: int
    done: int
    skipped: int
    failed: int
    embedded: int
    started_at: float
    ready_at: float | None
    actor: str
    reason: str | None
    waiting: str | None = None
    """Why its runner waits just now."""

    @property
    def pending(self) -> int:
        return self.total - self.done - self.skipped - self.failed

    @classmethod
    def of(cls, row: Row[Any]) -> RunRecord:
        values = dict(row._mapping)
        values["state"] = RunState(values["state"])
        return cls(**values)


@dataclass(frozen=True)
class BatchRecord:
    """A key range that one worker embeds and checkpoints at once."""

    run_id: int
    ordinal: int
    after: str | None
    until: str | None
    documents: int


@dataclass(frozen=True)
class AppliedRecord:
    """What a revision did to its collection when its version row was written."""

    revision: str
    collection: str
    down_revision: str | None
    index_name: str | None
    previous_index: str | None
    superseded_by: str | None
    run_id: int | None
