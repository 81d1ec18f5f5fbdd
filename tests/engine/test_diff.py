"""A diff finds every difference between a source and an index, once."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedmigrate.catalog import dead_letters, journal
from embedmigrate.catalog.dead_letters import Failed
from embedmigrate.engine.diff import Diff, Difference
from embedmigrate.engine.follow import follow
from embedmigrate.engine.prepare import Transition, prepare
from embedmigrate.sources.base import content_hash
from tests.engine.parts import Bench, ListSource, UnsortedSource

ids = st.text(min_size=1, max_size=4).filter(lambda text: text.isprintable())
texts = st.dictionaries(ids, st.sampled_from(["", "a", "b"]), max_size=12)


def differences(bench: Bench, index: str) -> list[Difference]:
    with closing(bench.job.store.reader(index)) as reader:
        return list(Diff(bench.source, reader, bench.job.work_dir))


@pytest.mark.parametrize("kind", [ListSource, UnsortedSource])
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(before=texts, after=texts)
def test_it_says_exactly_what_a_comparison_of_both_sides_says(
    tmp_path_factory: pytest.TempPathFactory,
    kind: type[ListSource],
    before: dict[str, str],
    after: dict[str, str],
) -> None:
    bench = Bench(tmp_path_factory.mktemp("diff"), kind(before))
    try:
        with bench.locked() as lease:
            run = prepare(bench.job, lease, Transition("r1", bench.spec, None, allow_lag=True))
        bench.source.texts = after
        found = {
            (difference.document_id, difference.kind)
            for difference in differences(bench, run.index_name)
        }
    finally:
        bench.close()
    indexed = {id: text for id, text in before.items() if text}
    wanted = {id: text for id, text in after.items() if text}
    assert found == (
        {(id, "missing") for id in wanted.keys() - indexed.keys()}
        | {(id, "orphan") for id in indexed.keys() - wanted.keys()}
        | {(id, "stale") for id in wanted.keys() & indexed.keys() if wanted[id] != indexed[id]}
    )


@pytest.mark.parametrize("kind", [ListSource, UnsortedSource])
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(before=texts, after=texts, dead=texts)
def test_a_dead_letter_excuses_its_own_text_alone_and_lapses_when_it_is_no_longer_needed(
    tmp_path_factory: pytest.TempPathFactory,
    kind: type[ListSource],
    before: dict[str, str],
    after: dict[str, str],
    dead: dict[str, str],
) -> None:
    bench = Bench(tmp_path_factory.mktemp("diff"), kind(before))
    try:
        with bench.locked() as lease:
            index = prepare(
                bench.job, lease, Transition("r1", bench.spec, None, allow_lag=True)
            ).index_name
        with bench.catalog.write() as connection:
            failed = [Failed(id, content_hash(text), "a test", 0) for id, text in dead.items()]
            dead_letters.record(connection, index, failed)
        bench.source.texts = after
        with closing(bench.job.store.reader(index)) as reader:
            letters = dead_letters.states(bench.catalog, index)
            diff = Diff(bench.source, reader, bench.job.work_dir, letters)
            found = {(difference.document_id, difference.kind) for difference in diff}
    finally:
        bench.close()
    indexed = {id for id, text in before.items() if text}
    wanted = {id: text for id, text in after.items() if text}
    absent = wanted.keys() - indexed
    excused = {id for id in absent if dead.get(id) == wanted[id]}
    fresh = {id for id in wanted.keys() & indexed if wanted[id] == before[id]}
    gone = dead.keys() - wanted.keys() - indexed
    assert {id for id, kind in found if kind == "missing"} == absent - excused
    assert diff.comparison.failed == len(excused)
    assert {id for id, kind in found if kind == "lapsed"} >= gone | (dead.keys() & fresh)
    assert {id for id, kind in found if kind == "orphan"} == indexed - wanted.keys()


def test_metadata_alone_is_a_difference_of_its_own(bench: Bench) -> None:
    with bench.locked() as lease:
        run = prepare(bench.job, lease, Transition("r1", bench.spec, None, allow_lag=True))
    bench.source.metadata["d07"] = {"topic": "new"}

    (difference,) = differences(bench, run.index_name)

    assert (difference.document_id, difference.kind) == ("d07", "metadata")


def test_an_orphan_that_came_back_and_went_again_is_another_difference(bench: Bench) -> None:
    with bench.locked() as lease:
        run = prepare(bench.job, lease, Transition("r1", bench.spec, None, allow_lag=True))
        del bench.source.texts["d07"]
        first = differences(bench, run.index_name)
        assert differences(bench, run.index_name) == first, "it stands there as it did"
        with bench.catalog.write() as connection:
            journal.append(connection, "things", [("d07", "changed")])
        bench.source.texts["d07"] = "it came back"
        with closing(bench.job.store.writer(run.index_name, epoch=lease.epoch, run="test")) as it:
            follow(bench.job, lease, bench.source, it, run.index_name)
    del bench.source.texts["d07"]

    (second,) = differences(bench, run.index_name)

    assert (second.document_id, second.kind) == ("d07", "orphan")
    assert second not in first


def test_staging_leaves_no_file_behind(tmp_path: Path) -> None:
    bench = Bench(tmp_path, UnsortedSource({"b": "1", "a": "2"}))
    with bench.locked() as lease:
        run = prepare(bench.job, lease, Transition("r1", bench.spec, None, allow_lag=True))
    assert differences(bench, run.index_name) == []
    assert list(bench.job.work_dir.iterdir()) == []
    bench.close()
