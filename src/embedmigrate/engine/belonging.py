"""Whether the indexes that lie in a store are the ones that this catalog knows (I14)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from embedmigrate.catalog import Catalog, indexes, routes
from embedmigrate.catalog.records import IndexRecord
from embedmigrate.engine.job import Job
from embedmigrate.errors import ConfigError, DamagedIndex, Temporary, UnknownCatalog
from embedmigrate.stores.base import IndexManifest


def manifest_of(job: Job, index: IndexRecord) -> IndexManifest:
    """What the container of a new index says of itself."""
    return IndexManifest(
        index=index.name,
        collection=index.collection,
        catalog_id=job.catalog.id,
        spec_digest=index.spec_digest,
        fingerprint=index.fingerprint,
        dimensions=index.model.dimensions,
        metric=index.spec.metric,
        normalized=index.model.normalize,
        factory=index.spec.factory,
    )


def check_store(job: Job, generation: int) -> None:
    """``UnknownCatalog`` for an index that this catalog did not make or does not remember.

    A catalog that was restored from an old backup, or emptied, must not build beside indexes that
    are in use: it would hand out their names and generations again.
    """
    generations = {job.collection: generation}
    with job.catalog.read() as connection:
        dropped = indexes.dropped_containers(connection)
    for manifest, refusal in looked_at(job.catalog, job.store.manifests(), generations):
        if refusal is not None:
            raise refusal
        if manifest.index in dropped:
            job.store.drop(manifest.index)  # a drop that was cut short


def refuse_unknown(job: Job) -> None:
    """The same of the collection's own indexes, before anything is written for it.

    What lies beside them may be the work of another command just now. A store that cannot be asked,
    and an index that is damaged, are left to whoever needs them: going back from a damaged index
    must be possible.
    """
    with job.catalog.read() as connection:
        generations = {job.collection: routes.get(connection, job.collection).generation}
    with suppress(Temporary, ConfigError, DamagedIndex):
        ours = (it for it in job.store.manifests() if it.collection == job.collection)
        for _, refusal in looked_at(job.catalog, ours, generations):
            if refusal is not None:
                raise refusal


def looked_at(
    catalog: Catalog, manifests: Iterable[IndexManifest], generations: Mapping[str, int]
) -> Iterator[tuple[IndexManifest, UnknownCatalog | None]]:
    """Each index with the reason for which this is not its catalog, or with None.

    ``generations`` are those that the catalog knows of collections; of others it is not asked.
    """
    with catalog.read() as connection:
        known = indexes.containers(connection) | indexes.dropped_containers(connection)
    left_alone: set[str] | None = None
    for manifest in manifests:
        generation = generations.get(manifest.collection, manifest.generation)
        if manifest.catalog_id != catalog.id:
            problem, found = "belongs to another catalog", f"catalog {manifest.catalog_id}"
        elif manifest.index not in known:
            problem, found = "is not known to this catalog", f"index {manifest.index}"
        elif manifest.generation > generation:
            problem = "was live in a later generation than this catalog knows"
            found = f"generation {manifest.generation}, catalog at {generation}"
        else:
            yield manifest, None
            continue
        if left_alone is None:
            with catalog.read() as connection:
                left_alone = indexes.left_alone(connection)
        if manifest.index in left_alone:
            yield manifest, None
            continue
        refusal = UnknownCatalog(
            f"index {manifest.index} in the store {problem}",
            found=found,
            expected=f"catalog {catalog.id} at {catalog.place}",
            next_step="use the right catalog; if it was lost, or is an older copy: "
            "embedmigrate doctor --rebuild-catalog",
        )
        yield manifest, refusal
