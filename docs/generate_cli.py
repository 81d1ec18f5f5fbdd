"""Writes docs/cli.md: what ``--help`` prints, exit codes and JSON documents.

    python docs/generate_cli.py

A test compares the file with what the program prints, and the shapes below with what it answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from embedmigrate.cli import cli

PATH = Path(__file__).with_name("cli.md")
_WIDTH = 78  # what click uses in a terminal of 80 columns

_INTRODUCTION = """\
# Commands

This file is made by `docs/generate_cli.py` from what `embedmigrate --help` prints.

Results go to standard output, progress and errors to standard error. Every command that reports
takes `--json` and prints one JSON document then; everything else of it stays on standard error.
`python -m embedmigrate` is the same program.

Alembic's verbs keep Alembic's grammar. The default target is `heads`. Each collection is a branch
with its own label: `articles@head`, `articles@+1` and `articles@-1` name revisions of `articles`.
For `upgrade`, `cutover` and `plan` the bare name of a collection stands for its head. The beginning
of a revision id is enough where it is unique.

An error says what was found, what was expected and which command to type next:

```text
error: revision 3f9c2a1b77d0 of 'articles' was rolled back by a person
  found:    ada@search-1, 2025-03-01 08:12:40 UTC: worse on long queries
  expected: a person's decision to try again
  next:     embedmigrate upgrade 3f9c2a1b77d0 --again "reason"
```

## Exit codes

| code | means |
| --- | --- |
| 0 | done, or nothing to do; stopped where asked (`--until`, `pause`, a manual cut-over) |
| 1 | unexpected failure |
| 2 | usage; unknown collection or revision, ambiguous id |
| 3 | refused by a safety check; `check` or `verify` found a difference |
| 6 | documents that could not be embedded stop the cut-over |
| 7 | stopped by SIGTERM, Ctrl-C, a limit or a window: resumable (`--stop-ok` makes it 0) |
| 75 | temporary, try again later: another runner, a full disk, a busy catalog |
| 78 | configuration or script that cannot be loaded; references that are not pinned |

With several collections, one that fails does not keep the others from moving. The command ends with
the gravest code that occurred: 2 or 78, then 1, 3, 6, 7, 75, 0. What was done for the others is
printed all the same.

## Options of the program

They stand before the command: `embedmigrate -q upgrade`.
"""

_INDEX = {
    "index": "articles-0002",
    "container": "articles-0002",
    "fingerprint": "98efcc79…",
    "model": "minilm",
    "assurance": "pinned",
    "provenance": "built",
}
_WENT_BACK: dict[str, Any] = {
    "schema": 1,
    "collections": [
        {
            "collection": "articles",
            "undone": ["3f9c2a1b77d0"],
            "live": "articles-0001",
            "generation": 3,
            "reason": "worse on long queries",
        }
    ],
    "undone": ["3f9c2a1b77d0"],
}
_MOVED: dict[str, Any] = {
    "schema": 1,
    "collections": [
        {
            "collection": "articles",
            "revision": "3f9c2a1b77d0",
            "superseded": [],
            "model": "minilm@98efcc79…",
            "assurance": "pinned",
            "index": "articles-0002",
            "container": "articles-0002",
            "state": "ready",
            "error": None,
            "held": None,
            "live": True,
            "generation": 2,
            "total": 600,
            "done": 598,
            "skipped": 2,
            "failed": 0,
            "embedded": 596,
        }
    ],
    "applied": ["3f9c2a1b77d0"],
}

_REQUEST = {
    "wanted": "pause",
    "by": "ada@search-1",
    "at": 1740794413.2,
    "reason": "month-end closing",
}
_CONTROLLED: dict[str, Any] = {
    "schema": 1,
    "collections": [
        {
            "collection": "articles",
            "changed": True,
            "request": _REQUEST,
            "revision": "8d21b0c4e5f6",
            "state": "paused",
            "reason": "ada@search-1, 2025-03-01 02:00:13 UTC: month-end closing",
            "runner": None,
            "dropped": [],
        }
    ],
}

JSON: dict[str, dict[str, Any]] = {
    "cutover": _MOVED,
    "upgrade": _MOVED,
    "downgrade": _WENT_BACK,
    "rollback": _WENT_BACK,
    "status": {
        "schema": 1,
        "collections": [
            {
                "collection": "articles",
                "live": {
                    **_INDEX,
                    "generation": 2,
                    "documents": 598,
                    "lag": {"entries": 3, "seconds": 0.8},
                    "changes": "capture",
                    "compared_at": 1769904000.0,
                },
                "shadow": {
                    **_INDEX,
                    "state": "backfilling",
                    "revision": "8d21b0c4e5f6",
                    "done": 512,
                    "skipped": 0,
                    "failed": 0,
                    "total": 600,
                    "embedded": 512,
                    "reason": None,
                },
                "retained": [
                    {
                        **_INDEX,
                        "retained_at": 1740794413.2,
                        "state": "rolled_back",
                        "revision": "27d93df7c3cd",
                        "reason": "worse for Russian",
                    }
                ],
                "dead_letters": [
                    {
                        "index": "articles-0002",
                        "count": 1,
                        "documents": [
                            {
                                "document_id": "4711",
                                "chunk": 0,
                                "reason": "a vector without a direction",
                                "attempts": 2,
                                "seq": 17,
                                "first_at": 1740794413.2,
                                "last_at": 1740801122.9,
                            }
                        ],
                    }
                ],
                "revision": "3f9c2a1b77d0",
                "runner": "process 4711 on search-1",
                "follower": None,
                "request": _REQUEST,
                "waiting": "throttle URL of db-1 answers 429",
            }
        ],
    },
    "pause": _CONTROLLED,
    "resume": _CONTROLLED,
    "cancel": _CONTROLLED,
    "sync": {
        "schema": 1,
        "collections": [
            {
                "collection": "articles",
                "index": "articles-0002",
                "generation": 2,
                "changes": "capture",
                "written": 3,
                "metadata": 1,
                "deleted": 0,
                "unchanged": 0,
                "embedded": 3,
                "failed": 0,
                "lag": {"entries": 0, "seconds": 0.0},
            }
        ],
    },
    "capture install": {
        "schema": 1,
        "collection": "articles",
        "changed": True,
        "recording": True,
        "unseen": [],
    },
    "capture remove": {
        "schema": 1,
        "collection": "articles",
        "changed": True,
        "recording": False,
        "unseen": [],
    },
    "plan": {
        "schema": 1,
        "collections": [
            {
                "collection": "articles",
                "revision": "3f9c2a1b77d0",
                "superseded": [],
                "source": "54d8b5fe…",
                "target": "minilm@98efcc79…",
                "assurance": "pinned",
                "rebind": False,
                "query_prompt": "",
                "changes": "capture",
                "factory": "Flat",
                "chunker": None,
                "documents": 600,
                "vector_bytes": 921600,
            }
        ],
    },
    "verify": {
        "schema": 1,
        "holds": True,
        "collections": [
            {
                "collection": "articles",
                "index": "articles-0002",
                "holds": True,
                "failed": 1,
                "invariants": [
                    {
                        "invariant": 2,
                        "title": "no resurrection",
                        "holds": True,
                        "measured": {"orphan": 0},
                    }
                ],
            }
        ],
    },
    "check": {
        "schema": 1,
        "agrees": False,
        "collections": [
            {
                "collection": "articles",
                "differences": ["revision 3f9c2a1b77d0 is pending"],
                "next_step": "embedmigrate upgrade",
            }
        ],
        "scripts": ["revision 1ae2c07d55b1 was changed after it was applied"],
    },
    "contract": {
        "schema": 1,
        "collections": [{"collection": "articles", "dropped": ["articles-0001"]}],
    },
    "search": {
        "schema": 1,
        "collection": "articles",
        "generation": 2,
        "model": "minilm",
        "fingerprint": "98efcc79…",
        "index": "articles-0002",
        "hits": [{"id": "4983", "chunk": 0, "score": 0.7313, "metadata": {"topic": "law"}}],
    },
    "pin": {
        "schema": 1,
        "name": "minilm",
        "reference": "minilm@98efcc79…",
        "path": "migrations/models/minilm.98efcc79….json",
        "changed": True,
        "assurance": "pinned",
        "model": {"name": "minilm", "…": "the identity in full"},
        "effective": {"dimensions": 384, "unit_vectors": True},
        "package": None,
        "configure": None,
        "dated_name": None,
        "same_space_as": [],
        "witness": {
            "runtime": "onnxruntime 1.32",
            "processor": "x86_64/AuthenticAMD/avx512_vnni",
            "canaries": 48,
            "noise": 0.0,
            "batch_noise": 0.0,
            "detects": 1e-06,
            "detects_in_batches": 1e-06,
        },
    },
    "drift": {
        "schema": 1,
        "holds": True,
        "models": [
            {
                "model": "minilm",
                "reference": "minilm@98efcc79…",
                "assurance": "pinned",
                "runtime": "onnxruntime 1.32",
                "processor": "x86_64/AuthenticAMD/avx512_vnni",
                "record_added": False,
                "verdict": "OK",
                "reasons": [],
                "threshold": 1e-06,
                "largest": 2.8e-08,
                "median": 2.1e-08,
                "noise": 0.0,
                "dimensions": 384,
                "recorded_dimensions": 384,
                "moved": 0,
                "figures": [
                    {
                        "canary": "sentence-1",
                        "side": "document",
                        "distance": 1.7e-08,
                        "norm_ratio": 1.0,
                    }
                ],
                "neighbourhood": {"overlap": 1.0, "first_changes": 0.0, "finds_itself": 1.0},
                "known_platform": True,
                "compared_with": "onnxruntime 1.32 on x86_64/AuthenticAMD/avx512_vnni",
            }
        ],
    },
    "audit": {
        "schema": 1,
        "clean": True,
        "collections": [
            {
                "collection": "articles",
                "index": "articles-0002",
                "model": "minilm@98efcc79…",
                "assurance": "pinned",
                "provenance": "built",
                "adopted": None,
                "expected": "98efcc79…",
                "vectors": 598,
                "by_fingerprint": {"fingerprint": 598},
                "unknown": 0,
                "foreign": 0,
                "duplicate": 0,
                "missing": 0,
                "stale": 0,
                "metadata": 0,
                "orphaned": 0,
                "failed": 0,
                "proof": {
                    "sampled": 459,
                    "proven": 459,
                    "edited_since": 0,
                    "wrong": 0,
                    "wrong_ids": [],
                    "tolerance": 1e-05,
                    "largest_distance": 1.2e-07,
                    "confidence": 0.99,
                    "at_most_wrong": 0.00998,
                },
                "findings": [],
            }
        ],
    },
    "doctor": {
        "schema": 1,
        "well": False,
        "exit_code": 78,
        "observations": [
            {
                "what": "model minilm",
                "found": "model 'minilm' is not pinned",
                "trouble": "what was found, what was expected, what to type next",
                "exit_code": 78,
                "advice": None,
            }
        ],
    },
    "list-templates": {
        "schema": 1,
        "templates": [{"name": "default", "description": "Migration scripts of …"}],
    },
}
"""An example of the document that each command prints with ``--json``."""


def help_of(path: tuple[str, ...] = ()) -> str:
    """What ``embedmigrate PATH --help`` prints in a terminal of 80 columns."""
    command: click.Command = cli
    options = cli.context_settings["help_option_names"]
    context = click.Context(
        cli, info_name="embedmigrate", terminal_width=_WIDTH, help_option_names=options
    )
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
        context = click.Context(command, parent=context, info_name=name, terminal_width=_WIDTH)
    return command.get_help(context)


def paths() -> Iterator[tuple[str, ...]]:
    """Every command, and below a group those of the group."""
    for name, command in sorted(cli.commands.items()):
        yield (name,)
        if isinstance(command, click.Group):
            yield from ((name, below) for below in sorted(command.commands))


def render() -> str:
    """The whole of docs/cli.md."""
    parts = [_INTRODUCTION, f"```text\n{help_of()}\n```\n"]
    for path in paths():
        name = " ".join(path)
        parts.append(f"{'#' * (len(path) + 1)} {name}\n\n```text\n{help_of(path)}\n```\n")
        if name in JSON:
            example = json.dumps(JSON[name], indent=2, ensure_ascii=False)
            parts.append(f"With `--json`:\n\n```json\n{example}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PATH.write_text(render(), "utf-8")
