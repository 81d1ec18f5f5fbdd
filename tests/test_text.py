"""Results as text for people: one line stays one line, whatever an id or a reason holds."""

from __future__ import annotations

from typing import Any

import pytest

from embedmigrate import text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("doc-1", "doc-1"),
        ("naïve 文書", "naïve 文書"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("\u202egnirts", r"\u202egnirts"),
    ],
)
def test_what_would_move_the_cursor_or_colour_the_terminal_is_escaped(
    value: str, shown: str
) -> None:
    assert text.printable(value) == shown
    assert text.hits({"hits": [{"score": 0.5, "id": value, "chunk": 0}]}) == f"0.5000  {shown}"


def test_a_reason_of_two_lines_stays_on_the_line_of_its_index() -> None:
    shadow = {"model": "m", "assurance": "pinned", "index": "i", "container": "i"}
    entry: dict[str, Any] = {
        "collection": "articles",
        "revision": None,
        "live": None,
        "shadow": {**shadow, "state": "cancelled", "done": 1, "total": 2, "reason": "too\nslow"},
        "dead_letters": [],
        "retained": [],
        "runner": "host\x1b[31m",
        "request": {"wanted": "pause", "by": "ada", "at": 0.0, "reason": "too\nslow"},
        "waiting": "a\nqueue",
    }
    lines = text.status({"collections": [entry]}).splitlines()
    assert lines[2:] == [
        r"  shadow:   m in i, cancelled, 1 of 2 (too\nslow)",
        r"  runner:   host\x1b[31m",
        r"  waiting:  a\nqueue",
        r"  asked:    pause, by ada, 1970-01-01 00:00:00 UTC: too\nslow",
    ]
