"""The command line: parse, call one function of ``embedmigrate.command``, print, set the status.

Standard output is for results, standard error for progress, logs and errors. Imports nothing heavy
before a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, NoReturn

import click

from embedmigrate.cli import (  # noqa: F401  registers the commands
    adopting,
    auditing,
    controlling,
    looking,
    models,
    moving,
    scripts,
    setup,
    syncing,
)
from embedmigrate.cli.root import cli
from embedmigrate.errors import EmbedMigrateError
from embedmigrate.logs import say

__all__ = ["cli", "main"]

_log = logging.getLogger(__name__)


def main() -> NoReturn:
    """Run the command line and exit with the contracted status."""
    shared: dict[str, Any] = {"logged": False, "command": "nothing"}
    started, status = time.monotonic(), 1
    try:
        status = _run(shared)
    finally:
        if shared["logged"]:
            facts = {"command": shared["command"], "exit_code": status}
            facts["seconds"] = round(time.monotonic() - started, 3)
            say(_log, logging.INFO, "command_ended", f"{shared['command']} ended", facts)
        for ending in reversed(shared.get("endings", [])):
            ending(status)
    sys.exit(status)


def _run(shared: dict[str, Any]) -> int:
    """Run the command; the status that it ends with, once what went wrong is told."""
    try:
        status = cli.main(standalone_mode=False, obj=shared)
    except EmbedMigrateError as error:
        _tell(shared, error.message, f"error: {error}", _facts(error))
        status = error.exit_code
    except click.ClickException as error:
        status = 2
        if shared["logged"]:
            _tell(shared, error.format_message(), "", {"exit_code": status})
        else:
            error.show()
    except (click.Abort, KeyboardInterrupt):
        status, said = 7, "interrupted; run the same command again to resume"
        _tell(shared, said, f"error: {said}", {"exit_code": status})
    except BrokenPipeError:
        status = 1
    except Exception:
        if not shared["logged"]:
            raise
        status = 1
        facts = {"exit_code": status}
        _log.exception("unexpected failure", extra={"event": "error", "fields": facts})
    return status if isinstance(status, int) else 0


def _tell(shared: dict[str, Any], message: str, shown: str, facts: dict[str, Any]) -> None:
    if shared["logged"]:
        say(_log, logging.ERROR, "error", message, facts)
    else:
        click.echo(shown, err=True)


def _facts(error: EmbedMigrateError) -> dict[str, Any]:
    said = {"found": error.found, "expected": error.expected, "next": error.next_step}
    return {
        "error": type(error).__name__,
        "exit_code": error.exit_code,
        **{key: str(value) for key, value in said.items() if value is not None},
    }
