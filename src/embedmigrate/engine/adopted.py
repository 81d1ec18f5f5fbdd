"""An adopted index and its source: what they have in common, and whether that is still so."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embedmigrate.catalog.records import IndexRecord
from embedmigrate.engine.adopt import Proof
from embedmigrate.engine.diff import Comparison, Diff
from embedmigrate.engine.job import Job
from embedmigrate.errors import Irreversible, Refused
from embedmigrate.sources.base import NO_METADATA, NO_TEXT, Source
from embedmigrate.stores.base import IndexReader, Row
from embedmigrate.stores.foreign import UNKNOWN_CONTENT, ForeignIndex, ForeignRow

UNASKED_SHARE = 0.1
"""Orphans, or missing documents, beyond this share are taken for the wrong source."""
RUN, RUN_STALE, RUN_ORPHAN = "adopted", "adopted, stale", "adopted, no document"
"""What the stamps of adopted vectors say of where they come from."""


@dataclass(frozen=True)
class Overlap:
    """Which rows of a foreign index belong to a document that has text today."""

    rows: npt.NDArray[np.int64]
    orphans: int
    documents: int
    missing: int
    """Documents without a row."""

    @classmethod
    def of(cls, foreign: ForeignIndex, source: Source) -> Overlap:
        """One pass over the source; nothing is embedded."""
        row_of = {id: row for row, id in enumerate(foreign.ids)}
        matched = np.zeros(len(foreign), dtype=np.bool_)
        documents = missing = 0
        for state in source.states():
            if state.content_hash == NO_TEXT:
                continue
            documents += 1
            row = row_of.get(state.id)
            if row is None:
                missing += 1
            else:
                matched[row] = True
        rows = np.flatnonzero(matched)
        return cls(rows, len(foreign) - len(rows), documents, missing)

    def refuse_other_source(self, collection: str, *, anyway: bool) -> None:
        """``Refused`` when more than a tenth of either side lacks its other half."""
        vectors = len(self.rows) + self.orphans
        orphaned, lacking = self.orphans / vectors, self.missing / max(self.documents, 1)
        too_much = max(orphaned, lacking) > UNASKED_SHARE
        if len(self.rows) and not (too_much and not anyway):
            return
        raise Refused(
            f"the index and the source of {collection!r} do not belong together",
            found=f"{self.orphans} of {vectors} vectors without a document ({orphaned:.0%}), "
            f"{self.missing} of {self.documents} documents without a vector ({lacking:.0%})",
            expected=f"at most {UNASKED_SHARE:.0%} of either",
            next_step="check source and id list; if it is really so, add --yes"
            if len(self.rows)
            else "check source and id list: an index without one document proves nothing",
        )


def rows_of(
    source: Source, foreign: ForeignIndex, proof: Proof, *, seq: int
) -> Iterator[ForeignRow]:
    """The side table: hashes and metadata as the source has them now.

    A row whose vector is stale, or whose document has no text any more, gets a content hash that no
    text has, so that every comparison finds it; so does one whose text changed since the proof.
    """
    row_of = {id: row for row, id in enumerate(foreign.ids)}
    for document in source.scan():
        row = row_of.pop(document.id, None)
        if row is None:
            continue
        known = proof.hashes.get(row, document.content_hash) == document.content_hash
        run, content = RUN_STALE, UNKNOWN_CONTENT
        if not document.text:
            run = RUN_ORPHAN
        elif known and row not in proof.stale:
            run, content = RUN, document.content_hash
        yield ForeignRow(
            row, Row(document.id, 0, seq, content, document.metadata_hash, document.metadata), run
        )
    for id, row in row_of.items():
        yield ForeignRow(row, Row(id, 0, seq, UNKNOWN_CONTENT, NO_METADATA, {}), RUN_ORPHAN)


def compared(source: Source, reader: IndexReader, job: Job) -> tuple[Comparison, str]:
    """Compare source and index; the digest is of every difference, and of what is wanted there."""
    diff, digest = Diff(source, reader, job.work_dir), hashlib.sha256()
    for difference in diff:
        job.stop.check()
        digest.update(json.dumps(difference).encode("ascii") + b"\n")
    return diff.comparison, digest.hexdigest()


def refuse_changed(job: Job, index: IndexRecord, *, anyway: bool) -> None:
    """``Irreversible`` when the source is not what it was when ``index`` was adopted.

    An adopted index cannot be caught up: nobody writes to it. ``anyway`` goes back to it as it is,
    if it is still what was proven (``DamagedIndex``).
    """
    assert index.adopted is not None
    if anyway:
        job.store.reader(index.container).close()
        return
    with (
        closing(job.open_source(index.spec.recipe)) as source,
        closing(job.store.reader(index.container)) as reader,
    ):
        job.reporter.phase(job.collection, "comparing")
        source.prepare()
        now, digest = compared(source, reader, job)
    then = index.adopted.get("differences")  # a catalog that was rebuilt does not know them
    if then is not None and digest == then["digest"]:
        return
    raise Irreversible(
        f"the source of {job.collection!r} has changed since index {index.name} was adopted, and "
        "nobody writes to an adopted index",
        found=f"{_shown(vars(now))}; when it was adopted: "
        + ("lost with the catalog" if then is None else _shown(then)),
        expected="the source as it was then",
        next_step="add --now to serve it as it is; or go forward: embedmigrate revision "
        f"--collection {job.collection} --to MODEL",
    )


def _shown(counts: Mapping[str, Any]) -> str:
    return (
        f"{counts['stale']} documents stale, {counts['missing']} missing, {counts['orphan']} "
        f"deleted ones still found, {counts['metadata']} with old metadata"
    )
