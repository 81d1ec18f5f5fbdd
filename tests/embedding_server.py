"""A server that speaks OpenAI's protocol on 127.0.0.1, answers with a real model, and misbehaves.

What it is told to do wrong is set on it while it runs, so that a test can do to a client what time
does to one: another model behind the same name, an answer in another order, an error that quotes
the texts it was sent.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from embedmigrate.embedders.base import Vectors
from tests.embedders.handmade_models import MINILM, WORDLLAMA, load

Answer = dict[str, Any]


class Brain:
    """A real model that remembers what it answered, so that asking it again is free."""

    def __init__(self, **declaration: Any) -> None:
        self._embedder = load(Path(), **declaration)
        self._known: dict[str, Vectors] = {}
        self._lock = threading.Lock()

    def __call__(self, texts: Sequence[str]) -> Vectors:
        with self._lock:
            for text in texts:
                if text not in self._known:
                    self._known[text] = self._embedder.embed_documents([text])[0]
            return np.stack([self._known[text] for text in texts])


def wordllama() -> Brain:
    """256 dimensions, length 1."""
    return Brain(**WORDLLAMA)


def minilm(dimensions: int = 256) -> Brain:
    """MiniLM, cut: another model with vectors that fit."""
    return Brain(**MINILM, dimensions=dimensions)


def _as_it_is(answer: Answer) -> Answer:
    return answer


def _nothing(_request: dict[str, Any]) -> None:
    pass


@dataclass
class EmbeddingServer:
    """What it answers with, and what it does wrong. ``requests`` are the bodies that it got."""

    brain: Callable[[Sequence[str]], Vectors]
    replies_as: str | None = None
    """The name in its replies; the one that it was asked for if None."""
    ignores_base64: bool = False
    key: str | None = None
    """The only key that it accepts."""
    status: int = 200
    """Anything else is an error that quotes texts and key."""
    code: str | None = None
    delay: float = 0.0
    spoil: Callable[[Answer], Answer | str] = _as_it_is
    before: Callable[[dict[str, Any]], None] = _nothing
    """Called with each request before it is answered."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    """What each request said under Authorization."""
    url: str = ""
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def texts(self) -> list[str]:
        """Every text that it was sent, in order."""
        return [text for request in self.requests for text in request["input"]]

    def answer(self, request: dict[str, Any], authorization: str) -> tuple[int, Answer | str]:
        self.requests.append(request)
        self.keys.append(authorization)
        self.before(request)
        self.released.wait(self.delay)
        status = self.status
        if self.key is not None and authorization != f"Bearer {self.key}":
            status = 401
        if status != 200:
            message = f"{authorization} may not embed {request['input']}"
            error = {"message": message, "type": message, "param": message, "code": self.code}
            return status, {"error": error}
        vectors = self.brain(request["input"])
        as_base64 = request.get("encoding_format") == "base64" and not self.ignores_base64
        answer: Answer = {
            "object": "list",
            "model": request["model"] if self.replies_as is None else self.replies_as,
            "data": [
                {"object": "embedding", "index": index, "embedding": _encoded(row, as_base64)}
                for index, row in enumerate(vectors)
            ],
            "usage": {"prompt_tokens": 0, "total_tokens": 0},
        }
        return 200, self.spoil(answer)


def _encoded(vector: Vectors, as_base64: bool) -> str | list[float]:
    if as_base64:
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    return [float(value) for value in vector]


@contextmanager
def serving(server: EmbeddingServer) -> Iterator[EmbeddingServer]:
    """Let it listen on a port of its own until the block ends; ``server.url`` is its base URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # head and body are two packets: 40 ms a request otherwise

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/v1/embeddings":
                status, said = server.answer(request, self.headers.get("Authorization", ""))
            else:
                status, said = 404, {"error": {"message": f"no {self.path}"}}
            body = (said if isinstance(said, str) else json.dumps(said)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(ConnectionError):  # it took too long
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    try:
        yield server
    finally:
        server.released.set()
        http.shutdown()
        thread.join()
        http.server_close()
