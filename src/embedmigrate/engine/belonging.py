"""Whether the indexes that lie in a store are the ones that this catalog knows (I14)."""

from __future__ import annotations

from embedmigrate.catalog import indexes
from embedmigrate.catalog.records import IndexRecord
from embedmigrate.engine.job import Job
from embedmigrate.errors import UnknownCatalog
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
    with job.catalog.read() as connection:
        known = indexes.containers(connection)
        dropped = indexes.dropped_containers(connection)
    for manifest in job.store.manifests():
        if manifest.catalog_id != job.catalog.id:
            problem, found = "belongs to another catalog", f"catalog {manifest.catalog_id}"
        elif manifest.index in dropped:
            job.store.drop(manifest.index)  # a drop that was cut short
            continue
        elif manifest.index not in known:
            problem, found = "is not known to this catalog", f"index {manifest.index}"
        elif manifest.collection == job.collection and manifest.generation > generation:
            problem = "was live in a later generation than this catalog knows"
            found = f"generation {manifest.generation}, catalog at {generation}"
        else:
            continue
        raise UnknownCatalog(
            f"index {manifest.index} in the store {problem}",
            found=found,
            expected=f"catalog {job.catalog.id} at {job.catalog.place}",
            next_step="use the right catalog, or move the folder of the index away",
        )
