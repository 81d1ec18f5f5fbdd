"""Dead letters: what becomes of documents that a model cannot embed.

An index holds nothing of such a document: an older vector would be of another text than the source
has (I5), and a rebuild would not make it. It is listed instead, counted as failed (I16), and tried
again when its text changes or when somebody asks; a diff does not take it for missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from typing import Any

from sqlalchemy.engine import Connection

from embedmigrate.catalog import dead_letters, indexes, journal, locks, routes, runs
from embedmigrate.catalog.dead_letters import Failed
from embedmigrate.catalog.locks import Lease
from embedmigrate.catalog.records import IndexRecord
from embedmigrate.engine.diff import MASS_DELETE_SHARE
from embedmigrate.engine.embedding import Failure
from embedmigrate.engine.job import Job
from embedmigrate.errors import DeadLetters, Refused
from embedmigrate.stores.base import IndexWriter

RETRY = "retry"
"""The change of journal entries that ask for a dead document to be tried again."""
ALWAYS_BELIEVED = 64
"""So many dead documents of an index are never taken for a fault of the model."""
NAMED = 5
"""Documents that an error or a status names."""
_PAGE = 1000


def take_out(writer: IndexWriter, failures: Sequence[Failed]) -> int:
    """Delete what an index holds of documents that cannot be embedded as they are now."""
    held = {state.id for state in writer.existing([failed.document_id for failed in failures])}
    outdated = [(it.document_id, it.seq) for it in failures if it.document_id in held]
    return writer.delete(outdated).applied if outdated else 0


def failed_at(failures: Sequence[Failure], seq: int) -> list[Failed]:
    """What is recorded of documents that were read at journal position ``seq``."""
    return [
        Failed(
            failure.document.id, failure.document.content_hash, failure.reason, seq, failure.chunk
        )
        for failure in failures
    ]


def refuse_many(job: Job, index: IndexRecord, more: Sequence[Failed]) -> None:
    """``Refused`` when more than a tenth of a collection would be dead: that is not the documents.

    Nothing of ``more`` is recorded then, and nothing taken out of the index. Not asked of a job
    that allows it.
    """
    if not more or job.allow_mass_delete:
        return
    with job.catalog.read() as connection:
        known = dead_letters.of_documents(
            connection, index.container, [it.document_id for it in more]
        )
        dead = dead_letters.count(connection, index.container) + len(more) - len(known)
        run = runs.latest(connection, job.collection, index=index.name)
    if dead <= ALWAYS_BELIEVED:
        return
    with closing(job.reader(index)) as reader:
        planned = 0 if run is None else run.total
        documents = max(planned, reader.statistics().documents + dead)
    if dead > MASS_DELETE_SHARE * documents:
        raise Refused(
            f"{index.model.reference} cannot embed {dead} of {documents} documents of "
            f"{job.collection!r}",
            found=f"{dead / documents:.0%}; for one: {more[0].reason}",
            expected=f"at most {MASS_DELETE_SHARE:.0%} without being asked: so many are rather a "
            "fault of the model or its server",
            next_step="try the model on its own; if it is really the documents, add --yes",
        )


def retry(job: Job, lease: Lease, index: IndexRecord) -> int:
    """Enter every dead document of ``index`` into the journal, to be tried when it is followed.

    Returns how many. Whoever dies in between has not forgotten any: entries stay until applied.
    """
    asked = 0
    letters = dead_letters.states(job.catalog, index.container)
    while page := list(islice(letters, _PAGE)):
        with job.catalog.write() as connection:
            locks.renew(connection, lease)
            journal.append(connection, job.collection, [(it.id, RETRY) for it in page])
        asked += len(page)
    return asked


def of_live_index(job: Job) -> tuple[IndexRecord, int] | None:
    """The live index, if it is our own, and how many dead letters it has."""
    with job.catalog.read() as connection:
        name = routes.get(connection, job.collection).live_index
        if name is None:
            return None
        index = indexes.get(connection, name)
        return None if index.adopted else (index, dead_letters.count(connection, index.container))


def refusal(connection: Connection, index: IndexRecord, allowed: int) -> DeadLetters | None:
    """What to raise when more documents of ``index`` are dead than ``allowed``, else None."""
    dead = dead_letters.count(connection, index.container)
    if dead <= allowed:
        return None
    named = dead_letters.first(connection, index.container, NAMED)
    shown = [f"{letter.document_id!r}: {letter.reason}" for letter in named]
    return DeadLetters(
        f"{dead} document{'s' * (dead > 1)} of {index.collection!r} cannot be "
        f"embedded by {index.model.reference}",
        found="; ".join(shown + ["…"] * (dead > len(shown))),
        expected=f"at most {allowed}",
        next_step="correct the documents, and run the same command again; or, if the model was at "
        "fault, embedmigrate upgrade --retry-failed; or state allow_failed in the script",
    )


def described(connection: Connection, index: IndexRecord) -> dict[str, Any]:
    """The list of one index as JSON: how many, and the first few."""
    return {
        "index": index.name,
        "count": dead_letters.count(connection, index.container),
        "documents": [
            vars(letter) for letter in dead_letters.first(connection, index.container, NAMED)
        ],
    }
