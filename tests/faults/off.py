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


def journal() -> None:
    """What the source records does not enter the journal, and nothing compares."""
    from embedmigrate.engine import intake

    setattr(intake, "take_in", intake.begin)  # noqa: B010
    comparison()


def seqs() -> None:
    """The store applies a write although a newer change stands there."""
    from embedmigrate.stores.faiss import writer

    setattr(writer, "_newest", lambda *_: {})  # noqa: B010


def lock() -> None:
    """A lock that somebody holds is given to whoever asks."""
    from embedmigrate.catalog import locks

    def nobody_lives(_: str) -> bool:
        return False

    setattr(locks, "_may_live", nobody_lives)  # noqa: B010


def fencing() -> None:
    """Neither catalog nor store asks whether a later runner has taken over."""
    from embedmigrate.catalog import locks, routes, runs
    from embedmigrate.stores.faiss.ownership import Ownership

    def never(*_: Any) -> None:
        return None

    for module in (locks, routes, runs):
        setattr(module, "renew", never)  # noqa: B010
    setattr(Ownership, "check", never)  # noqa: B010


def query_model() -> None:
    """Queries are embedded by another model than the one that was examined for the index."""
    from embedmigrate.serving import OpenIndex

    class Other:
        def __init__(self, embedder: Any) -> None:
            self.model, self._embedder = embedder.model, embedder

        def embed_queries(self, texts: list[str]) -> Any:
            return -self._embedder.embed_queries(texts)

    init = OpenIndex.__init__

    def mixed_up(self: OpenIndex, index: Any, reader: Any, embedder: Any, resources: Any) -> None:
        init(self, index, reader, Other(embedder), resources)  # type: ignore[arg-type]

    setattr(OpenIndex, "__init__", mixed_up)  # noqa: B010


def resumption() -> None:
    """What a killed run left is not used again."""
    from embedmigrate.catalog import indexes

    def none(*_: Any) -> list[Any]:
        return []

    setattr(indexes, "reusable", none)  # noqa: B010


def verification() -> None:
    """An index is ready without a look."""
    from embedmigrate.engine import prepare

    def nothing_found(*_: Any) -> list[Any]:
        return []

    setattr(prepare._Preparation, "_verify", nothing_found)  # noqa: B010
