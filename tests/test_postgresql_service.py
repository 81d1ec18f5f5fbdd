"""The example service answers and is written to while its index moves to another model and back.

Real processes all around: the server of PostgreSQL, uvicorn, the worker, and each command.
"""

from __future__ import annotations

import http.client
import itertools
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.command_line import run
from tests.postgres_server import PostgresServer
from tests.workspace import wait_for

EXAMPLE = Path(__file__).parents[1] / "examples" / "06_postgresql_service"
DATA = EXAMPLE.parent / "data"
LOADED = 50
"""Documents that are there when the story begins. Others are written while it is told."""
HITS = 5


# -- what happens around the service ------------------------------------------------------------


class Client:
    """Asks the service, over a connection of its own each time."""

    def __init__(self, port: int) -> None:
        self._port = port

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        sent = None if body is None else json.dumps(body)
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)) as connection:
            connection.request(method, path, sent, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        return answer.status, json.loads(text) if text else None

    def search(self, query: str, k: int = HITS) -> tuple[int, Any]:
        return self.ask("GET", f"/search?q={quote(query)}&k={k}")


class Visitors:
    """A thread that searches every few milliseconds and notes what it was given."""

    def __init__(self, port: int, queries: Sequence[str]) -> None:
        self._client, self._queries = Client(port), queries
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._visit)
        self.answers: Counter[tuple[int, str, str]] = Counter()
        self.scores: dict[tuple[str, str, int], set[float]] = defaultdict(set)
        """Of best hits, by model, query and document: two of one, and an answer was mixed."""
        self.failures: list[str] = []

    def _visit(self) -> None:
        seen = 0
        for query in itertools.cycle(self._queries):
            if self._leave.wait(0.005):
                return
            try:
                status, found = self._client.search(query)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                continue
            if status != 200 or len(found["hits"]) != HITS:
                self.failures.append(f"{status}: {found}")
                continue
            if found["generation"] < seen:
                self.failures.append(f"generation {found['generation']} after {seen}")
            seen = found["generation"]
            self.answers[seen, found["model"], found["index"]] += 1
            best = found["hits"][0]
            self.scores[found["model"], query, best["id"]].add(round(best["score"], 3))

    def generations(self) -> set[int]:
        return {generation for generation, _, _ in list(self.answers)}

    def __enter__(self) -> Visitors:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._leave.set()
        self._thread.join()


class Story:
    """The commands of the README, in its order; what it shows has to be what is typed here."""

    def __init__(self, root: Path) -> None:
        self._root = root
        text = (EXAMPLE / "README.md").read_text("utf-8")
        shell = "".join(re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
        self.left = re.findall(r"^embedmigrate (.+?)(?: +#.*)?$", shell, re.MULTILINE)

    def here(self, line: str) -> None:
        """Run a command in this process, which is quicker."""
        answer = run(self._root, *self._words(line))
        assert answer.code == 0, answer.err

    def apart(self, line: str) -> None:
        """Run a command in a process of its own, beside the service."""
        with closing(Process(self._root, "-m", "embedmigrate", *self._words(line))) as command:
            assert command.ended() == 0, command.said()

    def _words(self, line: str) -> list[str]:
        assert self.left.pop(0) == line
        return shlex.split(line)


class Process:
    """A Python program in the project; what it says goes to a file, as pipes fill up."""

    def __init__(self, root: Path, *words: str) -> None:
        self._log = root / f"{uuid.uuid4().hex}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *words], cwd=root, stdout=log, stderr=subprocess.STDOUT
            )

    def ended(self) -> int:
        return self._process.wait(timeout=120)

    def stopped(self) -> int:
        """Its exit status when it is asked to end."""
        self._process.send_signal(signal.SIGTERM)
        return self.ended()

    def said(self) -> str:
        return self._log.read_text("utf-8", "replace")[-4000:]

    def close(self) -> None:
        self._process.kill()
        self._process.wait(20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_up(port: int) -> bool:
    try:
        return Client(port).ask("GET", "/healthz")[0] == 200
    except OSError:
        return False


def records(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (DATA / name).read_text("utf-8").splitlines()]


# -- the story ------------------------------------------------------------------------------------


@pytest.fixture
def project(postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the example, whose table holds the beginnings of a few abstracts."""
    monkeypatch.setenv("DATABASE_URL", postgres)
    monkeypatch.delenv("EMBEDMIGRATE_CONFIG", raising=False)
    root = tmp_path / "project"
    root.mkdir()
    for name in ("app.py", "embedmigrate.toml", "load.py", "schema.sql"):
        shutil.copy(EXAMPLE / name, root)
    lines = (json.dumps(record) + "\n" for record in beginnings()[:LOADED])
    (root / "few.jsonl").write_text("".join(lines), "utf-8")
    with closing(Process(root, "load.py", "few.jsonl")) as load:
        assert load.ended() == 0, load.said()
    return root


def beginnings() -> list[dict[str, str]]:
    return [{**record, "text": record["text"][:250]} for record in records("corpus.jsonl")]


def write(client: Client, documents: list[dict[str, str]]) -> dict[int, str]:
    """POST documents, one each 50 ms; the ids that the service gave, and a text to find each by."""
    written = {}
    for document in documents:
        body = {"title": document["title"], "body": document["text"]}
        status, answer = client.ask("POST", "/documents", body)
        assert status == 201, answer
        written[answer["id"]] = f"{document['title']} {document['text']}"
        time.sleep(0.05)
    return written


def missing(client: Client, written: dict[int, str]) -> list[int]:
    """The documents that are not what a search for their own text finds first."""
    found = {id: client.search(text, 1)[1]["hits"][0]["id"] for id, text in written.items()}
    return [id for id, first in found.items() if first != id]


def refusals(client: Client) -> list[int]:
    """What the service answers to what cannot be meant."""
    good = {"title": "Tides", "body": ""}
    asked: list[tuple[str, str, object]] = [
        ("GET", "/search?q=", None),
        ("GET", "/search?q=tides&k=0", None),
        ("POST", "/documents", {"title": "a NUL \0 in it", "body": ""}),
        ("PUT", f"/documents/{2**63}", good),
        ("PUT", f"/documents/{2**62}", good),
    ]
    return [client.ask(method, path, body)[0] for method, path, body in asked]


def search_in_sql(server: PostgresServer, url: str, query: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            server.bin / "psql",
            url,
            "-X",
            "-A",
            "-t",
            "-v",
            f"query={query}",
            "-f",
            EXAMPLE / "search.sql",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.timeout(240)
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_service_answers_and_is_written_to_while_its_index_is_migrated(
    project: Path, postgres: str, postgres_server: PostgresServer
) -> None:
    story, port = Story(project), free_port()
    story.here("init migrations")
    story.here("pin wordllama")
    story.here("pin minilm")
    story.here("capture install articles")
    story.here('revision -m "first index" --collection articles --to wordllama')
    story.here("upgrade")
    queries = [record["text"] for record in records("queries.jsonl")[:20]]

    with (
        closing(Process(project, "-m", "uvicorn", "app:app", "--port", str(port))) as service,
        closing(Process(project, "-m", "embedmigrate", "sync", "--follow")) as worker,
        ThreadPoolExecutor(1) as others,
    ):
        client = Client(port)
        assert story.left.pop(0) == "sync --follow"
        wait_for(lambda: is_up(port), bool, 60)
        new = iter(beginnings()[LOADED:])
        written = write(client, list(itertools.islice(new, 5)))
        wait_for(lambda: missing(client, written), lambda ids: not ids)
        sql = json.dumps(client.ask("GET", f"/vector?q={quote(queries[0])}")[1])
        story.here('revision -m "to minilm" --collection articles --to minilm')

        with Visitors(port, queries) as visitors:
            wait_for(visitors.generations, lambda seen: seen == {1})
            upgrade = others.submit(story.apart, "upgrade --until ready")
            written |= write(client, list(itertools.islice(new, 5)))
            edited, deleted = list(written)[:2]
            title, _, rest = "Tides: the moon raises the sea twice a day".partition(": ")
            assert (
                client.ask("PUT", f"/documents/{edited}", {"title": title, "body": rest})[0] == 204
            )
            assert client.ask("DELETE", f"/documents/{deleted}")[0] == 204
            written[edited] = "the moon and the tides of the sea"
            del written[deleted]
            while not upgrade.done():
                written |= write(client, list(itertools.islice(new, 1)))
                time.sleep(0.5)
            upgrade.result()

            story.apart("cutover")
            wait_for(visitors.generations, lambda seen: seen == {1, 2})
            written |= write(client, list(itertools.islice(new, 5)))
            wait_for(lambda: missing(client, written), lambda ids: not ids)
            stale = search_in_sql(postgres_server, postgres, sql)

            story.apart('rollback articles --reason "a rehearsal"')
            wait_for(visitors.generations, lambda seen: seen == {1, 2, 3})
            wait_for(lambda: missing(client, written), lambda ids: not ids)

        postgres_server.restart()
        assert client.search(queries[0])[0] == 200, service.said()
        written |= write(client, list(itertools.islice(new, 1)))
        wait_for(lambda: missing(client, written), lambda ids: not ids, 180)

        assert refusals(client) == [422, 422, 422, 422, 404]
        everything = client.search("tides", 100)[1]["hits"]
        answered = search_in_sql(postgres_server, postgres, sql)
        (_, served) = client.search(queries[0])
        assert worker.stopped() == 7, worker.said()
        service.stopped()
        assert "Application shutdown complete." in service.said()

    assert visitors.failures == [] and visitors.answers.total() > 100
    assert sorted(visitors.answers) == [
        (1, "wordllama", "articles-0001"),
        (2, "minilm", "articles-0002"),
        (3, "wordllama", "articles-0001"),
    ]
    assert {key: scores for key, scores in visitors.scores.items() if len(scores) > 1} == {}
    assert not {deleted} & {hit["id"] for hit in everything}
    assert "EM001" in stale.stderr and stale.stdout == ""
    lines = [line.split("|") for line in answered.stdout.splitlines()]
    assert [(line[0], int(line[2])) for line in lines] == [
        ("3", hit["id"]) for hit in served["hits"]
    ]
    assert story.left == []
