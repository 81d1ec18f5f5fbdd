"""Intake: how changes of the source enter the journal.

From the source's own recording (triggers, or the documents that we own), from the application, by
an ``updated_at`` column as a hint, or by comparing source and index as a whole. Only the first two
tell of every change as it is committed: for them an index that was compared once needs no second
comparison, as long as the recording is the same one. That is what ``IndexRecord.tracked_by`` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from embedmigrate.catalog import indexes, intake, locks
from embedmigrate.catalog.intake import Intake
from embedmigrate.catalog.locks import Lease
from embedmigrate.catalog.records import IndexRecord
from embedmigrate.engine.job import Job
from embedmigrate.errors import ConfigError, Temporary
from embedmigrate.sources.base import Captured, Source

PAGE = 5000
"""Recorded changes that enter the journal in one transaction."""
TOLD = "application"
"""Stands for a recording where the application says itself what it changes."""

Means = Literal["capture", "application", "updated_at", "comparison"]
"""How changes are learned of."""
COMPLETE: tuple[Means, ...] = ("capture", "application")
"""Means that tell of every change, as it is committed."""


def means_of(source: Source, *, told: bool) -> Means:
    """How changes of this source are learned of now; ``told`` is whether the application tells."""
    capture = source.capture
    if capture is not None and capture.token() is not None:
        return "capture"
    if told:
        return "application"
    return "comparison" if source.changed_since is None else "updated_at"


def begin(job: Job, source: Source) -> str | None:
    """Note where the recording of changes stands, before anything is read from the source.

    Returns what ``IndexRecord.tracked_by`` is to be after a comparison that starts now, or a first
    reading: None where only a later comparison can tell what changed.
    """
    capture = source.capture
    token = None if capture is None else capture.token()
    if capture is None or token is None:
        return TOLD if job.told_by_application else None
    with job.catalog.read() as connection:
        known = intake.get(connection, job.collection)
    if known.token != token:
        head = capture.head()
        last = [it for it in capture.read(head - 1, 1) if it.number == head]
        with job.catalog.write() as connection:
            tag = last[0].tag if last else None
            intake.begin(connection, job.collection, token, head, tag)
    return token


def take_in(job: Job, source: Source) -> str | None:
    """Enter what the source has recorded since the last time into the journal.

    Whoever is first enters it, runner or follower. It is forgotten in the source only after the
    catalog has it. A recording that was set back with its database, or that is ahead of a catalog
    that was, is given up and begun anew: every index is compared once more then. Returns what
    ``begin`` does.
    """
    token = begin(job, source)
    capture = source.capture
    if capture is None or token is None or token == TOLD:
        _take_hint(job, source)
        return token
    taken = False
    while True:
        job.stop.check()
        with job.catalog.read() as connection:
            before = intake.get(connection, job.collection)
        if before.token != token:  # somebody else gave it up, or began another one
            return begin(job, source)
        page = capture.read(before.cursor - 1, PAGE + 1)
        if not _continues(before, page):
            with job.catalog.write() as connection:
                given_up = intake.give_up(connection, job.collection, before)
            if given_up:
                job.reporter.note(
                    "the recorded changes do not join on; everything is compared anew"
                )
            continue
        page = [it for it in page if it.number > before.cursor]
        if not page:
            break
        with job.catalog.write() as connection:
            intake.take_in(
                connection,
                job.collection,
                before,
                (page[-1].number, page[-1].tag),
                _last_of_each(page),
            )
        taken = True
    if taken:
        try:
            capture.forget(before.cursor)
        except (ConfigError, Temporary) as error:
            job.reporter.note(f"recorded changes were taken in and not removed: {error.message}")
    return token


def _continues(before: Intake, page: Sequence[Captured]) -> bool:
    """Whether ``page``, read from the change on that was taken in last, is what comes behind it."""
    numbers = [it.number for it in page]
    if before.tag is None:  # nothing to recognise: it began with an empty recording
        numbers = [number for number in numbers if number > before.cursor]
        return numbers[:1] in ([], [before.cursor + 1])
    return bool(page) and (page[0].number, page[0].tag) == (before.cursor, before.tag)


def waits(job: Job, source: Source) -> bool:
    """Whether something was recorded that is not in the journal, or another recording began."""
    with job.catalog.read() as connection:
        known = intake.get(connection, job.collection)
    capture = source.capture
    if capture is None or (token := capture.token()) is None:
        changed_since = source.changed_since
        return changed_since is not None and changed_since(known.watermark)[1] != known.watermark
    return token != known.token or capture.head() != known.cursor


def recorded(job: Job, source: Source) -> int:
    """How many changes the source has recorded that are not in the journal; some may be of one
    document. 0 where that is not known."""
    capture = source.capture
    token = None if capture is None else capture.token()
    if capture is None or token is None:
        return 0
    with job.catalog.read() as connection:
        known = intake.get(connection, job.collection)
    return max(0, capture.head() - known.cursor) if token == known.token else 0


def is_tracked(index: IndexRecord, token: str | None) -> bool:
    """Whether the journal holds every difference between the source and ``index``."""
    return token is not None and index.tracked_by == token


def track(job: Job, lease: Lease, index: IndexRecord, token: str | None) -> None:
    """Every difference that a comparison found is in the journal, and it began after ``begin``."""
    with job.catalog.write() as connection:
        locks.renew(connection, lease)
        indexes.track(connection, index.name, token)


def _take_hint(job: Job, source: Source) -> None:
    """Enter the documents whose ``updated_at`` has grown; deleted ones are found by comparison."""
    if source.changed_since is None:
        return
    with job.catalog.read() as connection:
        before = intake.get(connection, job.collection).watermark
    ids, watermark = source.changed_since(before)
    if watermark != before:
        with job.catalog.write() as connection:
            intake.note_hinted(connection, job.collection, before, watermark, ids)


def _last_of_each(page: Sequence[Captured]) -> list[tuple[str, str]]:
    """(document id, change), the last change of each document, in the order of these."""
    last = {it.document_id: it for it in page}
    return [(it.document_id, it.change) for it in page if last[it.document_id] is it]
