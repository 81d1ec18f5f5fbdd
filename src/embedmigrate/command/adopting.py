"""``adopt``: an index that somebody else made becomes the first live index of a collection."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import alembic.command
from alembic.script import Script, ScriptDirectory

from embedmigrate import resolve
from embedmigrate.catalog import indexes, journal, routes, runs
from embedmigrate.catalog.database import actor
from embedmigrate.catalog.locks import Lease
from embedmigrate.command.checking import disagreements
from embedmigrate.command.forward import note_applied
from embedmigrate.command.project import Project, version_table
from embedmigrate.command.scripts import lags
from embedmigrate.config import Settings
from embedmigrate.engine.adopt import Proof, metric_of, prove
from embedmigrate.engine.adopted import Overlap, compared, rows_of
from embedmigrate.engine.belonging import check_store
from embedmigrate.engine.diff import Comparison
from embedmigrate.engine.job import Job, Reporter, StopSignal
from embedmigrate.engine.statistics import sample_rows, sample_size
from embedmigrate.errors import DimensionMismatch, NotProven, Refused, UnpinnedReference, UsageError
from embedmigrate.migration.environment import Environment, script_errors
from embedmigrate.migration.recorder import all_moves, recorded
from embedmigrate.migration.rendering import render
from embedmigrate.models import EmbeddingModel, IndexSpec
from embedmigrate.models.pin_file import read_pins
from embedmigrate.sources.base import Source
from embedmigrate.stores.base import IndexManifest, Store
from embedmigrate.stores.foreign import AdoptingStore, ForeignFile, ForeignIndex


def adopt(
    settings: Settings,
    collection: str,
    *,
    model: str,
    index: Path,
    ids: Path,
    max_stale: float = 0.0,
    confidence: float = 0.99,
    share: float = 0.01,
    accept_gaps: bool = False,
    reporter: Reporter | None = None,
    stop: StopSignal | None = None,
) -> dict[str, Any]:
    """Take the FAISS file ``index`` with the id list ``ids`` as the first live index.

    The vectors of a sample, as large as it takes to find a foreign part of ``share`` with
    ``confidence``, are compared with what the pinned ``model`` makes of their documents. Raises
    ``NotProven`` for a foreign one, or when more than ``max_stale`` of the sample is stale;
    ``Refused`` when the collection has a history, or when more than a tenth of the vectors or of
    the documents lacks the other (unless ``accept_gaps``). Then nothing is kept. The files are
    never written to.
    """
    settings.collection(collection)
    target = resolve.pinned(settings, model)
    _refuse_revisions(Environment(settings).scripts(), collection)
    store = _adopting(settings.open_store(collection), collection)
    # Described before it is opened: what is put in its place meanwhile is noticed at the end.
    files = (store.describe(index), store.describe(ids))
    with closing(store.foreign(index, ids)) as foreign:
        spec = _spec(settings, collection, target, store, foreign, sample_size(share, confidence))
        with Project(settings, reporter=reporter, stop=stop, create_catalog=True) as project:
            with project.catalog.write() as connection:
                indexes.ensure_collection(connection, collection)
            # anyway: it asks itself, once it has removed what one that died has left
            with project.locked_for_a_person([collection], anyway=True) as leases:
                adoption = _Adoption(project, leases[collection], spec, foreign, files)
                proof = adoption.prove(share, confidence, max_stale, accept_gaps=accept_gaps)
                entry = adoption.write(proof)
    return {"schema": 1, "collections": [entry]}


class _Adoption:
    """One adoption under the collection's lock: first everything is proven, then it is written."""

    def __init__(
        self,
        project: Project,
        lease: Lease,
        spec: IndexSpec,
        foreign: ForeignIndex,
        files: tuple[ForeignFile, ForeignFile],
    ) -> None:
        self._project, self._lease, self._spec, self._foreign = project, lease, spec, foreign
        self._collection = lease.collection
        self._job: Job = project.job(lease.collection)
        self._store = _adopting(self._job.store, lease.collection)
        self._file, self._ids = files
        self._name, self._generation, self._seq = self._refuse_history()
        self._remove_left_over()
        check_store(self._job, self._generation)

    def _refuse_history(self) -> tuple[str, int, int]:
        """Name and generation to be, and the journal's head; ``Refused`` if there was something."""
        with self._project.catalog.read() as connection:
            route = routes.get(connection, self._collection)
            known = indexes.of_collection(connection, self._collection)
            applied = routes.applied_of(connection, self._collection)
            run = runs.latest(connection, self._collection)
            name = indexes.next_name(connection, self._collection)
            seq = journal.head(connection, self._collection)
        if known or applied or run:
            raise Refused(
                f"{self._collection!r} has a history already: adopt is for the first index",
                found=f"live index {route.live_index or 'none'}, {len(known)} index(es), "
                f"{len(applied)} applied revision(s), "
                + ("no run" if run is None else f"a run that is {run.state}"),
                expected="a collection that never had an index",
                next_step="embedmigrate status; a revision moves it to another model",
            )
        return name, route.generation, seq

    def _remove_left_over(self) -> None:
        """The side table of an adoption that died before its transaction; nobody knows it."""
        for manifest in list(self._store.manifests()):
            if (manifest.index, manifest.catalog_id) == (self._name, self._project.catalog.id):
                self._store.drop_adopted(self._name)

    # -- proving --------------------------------------------------------------------------

    def prove(
        self, share: float, confidence: float, max_stale: float, *, accept_gaps: bool
    ) -> Proof:
        self._job.guard(self._spec.model)  # what is wrong with the model is said first
        with closing(self._open_source()) as source:
            self._job.reporter.phase(self._collection, "comparing ids")
            overlap = Overlap.of(self._foreign, source)
            overlap.refuse_other_source(self._collection, anyway=accept_gaps)
            return prove(
                self._job,
                self._foreign,
                source,
                overlap.rows,
                self._spec.model,
                lambda: _others(self._project.settings, self._spec.model),
                share=share,
                confidence=confidence,
                max_stale=max_stale,
            )

    def _open_source(self) -> Source:
        source = self._job.open_source(self._spec.recipe)
        source.prepare()
        return source

    # -- writing --------------------------------------------------------------------------

    def write(self, proof: Proof) -> dict[str, Any]:
        """Side table, script, then one transaction; what came before it is undone if it fails."""
        settings, catalog = self._project.settings, self._project.catalog
        environment = Environment(settings, catalog)
        with script_errors():
            alembic.command.ensure_version(environment.config)
        with ExitStack() as undo:
            self._job.reporter.phase(self._collection, "writing the side table")
            comparison, digest = self._write_side_table(proof, undo)
            adopted = self._facts(proof, comparison, digest)
            path = _write_script(settings, self._collection, self._spec)
            undo.callback(path.unlink, missing_ok=True)
            revision = path.name.partition("_")[0]
            with catalog.write() as connection:
                generation = routes.adopt(
                    connection,
                    self._lease,
                    revision=revision,
                    spec=self._spec,
                    name=self._name,
                    adopted=adopted,
                )
                for invariant, holds, measured in _evidence(adopted):
                    runs.add_evidence(connection, self._name, invariant, holds, measured, None)
                connection.execute(version_table.insert().values(version_num=revision))
                self._project.publish(connection, self._collection)
            undo.pop_all()
        scripts = Environment(settings).scripts()
        note_applied(self._project, scripts, [revision])
        return {
            "collection": self._collection,
            "index": self._name,
            "generation": generation,
            "revision": revision,
            "script": str(path),
            "vectors": len(self._foreign),
            "model": self._spec.model.reference,
            "assurance": self._spec.model.pinned_or_witnessed,
            "factory": self._foreign.factory,
            "metric": self._spec.metric,
            **adopted,
            "notes": _notes(settings, scripts, revision, self._collection),
        }

    def _write_side_table(self, proof: Proof, undo: ExitStack) -> tuple[Comparison, str]:
        with closing(self._open_source()) as source:
            rows = rows_of(source, self._foreign, proof, seq=self._seq)
            self._store.adopt(self._manifest(), self._file, self._ids, rows)
            undo.callback(self._store.drop_adopted, self._name)
            with closing(self._store.reader(self._name)) as reader:
                return compared(source, reader, self._job)

    def _manifest(self) -> IndexManifest:
        model = self._spec.model
        return IndexManifest(
            index=self._name,
            collection=self._collection,
            catalog_id=self._project.catalog.id,
            spec_digest=self._spec.digest,
            fingerprint=model.fingerprint,
            dimensions=model.dimensions,
            metric=self._spec.metric,
            normalized=model.normalize,
            factory=self._spec.factory,
            generation=self._generation + 1,
        )

    def _facts(self, proof: Proof, comparison: Comparison, digest: str) -> dict[str, Any]:
        """What the catalog keeps of how the index was proven."""
        return {
            **proof.dump(),
            "orphans": comparison.orphan,
            "missing": comparison.missing,
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "actor": actor(),
            "file": self._file.path,
            "sha256": self._file.sha256,
            "differences": {**vars(comparison), "digest": digest},
        }


def _evidence(adopted: dict[str, Any]) -> Iterator[tuple[int, bool, dict[str, Any]]]:
    """Invariant, whether it holds, and what was measured."""
    yield 1, not adopted["missing"], {"missing": adopted["missing"]}
    yield 2, not adopted["orphans"], {"orphan": adopted["orphans"]}
    yield 5, not adopted["stale"], {"stale": adopted["stale"], "sample": adopted["sample"]}
    yield (
        6,
        True,
        {
            key: adopted[key]
            for key in ("sample", "proven", "stale", "bound", "confidence", "tolerance")
        },
    )


def _adopting(store: Store, collection: str) -> AdoptingStore:
    if isinstance(store, AdoptingStore):
        return store
    raise UsageError(
        f"the store of {collection!r} cannot take somebody else's index",
        found=type(store).__name__,
        expected="the FAISS store",
        next_step='store = { kind = "faiss", … } in the collection',
    )


def _refuse_revisions(scripts: ScriptDirectory, collection: str) -> None:
    named = [step.revision for step in all_moves(scripts).get(collection, [])]
    named += [it.revision for it in scripts.walk_revisions() if collection in it.branch_labels]
    if named:
        raise Refused(
            f"{collection!r} has revisions already: adopt writes its first one",
            found=", ".join(sorted(set(named))),
            expected="no script of this collection",
            next_step="delete the scripts if they were never applied anywhere; else "
            "embedmigrate upgrade",
        )


def _spec(
    settings: Settings,
    collection: str,
    model: EmbeddingModel,
    store: AdoptingStore,
    foreign: ForeignIndex,
    sample: int,
) -> IndexSpec:
    """What the baseline revision states; refuses an index that cannot be one of ``model``."""
    configured = settings.collection(collection)
    if configured.chunker is not None:
        raise Refused(
            "an index of chunks cannot be adopted",
            found=f"a chunker for {collection!r}",
            expected="one vector a document, of all of its text",
            next_step="to adopt an index of whole documents, remove the chunker for now: a "
            "revision that cuts them can come next; else embed the collection by a revision",
        )
    if foreign.dimensions != model.dimensions:
        raise DimensionMismatch(
            f"the index is not one of {model.reference}",
            found=f"{foreign.dimensions} dimensions",
            expected=f"{model.dimensions} dimensions",
            next_step="name the model that made it; MODEL can be cut with `dimensions`",
        )
    if foreign.lossy:
        raise NotProven(
            "the index keeps compressed vectors, of which nobody can prove that a model made them",
            found=foreign.factory,
            expected="vectors as the model made them: Flat, IVF<lists>,Flat or HNSW<links>",
            next_step="adopt an index of the uncompressed vectors if there still is one; else "
            "embed the collection by a revision",
        )
    vectors = foreign.vectors(sample_rows(len(foreign), sample, 0))
    return IndexSpec(
        model=model,
        recipe=configured.recipe,
        store_kind=configured.store.kind,
        factory=store.factory_like(foreign),
        metric=metric_of(foreign, vectors, configured.store.metric),
    )


def _others(settings: Settings, model: EmbeddingModel) -> Iterator[EmbeddingModel]:
    """The other pinned models that could have made vectors of this dimension."""
    seen = {model.fingerprint}
    for other in settings.models:
        for pin in reversed(read_pins(settings.pins, other)):
            found = pin.model
            if found.dimensions == model.dimensions and found.fingerprint not in seen:
                seen.add(found.fingerprint)
                yield found


def _write_script(settings: Settings, collection: str, spec: IndexSpec) -> Path:
    """The baseline revision: the script that builds this index, by embedding, elsewhere."""
    environment = Environment(
        settings,
        attributes={
            "embedmigrate_body": render(
                collection, None, spec, allow_lag=lags(settings, collection)
            )
        },
    )
    with script_errors():
        made = alembic.command.revision(
            environment.config,
            message=f"adopt an index of {spec.model.name}",
            head="base",
            branch_label=collection,
        )
    assert isinstance(made, Script)
    return Path(made.path)


def _notes(
    settings: Settings, scripts: ScriptDirectory, revision: str, collection: str
) -> list[str]:
    """Where the configuration says otherwise, which ``check`` will say, too."""
    step = recorded(scripts, revision)
    wanted = None
    with suppress(UnpinnedReference):
        wanted = resolve.pinned(settings, settings.collection(collection).model)
    factory = settings.open_store(collection).factory
    return [str(it) for it in disagreements(settings, collection, [step], wanted, factory)]
