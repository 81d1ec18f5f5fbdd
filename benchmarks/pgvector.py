"""From PostgreSQL to PostgreSQL against the bare loop, with a model that costs nothing.

    python -m benchmarks.pgvector --rows 10000 100000 --repeat 3

The bare loop reads by key, hashes, embeds and copies the same columns into a fresh table, with a
commit a batch. Both are timed in turns, in one process, on one server, which is started for it
unless `--url` names one. What is embedded are distinct pairs of the abstracts in `examples/data`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from embedmigrate import command, resolve
from embedmigrate.embedders.base import Embedder, Vectors
from tests.postgres_server import PostgresServer
from tests.workspace import GENERAL, Workspace

BATCH = 512
_CORPUS = Path(__file__).parents[1] / "examples" / "data" / "corpus.jsonl"
_MODELS = """
[models.first]
provider = "hashing-not-a-model"
dimensions = 384

[models.second]
provider = "hashing-not-a-model"
dimensions = 384
seed = 1
"""
_COLLECTION = """
[collections.articles]
model = "first"
also_accept = ["first", "second"]
store = {{ kind = "pgvector", url = "{url}", index = "{index}" }}

[collections.articles.source]
kind = "sql"
url = "{url}"
table = "articles"
key = "id"
text = ["text"]
metadata = ["topic"]
"""
_FRESH = """
CREATE TABLE {} (id text, chunk integer, seq bigint, content_hash bytea, metadata_hash bytea,
    fingerprint text, run text, metadata jsonb, written_at timestamptz DEFAULT now(),
    embedding vector(384))
"""
_COPY = (
    "COPY {} (id, chunk, seq, content_hash, metadata_hash, fingerprint, run, metadata, embedding)"
    " FROM STDIN (FORMAT BINARY)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--index", default="none", choices=["none", "hnsw", "ivfflat"])
    parser.add_argument("--url", help="of an empty database with pgvector")
    options = parser.parse_args()
    with ExitStack() as stack:
        url = options.url
        if url is None:
            server = stack.enter_context(closing(PostgresServer()))
            url = server.url(stack.enter_context(server.database()))
        for rows in options.rows:
            print(json.dumps(measure(url, rows, options.repeat, options.index)), flush=True)


def measure(url: str, rows: int, repeat: int, index: str) -> dict[str, Any]:
    """Seconds of the bare loop and of `upgrade --until ready`; what became of the live table."""
    fill(url, rows)
    bare, ours, split = [], [], {}
    with tempfile.TemporaryDirectory() as folder:
        project = make(Path(folder) / "project", url, index)
        project.revision("first")
        project.upgrade()
        before = live_table(url)
        project.revision("second")
        pinned = resolve.pinned(project.settings, "second")
        with closing(resolve.load_embedder(project.settings, pinned)) as embedder:
            for number in range(repeat):
                bare.append(bare_loop(url, f"bare_{number}", embedder))
                began = time.perf_counter()
                command.upgrade(project.settings, until_ready=True, again=f"round {number}")
                ours.append(time.perf_counter() - began)
                split = phases(url)
                command.cancel(project.settings, "articles", reason="the next round", drop=True)
        after = live_table(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA embedmigrate CASCADE")
        connection.execute("DROP TABLE articles")
        for number in range(repeat):
            connection.execute(f"DROP TABLE bare_{number}".encode())
    return {
        "rows": rows,
        "index": index,
        "bare seconds": [round(it, 2) for it in bare],
        "upgrade seconds": [round(it, 2) for it in ours],
        "ratio": round(statistics.median(ours) / statistics.median(bare), 2),
        "ratios": [round(a / b, 2) for a, b in zip(ours, bare, strict=True)],
        "seconds from the start to the last batch": split,
        "live table grew by": after[0] - before[0],
        "live rows rewritten": after[1] - before[1],
    }


def make(root: Path, url: str, index: str) -> Workspace:
    general = GENERAL.replace('catalog = "sqlite:///catalog.db"\n', "")
    workspace = Workspace.make(root, corpus=[], general=general, pin=())
    configured = general + _COLLECTION.format(url=url, index=index) + _MODELS
    (root / "embedmigrate.toml").write_text(configured, "utf-8")
    for name in ("first", "second"):
        command.pin(workspace.to_pin, name)
    command.capture_install(workspace.settings, "articles")
    return workspace


def texts(rows: int) -> Iterator[str]:
    """Distinct pairs of abstracts, cut to some eighty words."""
    lines = _CORPUS.read_text("utf-8").splitlines()
    abstracts = [" ".join(json.loads(line)["text"].split()[:40]) for line in lines]
    for number in range(rows):
        first, second = divmod(number, len(abstracts))
        yield f"{abstracts[second]} {abstracts[(first + second) % len(abstracts)]} {number}"


def fill(url: str, rows: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE articles (id bigint PRIMARY KEY, text text, topic text)")
        with connection.cursor().copy("COPY articles FROM STDIN") as copy:
            for number, text in enumerate(texts(rows)):
                copy.write_row((number, text, f"topic {number % 7}"))
        connection.execute("VACUUM ANALYZE articles")


def bare_loop(url: str, table: str, embedder: Embedder) -> float:
    """One thread: read, hash, embed, write, commit."""
    with psycopg.connect(url) as source, psycopg.connect(url) as target:
        target.execute(_FRESH.format(table).encode())
        target.commit()
        began = time.perf_counter()
        last = -1
        while True:
            page = source.execute(
                "SELECT id, text, topic FROM articles WHERE id > %s ORDER BY id LIMIT %s",
                (last, BATCH),
            ).fetchall()
            source.commit()
            if not page:
                return time.perf_counter() - began
            last = page[-1][0]
            vectors = embedder.embed_documents([row[1] for row in page])
            with target.cursor().copy(_COPY.format(table).encode()) as copy:
                copy.write(binary(page, vectors, embedder.model.fingerprint))
            target.commit()


def binary(page: Sequence[tuple[int, str, str]], vectors: Vectors, fingerprint: str) -> bytes:
    """The rows in PostgreSQL's binary COPY format."""
    dimensions = vectors.shape[1]
    head = struct.pack("!hh", dimensions, 0)
    floats = vectors.astype(">f4")
    parts = [b"PGCOPY\n\xff\r\n\0" + bytes(8)]
    for number, (id, text, topic) in enumerate(page):
        metadata = json.dumps({"topic": topic}, separators=(",", ":")).encode()
        values = (
            str(id).encode(),
            struct.pack("!i", 0),
            struct.pack("!q", 0),
            hashlib.sha256(text.encode()).digest()[:16],
            hashlib.sha256(metadata).digest()[:16],
            fingerprint.encode(),
            b"1",
            b"\x01" + metadata,
            head + floats[number].tobytes(),
        )
        parts.append(struct.pack("!h", len(values)))
        parts += (struct.pack("!i", len(value)) + value for value in values)
    parts.append(struct.pack("!h", -1))
    return b"".join(parts)


def phases(url: str) -> dict[str, float]:
    """Of the last run: seconds until its first and its last batch, and until it was ready."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT r.started_at, min(b.finished_at), max(b.finished_at), r.ready_at"
            " FROM embedmigrate.embedmigrate_run AS r JOIN embedmigrate.embedmigrate_batch AS b"
            " ON b.run_id = r.id GROUP BY r.id ORDER BY r.id DESC LIMIT 1"
        ).fetchone()
    assert row is not None
    started, *rest = row
    names = ("first batch", "last batch", "ready")
    return {name: round(at - started, 2) for name, at in zip(names, rest, strict=True)}


def live_table(url: str) -> tuple[int, int]:
    """Bytes of the live table with its indexes, and how many of its rows were ever rewritten."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(
            "SELECT pg_total_relation_size(relid), n_tup_upd + n_tup_del FROM pg_stat_user_tables"
            " WHERE relname = 'vectors_articles-0001'"
        ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


if __name__ == "__main__":
    np.seterr(all="raise")
    main()
