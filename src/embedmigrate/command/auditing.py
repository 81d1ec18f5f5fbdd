"""Commands about what is really stored: audit."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from embedmigrate import resolve
from embedmigrate.catalog import indexes, spaces, witnesses
from embedmigrate.catalog.dead_letters import states as letters_of
from embedmigrate.command.project import Project
from embedmigrate.config import Settings
from embedmigrate.engine.audit import audit as audit_index
from embedmigrate.engine.audit import tolerance_of
from embedmigrate.engine.diff import Diff
from embedmigrate.engine.job import Reporter


def audit(
    settings: Settings,
    collection: str,
    *,
    index: str | None = None,
    confidence: float = 0.99,
    share: float = 0.01,
    embed: bool = True,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """What is really in the store of ``collection``: in its live index, or in ``index``.

    Counts vectors by the model that they are stamped with, and compares with the source; embeds a
    sample again, as large as it takes to find a wrong part of ``share`` with ``confidence``,
    unless ``embed`` is False. The result's ``clean`` is False on any finding; nothing is changed.
    """
    settings.collection(collection)
    with Project(settings, reporter=reporter) as project:
        record = project.index_of(collection, index)
        job = project.job(collection)
        with project.catalog.read() as connection:
            known = indexes.known_fingerprints(connection)
            equal = spaces.equal_to(connection, record.fingerprint)
            witness = resolve.witness_of(settings, record.model) if embed else None
            if witness is not None:
                witness = witnesses.known(connection, record.model, witness)
        with (
            closing(job.open_source(record.spec.recipe)) as source,
            closing(job.store.reader(record.container)) as reader,
        ):
            job.reporter.phase(collection, "auditing")
            source.prepare()
            found = audit_index(
                reader,
                Diff(source, reader, job.work_dir, letters_of(job.catalog, record.container)),
                source,
                expected=equal,
                known=known,
                embedder=job.guard(record.model).embedder if embed else None,
                tolerance=0.0 if witness is None else tolerance_of(witness),
                confidence=confidence,
                share=share,
            )
            # somebody else's file may have changed since it was proven
            damage = tuple(reader.problems()) if record.adopted else ()
    findings = (*found.findings, *damage)
    entry = {
        "collection": collection,
        "index": record.name,
        "model": record.model.reference,
        "assurance": record.model.pinned_or_witnessed,
        "provenance": "adopted" if record.adopted else "built",
        "adopted": record.adopted,
        **found.dump(),
        "findings": findings,
    }
    return {"schema": 1, "clean": not findings, "collections": [entry]}
