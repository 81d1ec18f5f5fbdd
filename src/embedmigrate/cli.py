"""The command line: parse, call one function of ``embedmigrate.command``, print, set the status.

Standard output is for results, standard error for progress and errors. Imports nothing heavy before
a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

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


# -- helpers ----------------------------------------------------------------------------------


def _settings(context: click.Context) -> Settings:
    from embedmigrate.config import load_settings

    return load_settings(context.obj["config"])


def _working(context: click.Context) -> dict[str, Any]:
    """The arguments of every command that works for long: a reporter and a way to stop."""
    from embedmigrate import progress, stopping

    stop_ok = context.params.get("stop_ok", False)
    stop, end = stopping.stop_on_signals(0 if stop_ok else Stopped.exit_code)
    context.call_on_close(end)
    return {"reporter": progress.reporter(quiet=context.obj["quiet"]), "stop": stop}


@contextmanager
def _stop_is_fine(stop_ok: bool) -> Iterator[None]:
    try:
        yield
    except Stopped as stopped:
        if not stop_ok:
            raise
        click.echo(str(stopped), err=True)


@contextmanager
def _told_all_the_same(as_json: bool) -> Iterator[None]:
    """Print what was done for some collections before the error of another one ends the command."""
    try:
        yield
    except EmbedMigrateError as error:
        if error.result is not None:
            _print(as_json, error.result, text.moved)
        raise


def _print(as_json: bool, result: Any, as_text: Callable[[Any], str]) -> None:
    if as_json:
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
    elif shown := as_text(result):
        click.echo(shown)


def _echo(output: str) -> None:
    if output:
        click.echo(output, nl=not output.endswith("\n"))


_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_verbose = click.option("-v", "--verbose", is_flag=True, help="Say more.")
_yes = click.option(
    "--yes", is_flag=True, help="Accept that a source lost more than a tenth of its documents."
)
_stop_ok = click.option("--stop-ok", is_flag=True, help="Exit 0, not 7, when stopped half-way.")
_reason = click.option("--reason", help="Why; recorded for ever.")
_now = click.option(
    "--now",
    is_flag=True,
    help="Switch first, catch up afterwards: readers may see old documents until then.",
)
_sql = click.option("--sql", is_flag=True, help="Show the steps as SQL comments; change nothing.")
_SQL_WARNING = "warning: SQL cannot embed, verify or switch; nothing was done"
_rebuild = click.option(
    "--rebuild", is_flag=True, help="Build the old index again if it was dropped."
)


# -- setting up -------------------------------------------------------------------------------


@cli.command(short_help="Make a scripts folder and a configuration.")
@click.argument("directory", default="migrations", type=click.Path(path_type=Path))
@click.option("-t", "--template", default="default", show_default=True, help="Template to copy.")
def init(directory: Path, template: str) -> None:
    """Make a scripts folder, and embedmigrate.toml unless there is one."""
    from embedmigrate import command
    from embedmigrate.config import FILE_NAME

    made = command.init(directory, template)
    for path in made:
        click.echo(path)
    if not made[-1].endswith(FILE_NAME):
        click.echo(f"kept the configuration: see that script_location is {directory}", err=True)


@cli.command("list-templates")
@_json
def list_templates(as_json: bool) -> None:
    """List the templates that init can copy."""
    from embedmigrate import command

    _print(
        as_json,
        {"schema": 1, "templates": command.list_templates()},
        lambda result: "\n".join(f"{t['name']}  {t['description']}" for t in result["templates"]),
    )


@cli.command(short_help="Resolve MODEL and write its pin file.")
@click.argument("model")
@_json
@click.pass_context
def pin(context: click.Context, model: str, as_json: bool) -> None:
    """Resolve MODEL to its exact identity and write its pin file."""
    from embedmigrate import command

    _print(
        as_json,
        command.pin(_settings(context), model),
        lambda result: (
            f"{result['reference']}\n{'wrote' if result['changed'] else 'kept'} {result['path']}"
        ),
    )


# -- scripts ----------------------------------------------------------------------------------


@cli.command()
@click.option("-m", "--message", help="What the revision does.")
@click.option("--collection", help="Write the re-embedding of this collection.")
@click.option("--to", help="Model to move to. Default: the one configured for the collection.")
@click.option("--head", help="Revision to build on. Default: the collection's head.")
@click.option("--splice", is_flag=True, help="Allow a head that is not one.")
@click.option("--branch-label", help="Label of a new branch. Default: the collection.")
@click.option("--rev-id", help="Revision id instead of a generated one.")
@click.option("--depends-on", multiple=True, help="Revision that must be applied before.")
@click.pass_context
def revision(context: click.Context, /, **options: Any) -> None:
    """Write a new revision script."""
    from embedmigrate import command

    click.echo(command.revision(_settings(context), **options))


@cli.command()
@click.argument("revisions", nargs=-1, required=True)
@click.option("-m", "--message", help="What the merge joins.")
@click.option("--branch-label", help="Label of the merged branch.")
@click.option("--rev-id", help="Revision id instead of a generated one.")
@click.pass_context
def merge(context: click.Context, /, revisions: tuple[str, ...], **options: Any) -> None:
    """Join heads of different collections."""
    from embedmigrate import command

    click.echo(command.merge(_settings(context), revisions, **options))


@cli.command()
@_verbose
@click.option("--check-heads", is_flag=True, help="Exit 3 unless every head is applied.")
@click.pass_context
def current(context: click.Context, verbose: bool, check_heads: bool) -> None:
    """Show the applied revisions."""
    from embedmigrate import command

    _echo(command.current(_settings(context), verbose=verbose, check_heads=check_heads))


@cli.command()
@click.option("-r", "--rev-range", help="[start]:[end]; also current.")
@_verbose
@click.option("-i", "--indicate-current", is_flag=True, help="Mark the applied revisions.")
@click.pass_context
def history(
    context: click.Context, rev_range: str | None, verbose: bool, indicate_current: bool
) -> None:
    """List the revisions, newest first."""
    from embedmigrate import command

    _echo(
        command.history(
            _settings(context), rev_range, verbose=verbose, indicate_current=indicate_current
        )
    )


@cli.command()
@_verbose
@click.option("--resolve-dependencies", is_flag=True, help="Treat depends_on as parents.")
@click.pass_context
def heads(context: click.Context, verbose: bool, resolve_dependencies: bool) -> None:
    """Show the heads of the scripts."""
    from embedmigrate import command

    _echo(
        command.heads(
            _settings(context), verbose=verbose, resolve_dependencies=resolve_dependencies
        )
    )


@cli.command()
@_verbose
@click.pass_context
def branches(context: click.Context, verbose: bool) -> None:
    """Show the branch points of the scripts."""
    from embedmigrate import command

    _echo(command.branches(_settings(context), verbose=verbose))


@cli.command()
@click.argument("revision")
@click.pass_context
def show(context: click.Context, revision: str) -> None:
    """Show one revision."""
    from embedmigrate import command

    _echo(command.show(_settings(context), revision))


@cli.command()
@click.argument("revision")
@click.pass_context
def edit(context: click.Context, revision: str) -> None:
    """Open a revision in $EDITOR."""
    from embedmigrate import command

    command.edit(_settings(context), revision)


@cli.command()
@click.argument("revisions", nargs=-1, required=True)
@click.option("--purge", is_flag=True, help="Delete all version rows first.")
@click.pass_context
def stamp(context: click.Context, revisions: tuple[str, ...], purge: bool) -> None:
    """Write version rows without moving anything."""
    from embedmigrate import command

    command.stamp(_settings(context), revisions, purge=purge)


@cli.command("ensure-version")
@click.pass_context
def ensure_version(context: click.Context) -> None:
    """Make the catalog and its version table unless they exist."""
    from embedmigrate import command

    command.ensure_version(_settings(context))


# -- moving -----------------------------------------------------------------------------------


@cli.command()
@click.argument("targets", nargs=-1)
@click.option("--until", type=click.Choice(["ready"]), help="Stop before the cut-over.")
@click.option("--again", metavar="REASON", help="Redo what a person rolled back or cancelled.")
@_sql
@_yes
@_stop_ok
@_json
@click.pass_context
def upgrade(
    context: click.Context,
    targets: tuple[str, ...],
    until: str | None,
    again: str | None,
    sql: bool,
    yes: bool,
    stop_ok: bool,
    as_json: bool,
) -> None:
    """Apply the pending revisions: embed, verify, cut over. Default target: heads."""
    from embedmigrate import command

    settings = _settings(context)
    if sql:
        if len(targets) > 1:
            raise click.UsageError("--sql takes one target, or a range START:END")
        click.echo(_SQL_WARNING, err=True)
        _echo(command.upgrade_sql(settings, *(targets or ("heads",))))
        return
    with _stop_is_fine(stop_ok), _told_all_the_same(as_json):
        result = command.upgrade(
            settings,
            targets or ("heads",),
            until_ready=until == "ready",
            again=again,
            allow_mass_delete=yes,
            **_working(context),
        )
        _print(as_json, result, text.moved)


@cli.command()
@click.argument("targets", nargs=-1)
@_stop_ok
@_json
@click.pass_context
def cutover(context: click.Context, targets: tuple[str, ...], stop_ok: bool, as_json: bool) -> None:
    """Cut over what `upgrade --until ready` prepared."""
    from embedmigrate import command

    with _stop_is_fine(stop_ok), _told_all_the_same(as_json):
        result = command.cutover(_settings(context), targets or ("heads",), **_working(context))
        _print(as_json, result, text.moved)


@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("target")
@_reason
@_now
@_rebuild
@_sql
@_yes
@_json
@click.pass_context
def downgrade(
    context: click.Context,
    target: str,
    reason: str | None,
    now: bool,
    rebuild: bool,
    sql: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Go back to TARGET, for example articles@-1."""
    from embedmigrate import command

    if sql:
        click.echo(_SQL_WARNING, err=True)
        _echo(command.downgrade_sql(_settings(context), target))
        return
    result = command.downgrade(
        _settings(context),
        target,
        reason=reason,
        now=now,
        rebuild=rebuild,
        allow_mass_delete=yes,
        **_working(context),
    )
    _print(as_json, result, text.went_back)


@cli.command(short_help="Undo the last cut-over of COLLECTION.")
@click.argument("collection")
@_reason
@_now
@_rebuild
@_yes
@_json
@click.pass_context
def rollback(
    context: click.Context,
    collection: str,
    reason: str | None,
    now: bool,
    rebuild: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Undo the last cut-over of COLLECTION; works without the scripts, too."""
    from embedmigrate import command

    result = command.rollback(
        _settings(context),
        collection,
        reason=reason,
        now=now,
        rebuild=rebuild,
        allow_mass_delete=yes,
        **_working(context),
    )
    _print(as_json, result, text.went_back)


@cli.command()
@click.argument("collection", required=False)
@_json
@click.pass_context
def contract(context: click.Context, collection: str | None, as_json: bool) -> None:
    """Drop retained indexes whose grace is over."""
    from embedmigrate import command

    _print(
        as_json,
        command.contract(_settings(context), collection),
        lambda result: "\n".join(
            f"{entry['collection']}: dropped {', '.join(entry['dropped']) or 'nothing'}"
            for entry in result["collections"]
        ),
    )


# -- looking ----------------------------------------------------------------------------------


@cli.command()
@click.argument("targets", nargs=-1)
@_json
@click.pass_context
def plan(context: click.Context, targets: tuple[str, ...], as_json: bool) -> None:
    """Show what upgrade would do."""
    from embedmigrate import command

    _print(as_json, command.plan(_settings(context), targets or ("heads",)), text.planned)


@cli.command()
@_json
@click.pass_context
def status(context: click.Context, as_json: bool) -> None:
    """Show every collection: live, being built, retained."""
    from embedmigrate import command

    _print(as_json, command.status(_settings(context)), text.status)


@cli.command(short_help="Is this index whole? Exit 3 if not.")
@click.argument("collection", required=False)
@click.option("--index", help="Index to verify. Default: the live one.")
@_json
@click.pass_context
def verify(context: click.Context, collection: str | None, index: str | None, as_json: bool) -> int:
    """Is this index whole? Measures invariants 1 to 7; exit 3 if one does not hold."""
    from embedmigrate import command, progress

    result = command.verify(
        _settings(context),
        collection,
        index=index,
        reporter=progress.reporter(quiet=context.obj["quiet"]),
    )
    _print(as_json, result, text.verified)
    return 0 if result["holds"] else 3


@cli.command(short_help="Do configuration, scripts and catalog agree?")
@_json
@click.pass_context
def check(context: click.Context, as_json: bool) -> int:
    """Do configuration, scripts and catalog agree? Exit 3 if not."""
    from embedmigrate import command

    result = command.check(_settings(context))
    _print(
        as_json,
        result,
        lambda found: "\n".join(
            f"{entry['collection']}: {'; '.join(entry['differences']) or 'agrees'}"
            for entry in found["collections"]
        ),
    )
    return 0 if result["agrees"] else 3


@cli.command()
@click.argument("collection")
@click.argument("query", metavar="TEXT")
@click.option("-k", default=10, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--filter", "filters", multiple=True, metavar="FIELD=VALUE", help="Metadata filter.")
@_json
@click.pass_context
def search(
    context: click.Context,
    collection: str,
    query: str,
    k: int,
    filters: tuple[str, ...],
    as_json: bool,
) -> None:
    """Search COLLECTION as an application would."""
    from embedmigrate import command

    result = command.search(_settings(context), collection, query, k, _filter(filters))
    _print(
        as_json,
        result,
        lambda found: "\n".join(f"{hit['score']:.4f}  {hit['id']}" for hit in found["hits"]),
    )


def _filter(filters: tuple[str, ...]) -> dict[str, Any] | None:
    """``field=value``, the value as JSON where it is JSON, else as text."""
    parsed: dict[str, Any] = {}
    for item in filters:
        field, equals, value = item.partition("=")
        if not equals or not field:
            raise click.UsageError(f"--filter takes FIELD=VALUE, found {field!r}")
        try:
            parsed[field] = json.loads(value)
        except json.JSONDecodeError:
            parsed[field] = value
    return parsed or None
