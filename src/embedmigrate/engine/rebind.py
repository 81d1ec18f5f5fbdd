"""Rebind: ask another model about the vectors that are live, once it is proven to span their space.

No document is embedded, and nothing is written to the store. Until the proof holds nothing is
written to the catalog either: index, run, evidence and joined spaces appear in one transaction.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict, dataclass

from embedmigrate.catalog import indexes, routes, runs, spaces, witnesses
from embedmigrate.catalog.locks import Lease
from embedmigrate.catalog.records import IndexRecord, IndexState, RunRecord, RunState
from embedmigrate.engine.belonging import check_store
from embedmigrate.engine.job import Job
from embedmigrate.engine.prepare import check_leaves, refuse_sticky, route_generation
from embedmigrate.engine.proof import (
    CanaryProof,
    SampleProof,
    prove_on_canaries,
    prove_on_sample,
)
from embedmigrate.errors import ConfigError
from embedmigrate.models import EmbeddingModel, IndexSpec
from embedmigrate.models.witness import Witness


@dataclass(frozen=True)
class Rebinding:
    """What a revision that rebinds wants for a collection."""

    revision: str
    model: EmbeddingModel
    leaves: str
    """Fingerprint that must be live before."""


@dataclass(frozen=True)
class _Proof:
    canaries: CanaryProof
    sample: SampleProof


def rebind(job: Job, lease: Lease, rebinding: Rebinding, *, again: str | None = None) -> RunRecord:
    """Make an index of the live vectors and the model of ``rebinding`` ready; returns its run.

    A run that is ready already is taken up, and proves nothing anew. ``again`` is the reason to
    repeat what a person rolled back. Raises ``SourceMismatch``, ``StickyState``, ``NotProven`` and
    whatever a source, a store or a model raises; nothing is changed then.
    """
    check_leaves(job, rebinding)
    refuse_sticky(job, rebinding, again)
    check_store(job, route_generation(job))
    live = _live(job)
    spec = live.spec.model_copy(update={"model": rebinding.model})
    job.guard(rebinding.model)  # whatever was proven before: it must be itself today
    if (run := _taken_up(job, lease, rebinding, live, spec)) is not None:
        return run
    proof = _prove(job, live, rebinding.model)
    ready = _make_ready(job, lease, rebinding.revision, live, spec, proof, again)
    job.tell("on_ready", ready)
    return ready


def _live(job: Job) -> IndexRecord:
    with job.catalog.read() as connection:
        name = routes.get(connection, job.collection).live_index
        assert name is not None, "what the revision leaves is live"
        return indexes.get(connection, name)


def _taken_up(
    job: Job, lease: Lease, rebinding: Rebinding, live: IndexRecord, spec: IndexSpec
) -> RunRecord | None:
    """The run of this revision, if it made the very index that is wanted ready."""
    with job.catalog.write() as connection:
        run = runs.latest(connection, job.collection, revision=rebinding.revision)
        if run is None or run.state is not RunState.READY:
            return None
        index = indexes.get(connection, run.index_name)
        if index.state is not IndexState.READY or not _stands_for(index, live, spec):
            return None
        routes.offer_candidate(connection, lease, index.name)
        return runs.take_over(connection, lease, run)


def _stands_for(index: IndexRecord, live: IndexRecord, spec: IndexSpec) -> bool:
    return index.container == live.container and index.spec.answers_like(spec)


def _prove(job: Job, live: IndexRecord, target: EmbeddingModel) -> _Proof:
    guard = job.guard(target)
    job.reporter.phase(job.collection, "proving")
    canaries = prove_on_canaries(live.model, _recorded(job, live.model), guard)
    with (
        closing(job.open_source(live.spec.recipe)) as source,
        closing(job.reader(live)) as reader,
    ):
        source.prepare()
        sample = prove_on_sample(live, reader, source, guard, canaries, job.proof_sample, job.stop)
    return _Proof(canaries, sample)


def _recorded(job: Job, model: EmbeddingModel) -> Witness:
    """Every record of ``model`` that there is; it need not be configured any more."""
    try:
        pinned = job.pinned_witness(model)
    except ConfigError:
        pinned = Witness()
    with job.catalog.read() as connection:
        return witnesses.known(connection, model, pinned)


def _make_ready(
    job: Job,
    lease: Lease,
    revision: str,
    live: IndexRecord,
    spec: IndexSpec,
    proof: _Proof,
    again: str | None,
) -> RunRecord:
    measured = {"canaries": asdict(proof.canaries), "sample": asdict(proof.sample)}
    with job.catalog.write() as connection:
        retained = indexes.reusable(connection, job.collection, spec)
        index = next((it for it in retained if _stands_for(it, live, spec)), None)
        if index is None:
            index = indexes.create(connection, job.collection, spec, rebinds=live)
        run = runs.create(connection, lease, revision, index.name, again)
        spaces.join(
            connection,
            live.fingerprint,
            spec.model.fingerprint,
            {"collection": job.collection, "index": live.name, **measured},
        )
        for invariant, figures in ((4, measured["canaries"]), (6, measured["sample"])):
            runs.add_evidence(connection, index.name, invariant, True, figures, run.id)
        if index.state is not IndexState.READY:
            indexes.move(connection, index.name, (index.state,), IndexState.READY)
        routes.offer_candidate(connection, lease, index.name)
        return runs.move(connection, lease, run, RunState.READY, values={"ready_at": time.time()})
