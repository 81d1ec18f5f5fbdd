"""The root command, and what the commands share: options, settings, printing, stopping."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embedmigrate import __version__, logs, text
from embedmigrate.errors import EmbedMigrateError, Stopped

if TYPE_CHECKING:
    from embedmigrate.config import Settings
    from embedmigrate.engine.job import Reporter

_log = logging.getLogger("embedmigrate.cli")


class _Program(click.Group):
    """Sets up what its options say before it looks for the command, which may not exist."""

    def invoke(self, context: click.Context) -> Any:
        shared, options = context.ensure_object(dict), context.params
        log: logs.Kind | None = options["log"] or ("text" if options["log_level"] else None)
        shared.update(options, logged=log is not None)
        end = logs.start(log, options["log_level"] or "info", warn_of_events=options["quiet"])
        at_end(context, lambda _status: end())
        return super().invoke(context)


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-c",
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Configuration file. Default: the nearest embedmigrate.toml, or pyproject.toml with "
    "[tool.embedmigrate], here or above.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress on standard error.")
@click.option(
    "--log",
    type=click.Choice(["text", "json"]),
    help="What happens as one line an event on standard error, in place of progress.",
)
@click.option(
    "--log-level",
    type=click.Choice(logs.LEVELS),
    help="Least level that is logged. Default: info. Alone, it means --log text.",
)
@click.option(
    "--metrics-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="PATH",
    help="Write metrics in the text format of Prometheus there, while a command works and when "
    "it ends.",
)
@click.version_option(__version__, prog_name="embedmigrate")
@click.pass_context
def cli(context: click.Context, /, **_options: object) -> None:
    """Versioned, verified migrations for embedding indexes."""
    context.obj["command"] = context.invoked_subcommand


def at_end(context: click.Context, ending: Callable[[int], None]) -> None:
    """Have ``ending`` called with the exit status when the program ends, the last one first."""
    context.obj.setdefault("endings", []).append(ending)


def settings_of(
    context: click.Context, *, allow_unpinned: bool = False, require_pins: bool = True
) -> Settings:
    from embedmigrate.config import load_settings

    settings = load_settings(
        context.obj["config"], allow_unpinned=allow_unpinned, require_pins=require_pins
    )
    context.obj["settings"] = settings
    return settings


def working(context: click.Context) -> dict[str, Any]:
    """The arguments of every command that works for long: a reporter and a way to stop.

    From now on metrics are written, where they are wanted. Call it behind ``settings_of``.
    """
    from embedmigrate import stopping

    stop_ok = context.params.get("stop_ok", False)
    reporter = _measured(context, reporter_of(context))
    stop, end = stopping.stop_on_signals(0 if stop_ok else Stopped.exit_code)
    context.call_on_close(end)
    return {"reporter": reporter, "stop": stop}


def reporter_of(context: click.Context) -> Reporter | None:
    from embedmigrate import progress

    return progress.reporter(quiet=context.obj["quiet"], logged=context.obj["logged"])


def _measured(context: click.Context, reporter: Reporter | None) -> Reporter | None:
    """``reporter`` with metrics behind it, if they are asked for."""
    settings, path = context.obj.get("settings"), context.obj["metrics_file"]
    if path is None and settings is not None and settings.general.metrics_file is not None:
        path = settings.root / settings.general.metrics_file
    if path is None or settings is None:
        return reporter
    from embedmigrate.metrics import metrics_file

    metrics = metrics_file(settings, path, context.obj["command"], reporter)
    metrics.start()
    at_end(context, metrics.end)
    return metrics.reporter


def tell(said: str) -> None:
    """One thing for a person on standard error, or for whoever reads the log."""
    if click.get_current_context().obj["logged"]:
        logs.say(_log, logging.INFO, "note", said, {})
    else:
        click.echo(said, err=True)


@contextmanager
def stop_is_fine(stop_ok: bool) -> Iterator[None]:
    try:
        yield
    except Stopped as stopped:
        if not stop_ok:
            raise
        tell(str(stopped))


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
