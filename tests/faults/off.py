"""Protections that can be turned off in a child process, to prove that their loss is noticed."""

from __future__ import annotations

from typing import Any


def checkpoint_order() -> None:
    """A batch is checkpointed before it is written."""
    from embedmigrate.catalog import runs
    from embedmigrate.engine import backfill, passages

    def save(self: backfill._BackfillWork, embedded: backfill._Embedded) -> None:
        reading, result = embedded.reading, embedded.result
        with self.job.catalog.write() as connection:
            runs.finish_batch(
                connection,
                self.lease,
                reading.batch,
                done=len(result.documents),
                skipped=reading.skipped,
                embedded=result.embedded,
            )
        rows = passages.rows_of(result.documents, reading.seq)
        with self._writer_lock:
            space = self.embedder.model.fingerprint
            self.writer.write(rows, result.vectors, space=space)

    setattr(backfill._BackfillWork, "save", save)  # noqa: B010


def comparison() -> None:
    """Neither catching up nor verification compares the index with its source."""
    from embedmigrate.engine import follow, prepare
    from embedmigrate.engine.diff import Comparison
    from embedmigrate.engine.follow import Noted

    def nothing_noted(*_: Any) -> Noted:
        return Noted(Comparison(), set())

    def nothing_found(*_: Any) -> list[Any]:
        return []

    setattr(follow, "note_differences", nothing_noted)  # noqa: B010
    setattr(prepare._Preparation, "_verify", nothing_found)  # noqa: B010
