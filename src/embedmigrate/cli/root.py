"""The root command, and what the commands share: options, settings, printing, stopping."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embedmigrate import __version__, text
from embedmigrate.errors import EmbedMigrateError, Stopped

if TYPE_CHECKING:
    from embedmigrate.config import Settings


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-c",
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Configuration file. Default: the nearest embedmigrate.toml, or pyproject.toml with "
    "[tool.embedmigrate], here or above.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress on standard error.")
@click.version_option(__version__, prog_name="embedmigrate")
@click.pass_context
def cli(context: click.Context, config: Path | None, quiet: bool) -> None:
    """Versioned, verified migrations for embedding indexes."""
    context.obj = {"config": config, "quiet": quiet}


def settings_of(
    context: click.Context, *, allow_unpinned: bool = False, require_pins: bool = True
) -> Settings:
    from embedmigrate.config import load_settings

    return load_settings(
        context.obj["config"], allow_unpinned=allow_unpinned, require_pins=require_pins
    )


def working(context: click.Context) -> dict[str, Any]:
    """The arguments of every command that works for long: a reporter and a way to stop."""
    from embedmigrate import progress, stopping

    stop_ok = context.params.get("stop_ok", False)
    stop, end = stopping.stop_on_signals(0 if stop_ok else Stopped.exit_code)
    context.call_on_close(end)
    return {"reporter": progress.reporter(quiet=context.obj["quiet"]), "stop": stop}


@contextmanager
def stop_is_fine(stop_ok: bool) -> Iterator[None]:
    try:
        yield
    except Stopped as stopped:
        if not stop_ok:
            raise
        click.echo(str(stopped), err=True)


@contextmanager
def told_all_the_same(as_json: bool, as_text: Callable[[Any], str] = text.moved) -> Iterator[None]:
    """Print what was done, or found, all the same before an error ends the command."""
    try:
        yield
    except EmbedMigrateError as error:
        if error.result is not None:
            print_result(as_json, error.result, as_text)
        raise


def print_result(as_json: bool, result: Any, as_text: Callable[[Any], str]) -> None:
    if as_json:
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
    elif shown := as_text(result):
        click.echo(shown)


def echo(output: str) -> None:
    if output:
        click.echo(output, nl=not output.endswith("\n"))


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
verbose_option = click.option("-v", "--verbose", is_flag=True, help="Say more.")
yes_option = click.option(
    "--yes",
    is_flag=True,
    help="Accept that a source lost more than a tenth of its documents, or that a model cannot "
    "embed as many.",
)
stop_ok_option = click.option(
    "--stop-ok", is_flag=True, help="Exit 0, not 7, when stopped half-way."
)
reason_option = click.option("--reason", help="Why; recorded for ever.")
now_option = click.option(
    "--now",
    is_flag=True,
    help="Switch first, catch up afterwards: readers may see old documents until then.",
)
sql_option = click.option(
    "--sql", is_flag=True, help="Show the steps as SQL comments; change nothing."
)
SQL_WARNING = "warning: SQL cannot embed, verify or switch; nothing was done"
rebuild_option = click.option(
    "--rebuild", is_flag=True, help="Build the old index again if it was dropped."
)
confidence_option = click.option(
    "--confidence",
    default=0.99,
    show_default=True,
    type=click.FloatRange(0.5, 1, max_open=True),
    help="Chance that the sample finds a wrong part of the size of --share.",
)
share_option = click.option(
    "--share",
    default=0.01,
    show_default=True,
    type=click.FloatRange(0, 0.5, min_open=True),
    help="Smallest wrong part that the sample is to find.",
)
