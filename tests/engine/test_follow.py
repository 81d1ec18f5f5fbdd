"""Follow: the journal says which documents changed; the source says what they are now."""

from __future__ import annotations

from contextlib import closing

import pytest

from embedmigrate.catalog import indexes, journal
from embedmigrate.engine.follow import Followed, follow
from embedmigrate.engine.passages import rows_of
from embedmigrate.engine.prepare import Transition, prepare
from tests.engine.parts import Bench


@pytest.fixture
def index(bench: Bench) -> str:
    with bench.locked() as lease:
        return prepare(
            bench.job, lease, Transition("r1", bench.spec, None, allow_lag=True)
        ).index_name


def follow_changes(bench: Bench, index: str, *ids: str) -> Followed:
    with bench.locked() as lease:
        with bench.catalog.write() as connection:
            journal.append(connection, "things", [(id, "changed") for id in ids])
        writer = bench.job.store.writer(index, epoch=lease.epoch, run="test")
        with closing(writer):
            return follow(bench.job, lease, bench.source, writer, index)


def test_an_edit_is_embedded_a_deletion_deleted_and_the_rest_left_alone(
    bench: Bench, index: str
) -> None:
    bench.source.texts["d01"] = "edited"
    bench.source.texts["new"] = "added"
    del bench.source.texts["d02"]
    asked = len(bench.embedder.asked)

    done = follow_changes(bench, index, "d00", "d01", "d02", "new", "never-was")

    assert (done.written, done.deleted, done.unchanged, done.embedded) == (2, 1, 2, 2)
    assert set(bench.embedder.asked[asked:]) == {"edited", "added"}
    assert set(bench.stored(index)) == set(bench.source.texts)


def test_a_change_of_metadata_alone_embeds_nothing(bench: Bench, index: str) -> None:
    bench.source.metadata["d03"] = {"topic": "new"}
    asked = len(bench.embedder.asked)

    done = follow_changes(bench, index, "d03")

    assert (done.metadata, done.written, len(bench.embedder.asked)) == (1, 0, asked)
    with closing(bench.job.store.reader(index)) as reader:
        vector = reader.vectors([("d03", 0)])
        (hit,) = reader.search(vector, 1)[0]
    assert (hit.id, hit.metadata) == ("d03", {"topic": "new"})


def test_entries_are_applied_once_and_the_position_follows(bench: Bench, index: str) -> None:
    bench.source.texts["d01"] = "edited"
    follow_changes(bench, index, *["d01"] * 20)
    asked = len(bench.embedder.asked)

    done = follow_changes(bench, index)

    assert done == Followed() and len(bench.embedder.asked) == asked
    with bench.catalog.read() as connection:
        assert indexes.get(connection, index).position == journal.head(connection, "things") == 20


def test_an_entry_that_is_older_than_what_stands_there_is_not_paid_for(
    bench: Bench, index: str
) -> None:
    with bench.catalog.write() as connection:
        journal.append(connection, "things", [("d01", "changed"), ("d01", "changed")])
    with bench.locked() as lease, bench.catalog.read() as connection:
        record = indexes.get(connection, index)
        row = rows_of(list(bench.source.get(["d01"]).values()), seq=2)
        with closing(bench.job.writer(record, lease, run="backfill")) as writer:
            vector = bench.embedder.embed_documents([bench.source.texts["d01"]])
            writer.write(row, vector, space=record.model.fingerprint)
            bench.source.texts["d01"] = "edited since, and recorded after this entry"
            asked = len(bench.embedder.asked)
            bench.job.batch_size = 1

            done = follow(bench.job, lease, bench.source, writer, index)

    assert bench.embedder.asked[asked:] == ["edited since, and recorded after this entry"]
    assert (done.written, done.unchanged, done.embedded) == (1, 1, 1)


def test_a_document_that_lost_its_text_is_deleted(bench: Bench, index: str) -> None:
    bench.source.texts["d04"] = ""

    assert follow_changes(bench, index, "d04").deleted == 1
    assert "d04" not in bench.stored(index)
