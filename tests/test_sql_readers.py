"""Readers in SQL: the route, the function and the view, through cut-overs, poolers and psql."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from embedmigrate import Collection, command, resolve
from embedmigrate.errors import StorageUnavailable
from embedmigrate.stores.pgvector import published
from tests.pooling_proxy import pooled
from tests.postgres_server import PostgresServer
from tests.workspace import ARTICLES, GENERAL, Workspace, documents

QUERY = "bread in the oven"
ROUTE = "SELECT generation, model_key, dimensions, model FROM embedmigrate.route"
SEARCH = "SELECT id, generation, score FROM embedmigrate.search('articles', %s, %s::vector, 5)"
VIEW = (
    "SELECT id, generation, 0 FROM embedmigrate.live_articles WHERE model_key = %s"
    " ORDER BY embedding <=> %s::vector, id LIMIT 5"
)


def make(root: Path, url: str, **store: str) -> Workspace:
    options = "".join(f", {key} = {value}" for key, value in store.items())
    return Workspace.make(
        root,
        collections=ARTICLES.replace('"wordllama"', '"fake-a"').replace(
            '{ kind = "faiss", path = "indexes" }',
            f'{{ kind = "pgvector", url = "{url}"{options} }}',
        ),
        general=GENERAL.replace('catalog = "sqlite:///catalog.db"\n', ""),
        pin=("fake-a", "fake-b"),
        corpus=documents(60),
    )


@pytest.fixture
def project(postgres: str, tmp_path: Path) -> Workspace:
    """`fake-a` live, a revision to `fake-b` pending; of other dimensions, both with a view."""
    workspace = make(tmp_path / "project", postgres, view="true")
    workspace.revision("fake-a")
    workspace.upgrade()
    workspace.revision("fake-b")
    return workspace


@pytest.fixture
def reader(postgres: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres, autocommit=True) as connection:
        yield connection


def embedded(project: Workspace, model: str) -> str:
    """The query as pgvector reads it, with what the pin file says of the model."""
    pinned = resolve.pinned(project.settings, model)
    vector = resolve.load_embedder(project.settings, pinned).embed_queries([QUERY])[0]
    return json.dumps(np.asarray(vector, float).tolist())


def route(reader: psycopg.Connection[Any]) -> tuple[Any, ...]:
    row = reader.execute(ROUTE).fetchone()
    assert row is not None
    return tuple(row)


# -- what they see ------------------------------------------------------------------------------


def test_the_route_says_all_that_a_reader_needs(
    project: Workspace, reader: psycopg.Connection[Any]
) -> None:
    generation, key, dimensions, model = route(reader)
    pinned = resolve.pinned(project.settings, "fake-a")
    assert (generation, dimensions) == (1, 32)
    assert key == f"{pinned.fingerprint}:{pinned.query_side}"
    assert model == pinned.model_dump(mode="json")
    assert "query_prompt" in model


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "l2"])
@pytest.mark.parametrize("index", ["none", "hnsw", "ivfflat"])
def test_the_function_answers_what_the_collection_answers(
    postgres: str, tmp_path: Path, reader: psycopg.Connection[Any], metric: str, index: str
) -> None:
    workspace = make(tmp_path / "project", postgres, metric=f'"{metric}"', index=f'"{index}"')
    workspace.revision("fake-a")
    workspace.upgrade()
    found = reader.execute(SEARCH, (route(reader)[1], embedded(workspace, "fake-a"))).fetchall()
    with Collection.open("articles", workspace.settings) as articles:
        hits = articles.search(QUERY, k=5).hits
    assert [row[0] for row in found] == [hit.id for hit in hits]
    assert [row[2] for row in found] == pytest.approx([hit.score for hit in hits], abs=1e-6)


def test_a_filter_is_what_the_metadata_must_contain(
    project: Workspace, reader: psycopg.Connection[Any]
) -> None:
    statement = SEARCH.replace(", 5)", ", 100, %s::jsonb)")
    values = (route(reader)[1], embedded(project, "fake-a"), '{"topic": "law"}')
    assert len(reader.execute(statement, values).fetchall()) == 15


@pytest.mark.parametrize(
    ("collection", "model", "query", "state"),
    [
        ("articles", "fake-b", None, published.STALE),
        ("nothing", "fake-a", None, published.NOTHING_LIVE),
        ("articles", "fake-a", "[1, 2, 3]", published.WRONG_LENGTH),
    ],
)
def test_a_query_that_cannot_be_meant_is_refused_with_its_own_state(
    project: Workspace,
    reader: psycopg.Connection[Any],
    collection: str,
    model: str,
    query: str | None,
    state: str,
) -> None:
    pinned = resolve.pinned(project.settings, model)
    key = f"{pinned.fingerprint}:{pinned.query_side}"
    query = query or embedded(project, "fake-a")
    with pytest.raises(psycopg.Error) as refusal:
        reader.execute(SEARCH.replace("articles", collection), (key, query))
    assert refusal.value.sqlstate == state


def test_the_fingerprint_alone_does_and_another_query_side_does_not(
    project: Workspace, reader: psycopg.Connection[Any]
) -> None:
    pinned, query = resolve.pinned(project.settings, "fake-a"), embedded(project, "fake-a")
    assert reader.execute(SEARCH, (pinned.fingerprint, query)).fetchall()
    with pytest.raises(psycopg.Error) as refusal:
        reader.execute(SEARCH, (f"{pinned.fingerprint}:{'0' * 32}", query))
    assert refusal.value.sqlstate == published.STALE


def test_a_model_that_is_proven_equal_is_accepted(
    project: Workspace, reader: psycopg.Connection[Any]
) -> None:
    equal, query = "e" * 32, embedded(project, "fake-a")
    live = resolve.pinned(project.settings, "fake-a").fingerprint
    with pytest.raises(psycopg.Error):
        reader.execute(SEARCH, (equal, query))
    reader.execute(
        "INSERT INTO embedmigrate.embedmigrate_proof (first, second, measured, actor, at)"
        " VALUES (%s, %s, '{}', 'a test', 0), (%s, %s, '{}', 'a test', 0)",
        ("d" * 32, equal, live, "d" * 32),
    )
    assert reader.execute(SEARCH, (equal, query)).fetchall()


def test_searching_leaves_the_settings_of_the_caller_as_they_were(
    project: Workspace, reader: psycopg.Connection[Any]
) -> None:
    values = (route(reader)[1], embedded(project, "fake-a"))
    with reader.transaction():
        reader.execute("SET LOCAL hnsw.ef_search = 77")
        reader.execute(SEARCH, values)
        found = reader.execute("SELECT current_setting('hnsw.ef_search')").fetchone()
    assert found == ("77",)


# -- through a cut-over -------------------------------------------------------------------------


def test_after_a_cut_over_the_old_query_is_refused_and_the_old_table_still_answers(
    project: Workspace, reader: psycopg.Connection[Any]
) -> None:
    _, key, *_ = route(reader)
    query = embedded(project, "fake-a")
    before = reader.execute(SEARCH, (key, query)).fetchall()
    project.upgrade()

    with pytest.raises(psycopg.Error) as refusal:
        reader.execute(SEARCH, (key, query))
    assert refusal.value.sqlstate == published.STALE
    assert "read the route again" in str(refusal.value)
    assert reader.execute(VIEW, (key, query)).fetchall() == []
    old = (
        'SELECT id FROM embedmigrate."vectors_articles-0001"'
        " ORDER BY embedding <=> %s::vector, id LIMIT 5"
    )
    assert reader.execute(old, (query,)).fetchall() == [row[:1] for row in before]

    generation, key, *_ = route(reader)
    assert {row[1] for row in reader.execute(SEARCH, (key, embedded(project, "fake-b")))} == {2}
    assert generation == 2


def test_the_view_changes_with_the_route_and_goes_with_the_last_index(
    project: Workspace, reader: psycopg.Connection[Any]
) -> None:
    reader.execute("CREATE ROLE passer_by")
    reader.execute("GRANT SELECT ON embedmigrate.live_articles TO passer_by")
    shown = "SELECT DISTINCT generation, vector_dims(embedding) FROM embedmigrate.live_articles"
    try:
        assert reader.execute(shown).fetchall() == [(1, 32)]
        project.upgrade()
        assert reader.execute(shown).fetchall() == [(2, 48)]
        command.rollback(project.settings, "articles", reason="a test")
        assert reader.execute(shown).fetchall() == [(3, 32)]
        granted = "SELECT has_table_privilege('passer_by', 'embedmigrate.live_articles', 'SELECT')"
        assert reader.execute(granted).fetchone() == (True,), "grants on it stay"
        command.rollback(project.settings, "articles", reason="a test")
        gone = "SELECT to_regclass('embedmigrate.live_articles')"
        assert reader.execute(gone).fetchone() == (None,)
    finally:
        reader.execute("DROP OWNED BY passer_by")
        reader.execute("DROP ROLE passer_by")


def test_a_rerun_changes_nothing_of_it(project: Workspace, reader: psycopg.Connection[Any]) -> None:
    project.upgrade()
    made = (
        "SELECT p.xmin, c.xmin FROM pg_proc AS p, pg_class AS c"
        " WHERE p.proname = 'search' AND c.relname = 'live_articles'"
    )
    before = reader.execute(made).fetchall()
    project.upgrade()
    assert reader.execute(made).fetchall() == before


def test_a_reader_that_left_its_transaction_open_makes_the_cut_over_give_up_and_blocks_nobody(
    project: Workspace, postgres: str, reader: psycopg.Connection[Any]
) -> None:
    project.upgrade(until_ready=True)
    _, key, *_ = route(reader)
    query = embedded(project, "fake-a")
    slowest: list[float] = []
    over = threading.Event()

    def read() -> None:
        with psycopg.connect(postgres, autocommit=True) as other:
            while not over.is_set():
                started = time.monotonic()
                assert other.execute(VIEW, (key, query)).fetchall()
                slowest.append(time.monotonic() - started)

    others = threading.Thread(target=read)
    with psycopg.connect(postgres) as idle:
        idle.execute("SELECT count(*) FROM embedmigrate.live_articles")
        others.start()
        with pytest.raises(StorageUnavailable, match="live_articles") as refusal:
            command.cutover(project.settings)
        assert str(idle.info.backend_pid) in str(refusal.value)
        over.set()
        others.join()

    assert refusal.value.exit_code == 75
    assert route(reader)[0] == 1, "nothing was changed"
    limit = published._LOCK_MILLISECONDS / 1000
    assert limit * 0.5 < max(slowest) < limit + 0.5, "it waited for the lock, and for no longer"
    command.cutover(project.settings)
    assert route(reader)[0] == 2


# -- other clients ------------------------------------------------------------------------------


def test_prepared_statements_behind_a_pooler_follow_the_route(
    project: Workspace, postgres: str, postgres_server: PostgresServer, tmp_path_factory: Any
) -> None:
    import tempfile

    with (
        tempfile.TemporaryDirectory(prefix="proxy-") as folder,
        pooled(postgres, postgres_server.sockets, Path(folder), by_transaction=True) as url,
        psycopg.connect(url, autocommit=True, prepare_threshold=None) as through,
        psycopg.connect(postgres, autocommit=True, prepare_threshold=0) as prepared,
    ):
        for generation, model in ((1, "fake-a"), (2, "fake-b")):
            for reader in (through, prepared):
                values = (route(reader)[1], embedded(project, model))
                for statement in (SEARCH, VIEW):
                    rows = reader.execute(statement, values).fetchall()
                    assert {row[1] for row in rows} == {generation}
            if generation == 1:
                project.upgrade()


def test_psql_reads_the_route_searches_and_learns_that_it_is_behind(
    project: Workspace, postgres: str, postgres_server: PostgresServer
) -> None:
    script = """
\\set ON_ERROR_STOP on
\\set VERBOSITY sqlstate
SELECT model_key FROM embedmigrate.route WHERE collection = 'articles' \\gset
SELECT id FROM embedmigrate.search('articles', :'model_key', :'query'::vector, 3);
"""

    def psql(script: str, **variables: str) -> subprocess.CompletedProcess[str]:
        named = [f"--set={key}={value}" for key, value in variables.items()]
        return subprocess.run(
            [postgres_server.bin / "psql", postgres, "-X", "-A", "-t", "-q", *named],
            input=script,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    query = embedded(project, "fake-a")
    found = psql(script, query=query)
    assert found.returncode == 0, found.stderr
    with Collection.open("articles", project.settings) as articles:
        hits = articles.search(QUERY, k=3).hits
        stale = resolve.pinned(project.settings, "fake-a").fingerprint
    assert found.stdout.split() == [hit.id for hit in hits]

    project.upgrade()
    behind = psql(script.replace(":'model_key'", f"'{stale}'"), query=query)
    assert behind.returncode == 3
    assert published.STALE in behind.stderr


# -- many cut-overs -----------------------------------------------------------------------------


def test_no_reader_is_ever_answered_wrongly_through_cut_overs(
    project: Workspace, postgres: str
) -> None:
    """Two hundred: ``python -m benchmarks.sql_readers``."""
    told = readers_through_switches(project, postgres, switches=6)
    for name, tally in told.items():
        assert tally["wrong"] == tally["errors"] == 0, (name, tally)
        assert tally["searches"] > 6, (name, tally)
        assert len(tally["generations"]) >= 3, (name, tally)


def readers_through_switches(
    project: Workspace, postgres: str, switches: int
) -> dict[str, dict[str, Any]]:
    """Switch between the two models while one reader of each kind searches; tell what they saw."""
    keys, vectors = dict[str, str](), dict[str, str]()
    expected: dict[str, list[str]] = {}
    for model in ("fake-a", "fake-b"):
        pinned = resolve.pinned(project.settings, model)
        keys[f"{pinned.fingerprint}:{pinned.query_side}"] = model
        vectors[model] = embedded(project, model)
    over = threading.Event()

    def by(
        statement: str,
    ) -> Callable[[psycopg.Connection[Any]], tuple[int, str, list[str]] | None]:
        def search(connection: psycopg.Connection[Any]) -> tuple[int, str, list[str]] | None:
            model = keys[route(connection)[1]]
            key = next(key for key, it in keys.items() if it == model)
            try:
                rows = connection.execute(statement, (key, vectors[model])).fetchall()
            except psycopg.Error as error:
                if error.sqlstate == published.STALE:
                    return None  # begin again, as documented
                raise
            return (rows[0][1], model, [row[0] for row in rows]) if rows else None

        return search

    told: dict[str, dict[str, Any]] = {}

    def keep_asking(name: str, ask: Callable[[], tuple[int, str, list[str]] | None]) -> None:
        tally = told[name]
        while not over.is_set():
            started = time.monotonic()
            try:
                answer = ask()
            except Exception as error:
                tally["errors"] += 1
                tally["said"].append(repr(error))
                continue
            tally["longest"] = max(tally["longest"], time.monotonic() - started)
            if answer is None:
                tally["again"] += 1
                continue
            generation, model, ids = answer
            tally["searches"] += 1
            tally["generations"].add(generation)
            right = model == ("fake-a" if generation % 2 else "fake-b")
            tally["wrong"] += not right or ids != expected.setdefault(model, ids)

    settings = project.settings
    with (
        Collection.open("articles", settings) as articles,
        psycopg.connect(postgres, autocommit=True) as first,
        psycopg.connect(postgres, autocommit=True) as second,
    ):

        def library() -> tuple[int, str, list[str]]:
            result = articles.search(QUERY, k=5)
            return result.generation, result.model, [hit.id for hit in result.hits]

        function, view = by(SEARCH), by(VIEW)
        kinds: dict[str, Callable[[], tuple[int, str, list[str]] | None]] = {
            "Collection": library,
            "function": lambda: function(first),
            "view": lambda: view(second),
        }
        threads = []
        for name, ask in kinds.items():
            told[name] = dict.fromkeys(("searches", "errors", "wrong", "again"), 0)
            told[name] |= {"generations": set(), "longest": 0.0, "said": []}
            threads.append(threading.Thread(target=keep_asking, args=(name, ask)))
        for thread in threads:
            thread.start()
        try:
            for number in range(switches):
                if number % 2:
                    command.rollback(settings, "articles", reason="back and forth")
                else:
                    again = "back and forth" if number else None
                    command.upgrade(settings, again=again)
                time.sleep(0.05)
        finally:
            over.set()
            for thread in threads:
                thread.join()
    return told
