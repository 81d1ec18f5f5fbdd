"""URLs of PostgreSQL as the driver is given them."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict

from embedmigrate.postgres import conninfo, place


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://me@host/db", {"user": "me", "host": "host", "dbname": "db"}),
        ("postgres://host:5433/db", {"host": "host", "port": "5433", "dbname": "db"}),
        ("postgresql+psycopg:///db?host=/a%20b", {"host": "/a b", "dbname": "db"}),
        (
            "postgresql://me:p%40s%2Fs%20w'%5C+x@h/db",
            {"user": "me", "password": "p@s/s w'\\+x", "host": "h", "dbname": "db"},
        ),
        (
            "postgresql://h/db?sslmode=require&options=-c%20search_path%3Da",
            {"host": "h", "dbname": "db", "sslmode": "require", "options": "-c search_path=a"},
        ),
        ("postgresql:///db?host=a&host=b", {"host": "a,b", "dbname": "db"}),
    ],
)
def test_every_part_of_a_url_arrives_as_it_was_meant(url: str, expected: dict[str, str]) -> None:
    assert conninfo_to_dict(conninfo(url)) == expected
    assert "p@s" not in place(url)
