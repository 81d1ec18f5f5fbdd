"""Going slowly: a rate, a command and a URL that say so, and that none of them keeps anybody."""

from __future__ import annotations

import http.server
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from embedmigrate.engine.job import StopSignal
from embedmigrate.engine.throttle import Asked, Command, Throttle, Url
from embedmigrate.errors import Stopped


def nothing() -> None:
    pass


def waited(throttle: Throttle, texts: int, check: Callable[[], None] = nothing) -> float:
    """Seconds that a call of so many texts had to wait."""
    began = time.monotonic()
    throttle.wait(texts, check, lambda _: None)
    return time.monotonic() - began


def stop_in(seconds: float) -> Callable[[], None]:
    stop = StopSignal()
    threading.Timer(seconds, stop.set, ["a test"]).start()
    return stop.check


class Scripted:
    """Says what it is told to say, one answer a question."""

    def __init__(self, *answers: str | None) -> None:
        self.answers, self.asked = list(answers), list[float]()

    def objection(self, check: Callable[[], None]) -> str | None:
        self.asked.append(time.monotonic())
        return self.answers.pop(0) if self.answers else None


# -- the rate ---------------------------------------------------------------------------------


def test_without_a_limit_nobody_waits() -> None:
    throttle = Throttle()
    assert sum(waited(throttle, 64) for _ in range(100)) < 0.1


def test_so_many_documents_a_second_on_average() -> None:
    throttle = Throttle(100)
    began = time.monotonic()
    for _ in range(5):
        throttle.wait(20, nothing, lambda _: None)

    assert 0.8 <= time.monotonic() - began < 1.1, "the first 20 at once, 20 each fifth of a second"


def test_time_that_was_not_used_is_not_saved_up() -> None:
    throttle = Throttle(100)
    throttle.wait(10, nothing, lambda _: None)
    time.sleep(0.5)
    throttle.wait(50, nothing, lambda _: None)

    assert waited(throttle, 1) > 0.4


def test_a_long_wait_for_the_rate_is_told_and_can_be_stopped() -> None:
    told: list[str] = []
    throttle = Throttle(1)
    throttle.wait(60, nothing, told.append)
    assert told == []

    began = time.monotonic()
    with pytest.raises(Stopped):
        throttle.wait(60, stop_in(0.3), told.append)

    assert time.monotonic() - began < 1
    assert told == ["at most 1 documents a second"]


# -- being asked to slow down -----------------------------------------------------------------


def test_work_waits_while_there_is_an_objection_and_says_which() -> None:
    told: list[str] = []
    source = Scripted("the queue is long", "the queue is long", None)

    Throttle(asked=[source], every_seconds=0.2).wait(1, nothing, told.append)

    assert told == ["the queue is long"] * 2
    assert source.asked[2] - source.asked[0] >= 0.4


def test_nobody_is_asked_more_often_than_every_so_many_seconds() -> None:
    source = Scripted()
    throttle = Throttle(asked=[source], every_seconds=0.3)
    for _ in range(50):
        throttle.wait(1, nothing, lambda _: None)
        time.sleep(0.01)

    assert 2 <= len(source.asked) <= 3


def test_every_one_that_is_asked_must_agree() -> None:
    first, second = Scripted(None, None), Scripted("no", None)
    throttle = Throttle(asked=[first, second], every_seconds=0.1)

    assert waited(throttle, 1) >= 0.1
    assert len(second.asked) == 2


def test_waiting_for_an_objection_to_end_can_be_stopped() -> None:
    began = time.monotonic()
    with pytest.raises(Stopped):
        waited(Throttle(asked=[Scripted(*["no"] * 99)], every_seconds=60), 1, stop_in(0.3))
    assert time.monotonic() - began < 1


# -- a command --------------------------------------------------------------------------------


def objection(asked: Asked, check: Callable[[], None] = nothing) -> str | None:
    return asked.objection(check)


def test_a_command_that_ends_with_0_lets_the_work_go_on(tmp_path: Path) -> None:
    (tmp_path / "calm").touch()

    assert objection(Command(["test", "-e", "calm"], tmp_path, 5)) is None, "run in the folder"
    assert objection(Command(["test", "-e", "gone"], tmp_path, 5)) == (
        "throttle command test ended with 1"
    )


def test_a_command_is_run_without_a_shell(tmp_path: Path) -> None:
    assert objection(Command(["test", "a", "=", "a; touch injected"], tmp_path, 5)) is not None
    assert not (tmp_path / "injected").exists()


def test_a_command_that_cannot_be_run_is_waited_for_and_its_arguments_stay_secret(
    tmp_path: Path,
) -> None:
    said = objection(Command(["./no-such-program", "--token", "s3cret"], tmp_path, 5))
    assert said == "throttle command no-such-program cannot be run: FileNotFoundError"


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    program = "sleep 60 & echo $! > child; sleep 60"
    began = time.monotonic()

    said = objection(Command(["sh", "-c", program], tmp_path, 0.6))

    assert said == "throttle command sh took longer than 0.6 s"
    assert time.monotonic() - began < 2
    assert_gone(int((tmp_path / "child").read_text()))


def test_a_command_that_hangs_does_not_outlast_a_stop(tmp_path: Path) -> None:
    command = Command(["sh", "-c", "echo $$ > pid; exec sleep 60"], tmp_path, 60)
    began = time.monotonic()
    with pytest.raises(Stopped):
        objection(command, stop_in(0.3))
    assert time.monotonic() - began < 1
    assert_gone(int((tmp_path / "pid").read_text()))


def assert_gone(pid: int) -> None:
    for _ in range(100):
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] in "ZX":
            return
        time.sleep(0.02)
    os.kill(pid, 9)
    raise AssertionError(f"process {pid} was left behind")


def test_what_a_command_prints_is_not_kept_and_does_not_block_it(tmp_path: Path) -> None:
    program = [sys.executable, "-c", "print('x' * 10_000_000)"]
    assert objection(Command(program, tmp_path, 20)) is None


# -- a URL ------------------------------------------------------------------------------------


@contextmanager
def server(status: int, headers: dict[str, str] | None = None) -> Iterator[tuple[str, list[str]]]:
    """A real server that answers with ``status``; its address, and what it was asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers.get('Authorization')}")
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}", asked
        running.shutdown()


@pytest.mark.parametrize("status", [200, 429, 503, 404, 500, 204])
def test_only_200_lets_the_work_go_on(status: int) -> None:
    with server(status) as (address, _):
        said = objection(Url(address, 5))
    assert said == (None if status == 200 else f"throttle URL of 127.0.0.1 answers {status}")


def test_a_redirect_is_not_followed() -> None:
    with server(200) as (calm, asked), server(302, {"Location": calm}) as (address, _):
        assert objection(Url(address, 5)) == "throttle URL of 127.0.0.1 answers 302"
        assert asked == []


def test_user_and_password_are_sent_and_never_shown() -> None:
    with server(429) as (address, asked):
        place = address.removeprefix("http://")
        said = objection(Url(f"http://ada:p%40ss@{place}/slow?token=s3cret", 5))

    assert asked == ["/slow?token=s3cret Basic YWRhOnBAc3M="]
    assert said == "throttle URL of 127.0.0.1 answers 429"


def test_a_server_that_is_not_there_is_waited_for() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = objection(Url(f"http://127.0.0.1:{port}/?token=s3cret", 5))
    assert said == "throttle URL of 127.0.0.1 cannot be asked: ConnectionRefusedError"


@contextmanager
def a_server_that_drips() -> Iterator[str]:
    """It sends a byte of an endless header now and then, so that no socket ever times out."""
    over = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection:
            while not over.wait(0.1):
                connection.send(b"H")

    def serve(listening: socket.socket) -> None:
        while not over.is_set():
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                continue
            threading.Thread(target=drip, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        over.set()
        thread.join()


def test_a_server_that_never_finishes_its_answer_keeps_nobody() -> None:
    with a_server_that_drips() as address:
        url = Url(address, 0.5)
        began = time.monotonic()
        assert objection(url) == "throttle URL of 127.0.0.1 does not answer"
        assert time.monotonic() - began < 1
        before = threading.active_count()
        assert objection(url) is not None
        assert threading.active_count() == before, "one question at a time"

        with pytest.raises(Stopped):
            objection(Url(address, 60), stop_in(0.3))
        assert time.monotonic() - began < 3
