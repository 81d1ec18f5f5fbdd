"""The command line: parse, call one function of ``embedmigrate.command``, print, set the status.

Standard output is for results, standard error for progress and errors. Imports nothing heavy before
a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from typing import NoReturn

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

__all__ = ["cli", "main"]


def main() -> NoReturn:
    """Run the command line and exit with the contracted status."""
    try:
        status = cli.main(standalone_mode=False)
    except EmbedMigrateError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("error: interrupted; run the same command again to resume", err=True)
        sys.exit(7)
    except BrokenPipeError:
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)
