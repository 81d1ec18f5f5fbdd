"""Make the application's table and load documents into it, from one JSON object a line.

    python load.py ../data/corpus.jsonl

The database is that of DATABASE_URL.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import psycopg

SCHEMA = Path(__file__).with_name("schema.sql")
COPY = "COPY articles (id, title, body) FROM STDIN"
BEHIND_THEM = "SELECT setval(pg_get_serial_sequence('articles', 'id'), max(id)) FROM articles"


def main(path: str) -> None:
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        connection.execute(SCHEMA.read_bytes())
        with connection.cursor().copy(COPY) as copy:
            for line in Path(path).read_text("utf-8").splitlines():
                record = json.loads(line)
                copy.write_row((int(record["_id"]), record["title"], record["text"]))
        connection.execute(BEHIND_THEM)  # new documents get ids behind those that were loaded


if __name__ == "__main__":
    main(*sys.argv[1:])
