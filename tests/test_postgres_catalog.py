"""The catalog in PostgreSQL: one writer at a time, one runner, and a server that may go.

The store is FAISS here, so that what fails is the catalog.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from embedmigrate import Collection, command
from embedmigrate.catalog import Catalog, indexes, locks, postgresql, schema, sessions
from embedmigrate.engine import outlasting
from embedmigrate.errors import ConfigError, FencedOut, LockHeld, ServerAway, StorageUnavailable
from embedmigrate.postgres import with_driver
from tests.pooling_proxy import pooled
from tests.postgres_server import PostgresServer
from tests.workspace import ARTICLES, GENERAL, Workspace, documents, wait_for


@pytest.fixture
def catalog(postgres: str) -> Iterator[Catalog]:
    """An empty catalog with one collection, `things`."""
    with Catalog(postgres) as catalog:
        with catalog.write() as connection:
            indexes.ensure_collection(connection, "things")
        yield catalog


@pytest.fixture
def project(postgres: str, tmp_path: Path) -> Workspace:
    """`fake-a` live, a revision to `fake-b` pending."""
    workspace = Workspace.make(
        tmp_path / "project",
        collections=ARTICLES.replace('"wordllama"', '"fake-a"'),
        general=GENERAL.replace("sqlite:///catalog.db", postgres) + "lease_seconds = 4\n",
        pin=("fake-a", "fake-b"),
        corpus=documents(60),
    )
    workspace.revision("fake-a")
    workspace.upgrade()
    workspace.revision("fake-b")
    return workspace


def ask(url: str, query: str, *parameters: Any) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query, parameters or None)
        return [] if cursor.description is None else list(cursor.fetchall())


# -- where it is ------------------------------------------------------------------------------


def test_a_migration_and_its_way_back(project: Workspace) -> None:
    project.upgrade()
    assert project.live() == "fake-b"
    with Collection.open("articles", project.settings) as articles:
        assert articles.search("telescopes", k=3).generation == 2
        command.rollback(project.settings, "articles", reason="a test")
        wait_for(lambda: articles.search("telescopes", k=3).generation, lambda it: it == 3)
    assert project.live() == "fake-a"
    assert project.run("upgrade").returncode == 3, "a person went back"


def test_everything_of_ours_is_in_one_schema(project: Workspace, postgres: str) -> None:
    project.upgrade()
    query = (
        "SELECT DISTINCT table_schema FROM information_schema.tables WHERE table_schema <> ALL (%s)"
    )
    assert ask(postgres, query, ["pg_catalog", "information_schema"]) == [("embedmigrate",)]


def test_a_stock_alembic_of_the_application_does_not_see_it(
    project: Workspace, postgres: str
) -> None:
    project.upgrade()
    ask(postgres, "CREATE TABLE articles (id int PRIMARY KEY)")
    of_the_application = sa.MetaData()
    sa.Table("articles", of_the_application, sa.Column("id", sa.Integer, primary_key=True))
    engine = sa.create_engine(with_driver(sa.make_url(postgres)))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, of_the_application) == []
    engine.dispose()


def test_processes_that_make_it_at_the_same_moment_make_one(postgres: str) -> None:
    program = "import sys; from embedmigrate.catalog import Catalog; print(Catalog(sys.argv[1]).id)"
    makers = [
        subprocess.Popen([sys.executable, "-c", program, postgres], stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    ids = {maker.communicate(timeout=60)[0] for maker in makers}
    assert len(ids) == 1
    assert ids != {b""}


def test_reading_makes_nothing(postgres: str, tmp_path: Path) -> None:
    general = GENERAL.replace("sqlite:///catalog.db", postgres)
    workspace = Workspace.make(tmp_path / "project", general=general)
    assert command.status(workspace.settings)["collections"] != []
    assert ask(postgres, "SELECT 1 FROM pg_namespace WHERE nspname = 'embedmigrate'") == []


def test_a_server_that_is_not_there_is_temporary_and_named_without_its_password() -> None:
    url = "postgresql://me:open-sesame@/nothing?host=/nowhere"
    with pytest.raises(ServerAway) as refusal:
        Catalog(url)
    assert refusal.value.exit_code == 75
    assert "open-sesame" not in str(refusal.value)


def test_a_database_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be kept"):
        Catalog("mysql+pymysql://me@host/database")


# -- one writer at a time -----------------------------------------------------------------------


def test_writers_take_turns_and_readers_wait_for_nobody(catalog: Catalog) -> None:
    order: list[str] = []

    def write() -> None:
        with catalog.write():
            order.append("second")

    with catalog.write() as connection:
        other = threading.Thread(target=write)
        other.start()
        time.sleep(0.2)
        with catalog.read() as reading:
            reading.execute(sa.select(schema.collection)).all()
        order.append("first")
        connection.execute(schema.collection.update().values(indexes_made=7))
    other.join()
    assert order == ["first", "second"]


def test_a_writer_that_is_kept_waiting_is_told_so_in_time(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = postgresql._TAKE_TURNS.replace(postgresql.LOCK_TIMEOUT, "100ms")
    with catalog.write():
        monkeypatch.setattr(postgresql, "_TAKE_TURNS", impatient)
        with pytest.raises(StorageUnavailable) as refusal, catalog.write():
            pass
    assert refusal.value.exit_code == 75
    assert not isinstance(refusal.value, ServerAway)


def test_one_that_sleeps_inside_a_transaction_is_ended_by_the_server(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleepy = postgresql._TAKE_TURNS.replace(postgresql.IDLE_TIMEOUT, "200ms")
    monkeypatch.setattr(postgresql, "_TAKE_TURNS", sleepy)
    with pytest.raises(ServerAway), catalog.write() as connection:
        connection.execute(schema.collection.update().values(indexes_made=9))
        time.sleep(0.6)
        connection.execute(schema.collection.update().values(indexes_made=9))
    with catalog.write() as connection:
        assert connection.execute(sa.select(schema.collection.c.indexes_made)).scalar() == 0


# -- one runner a collection --------------------------------------------------------------------


def session(catalog: Catalog) -> sessions.Session:
    return sessions.session_for(catalog, "things", locks.Role.RUNNER)


def make_it_another_machine(url: str) -> None:
    """So that a runner cannot be found dead by its process number."""
    statement = (
        "UPDATE embedmigrate.embedmigrate_lease"
        ' SET owner = (owner::jsonb || \'{"host": "elsewhere"}\')::text'
    )
    ask(url, statement)


def let_it_be_silent(url: str, seconds: float) -> None:
    statement = "UPDATE embedmigrate.embedmigrate_lease SET heartbeat_at = heartbeat_at - %s"
    ask(url, statement, seconds)


def test_a_runner_on_another_machine_whose_session_is_gone_is_followed_after_two_beats(
    catalog: Catalog, postgres: str
) -> None:
    first = session(catalog)
    locks.acquire(catalog, "things", 100, session=first)
    make_it_another_machine(postgres)

    second = session(catalog)
    let_it_be_silent(postgres, 60)
    with pytest.raises(LockHeld):  # its session lives
        locks.acquire(catalog, "things", 100, session=second)
    first.close()
    assert locks.acquire(catalog, "things", 100, session=second).epoch == 2
    second.close()


def test_one_whose_connection_was_cut_a_moment_ago_is_not_robbed(
    catalog: Catalog, postgres: str
) -> None:
    first, second = session(catalog), session(catalog)
    locks.acquire(catalog, "things", 100, session=first)
    make_it_another_machine(postgres)
    first.close()
    with pytest.raises(LockHeld):
        locks.acquire(catalog, "things", 100, session=second)
    second.close()


def test_a_frozen_runner_is_taken_over_from_and_its_session_ended(
    catalog: Catalog, postgres: str
) -> None:
    frozen, next_one = session(catalog), session(catalog)
    lost = locks.acquire(catalog, "things", 100, session=frozen)
    let_it_be_silent(postgres, 101)

    lease = locks.acquire(catalog, "things", 100, session=next_one)

    assert next_one.take() is True
    assert frozen.take() is False
    with catalog.write() as connection:
        locks.renew(connection, lease)
        with pytest.raises(FencedOut):
            locks.renew(connection, lost)
    frozen.close()
    next_one.close()


def test_a_machine_whose_clock_is_ahead_takes_nothing_over(
    catalog: Catalog, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks.acquire(catalog, "things", 30)
    make_it_another_machine(postgres)
    ahead = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: ahead)
    with pytest.raises(LockHeld):
        locks.acquire(catalog, "things", 30)


def test_a_lost_session_is_taken_again(catalog: Catalog, postgres: str) -> None:
    held = session(catalog)
    assert held.take() is True
    cut = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'embedmigrate' AND datname = current_database()"
    )
    ask(postgres, cut)
    assert held.take() is True
    with closing(session(catalog)) as other:
        assert other.take() is False
    held.close()


def test_of_racing_runners_one_works_and_the_others_embed_nothing(project: Workspace) -> None:
    runners = [project.start("upgrade", "--json") for _ in range(4)]
    said = [runner.communicate(timeout=60) for runner in runners]
    codes = sorted(runner.returncode for runner in runners)
    winners = [json.loads(out) for out, _ in said if out and json.loads(out)["applied"]]
    assert len(winners) == 1
    assert winners[0]["collections"][0]["embedded"] == 60
    assert set(codes) <= {0, 75}
    assert project.live() == "fake-b"


# -- poolers ------------------------------------------------------------------------------------


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """The path of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="proxy-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("neighbours", [0, 3])
def test_a_proxy_that_pools_transactions_is_refused_to_runners(
    postgres: str,
    postgres_server: PostgresServer,
    short_folder: Path,
    catalog: Catalog,
    neighbours: int,
) -> None:
    sockets = postgres_server.sockets
    with pooled(postgres, sockets, short_folder, by_transaction=True) as url:
        others = [psycopg.connect(url, prepare_threshold=None) for _ in range(neighbours)]
        for other in others:
            other.execute("SELECT 1")
            other.commit()
        with (
            Catalog(url) as through,
            closing(session(through)) as held,
            pytest.raises(ConfigError, match="pools transactions"),
        ):
            locks.acquire(through, "things", 30, session=held)
        for other in others:
            other.close()
    with catalog.read() as connection:
        assert connection.execute(sa.select(schema.lease)).all() == [], "nothing was taken"


def test_one_that_pools_sessions_is_not(
    postgres: str, postgres_server: PostgresServer, short_folder: Path, catalog: Catalog
) -> None:
    sockets = postgres_server.sockets
    with (
        pooled(postgres, sockets, short_folder, by_transaction=False) as url,
        Catalog(url) as through,
    ):
        held = session(through)
        assert locks.acquire(through, "things", 30, session=held).epoch == 1
        held.close()


def test_an_application_may_search_through_either(
    project: Workspace, postgres: str, postgres_server: PostgresServer, short_folder: Path
) -> None:
    sockets = postgres_server.sockets
    with pooled(postgres, sockets, short_folder, by_transaction=True) as url:
        project.edit_config(postgres, url)
        with Collection.open("articles", project.settings) as articles:
            assert articles.search("telescopes", k=3).generation == 1


# -- a server that goes away ----------------------------------------------------------------------

SLOWLY = """
[collections.articles.throttle]
documents_per_second = 40
"""


def in_the_middle(project: Workspace) -> subprocess.Popen[str]:
    """An upgrade of 60 documents, begun, that has written a batch."""
    project.edit_config("[collections.articles.source]", SLOWLY + "\n[collections.articles.source]")
    project.edit_config("[embedmigrate]\n", "[embedmigrate]\nbatch_size = 8\n")
    runner = project.start("upgrade", "--json")
    wait_for(lambda: (project.status()["shadow"] or {"done": 0})["done"], lambda done: done > 0)
    return runner


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_an_upgrade_outlasts_a_server_that_comes_back(
    project: Workspace, postgres_server: PostgresServer, how: str
) -> None:
    runner = in_the_middle(project)
    postgres_server.stop() if how == "stop" else postgres_server.kill()
    time.sleep(1)
    assert runner.poll() is None, "it was in the middle"
    postgres_server.start()

    out, said = runner.communicate(timeout=60)

    assert runner.returncode == 0, said
    assert "waiting for the server" in said
    entry = json.loads(out)["collections"][0]
    assert (entry["done"], entry["live"]) == (60, True)
    assert entry["embedded"] <= 60 + 2 * 8, "two batches at most are paid again (I13)"
    assert project.run("upgrade").returncode == 0


def test_without_patience_it_ends_and_the_same_command_resumes(
    project: Workspace, postgres_server: PostgresServer
) -> None:
    project.edit_config("[embedmigrate]\n", "[embedmigrate]\naway_seconds = 0\n")
    runner = in_the_middle(project)
    postgres_server.stop()
    time.sleep(1)
    postgres_server.start()

    _, said = runner.communicate(timeout=60)
    assert runner.returncode == 75, said
    assert project.live() == "fake-a"

    again = project.run("upgrade", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["collections"][0]["embedded"] <= 60 + 2 * 8
    assert project.live() == "fake-b"


def test_a_runner_that_is_killed_leaves_its_lock_to_the_next(project: Workspace) -> None:
    runner = in_the_middle(project)
    os.kill(runner.pid, signal.SIGKILL)
    runner.communicate()
    assert project.run("upgrade").returncode == 0
    assert project.live() == "fake-b"


def test_a_server_is_waited_for_so_long_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlasting, "_FIRST_PAUSE", 0.01)
    calls = 0

    class Stop:
        def wait(self, seconds: float) -> None:
            time.sleep(seconds)

    class Reporter:
        def note(self, text: str) -> None: ...

    class FakeJob:
        collection, away_seconds = "things", 0.2
        stop, reporter = Stop(), Reporter()

    def work() -> None:
        nonlocal calls
        calls += 1
        raise ServerAway("away")

    job: Any = FakeJob()
    started = time.monotonic()
    with pytest.raises(ServerAway):
        outlasting.outlasting(job, work)
    assert calls > 2
    assert time.monotonic() - started < 2
