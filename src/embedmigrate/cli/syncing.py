"""Keeping what is live up to date."""

from __future__ import annotations

import click

from embedmigrate import text
from embedmigrate.cli.root import (
    cli,
    json_option,
    print_result,
    settings_of,
    stop_is_fine,
    stop_ok_option,
    told_all_the_same,
    working,
    yes_option,
)


@cli.command(short_help="Bring what is live up to what its source is now.")
@click.argument("collections", nargs=-1)
@click.option("--follow", is_flag=True, help="Go on until stopped: the worker for production.")
@click.option(
    "--every",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0.05),
    help="With --follow: seconds between two looks.",
)
@click.option(
    "--compare-every",
    default=900.0,
    show_default=True,
    type=click.FloatRange(min=1),
    help="With --follow: seconds between two comparisons with a source that does not tell of its "
    "changes.",
)
@click.option("--compare", is_flag=True, help="Compare source and index as a whole in any case.")
@click.option(
    "--retry-failed", is_flag=True, help="Try documents again that could not be embedded."
)
@yes_option
@stop_ok_option
@json_option
@click.pass_context
def sync(
    context: click.Context,
    collections: tuple[str, ...],
    follow: bool,
    every: float,
    compare_every: float,
    compare: bool,
    retry_failed: bool,
    yes: bool,
    stop_ok: bool,
    as_json: bool,
) -> None:
    """Embed what changed in the sources of COLLECTIONS (all by default), with the pinned models.

    Safe beside an upgrade. Refuses a model that is not itself any more (exit 3).
    """
    from embedmigrate import command

    settings = settings_of(context)
    if follow and (compare or retry_failed or as_json):
        raise click.UsageError("--follow goes with none of --compare, --retry-failed and --json")
    with stop_is_fine(stop_ok), told_all_the_same(as_json, text.synced):
        if follow:
            command.follow(
                settings,
                collections,
                every=every,
                compare_every=compare_every,
                allow_mass_delete=yes,
                **working(context),
            )
            return
        result = command.sync(
            settings,
            collections,
            compare=compare,
            retry_failed=retry_failed,
            allow_mass_delete=yes,
            **working(context),
        )
        print_result(as_json, result, text.synced)


@cli.group()
def capture() -> None:
    """Have a source in SQL record its changes, by triggers."""


def _sql(context: click.Context, collection: str, *, remove: bool) -> None:
    from embedmigrate import command

    for statement in command.capture_sql(settings_of(context), collection, remove=remove):
        click.echo(f"{statement};")


_sql_option = click.option("--sql", is_flag=True, help="Print the statements and change nothing.")


@capture.command()
@click.argument("collection")
@_sql_option
@json_option
@click.pass_context
def install(context: click.Context, collection: str, sql: bool, as_json: bool) -> None:
    """Record the changes of the source of COLLECTION from now on."""
    from embedmigrate import command

    if sql:
        _sql(context, collection, remove=False)
        return
    print_result(as_json, command.capture_install(settings_of(context), collection), text.captured)


@capture.command()
@click.argument("collection")
@_sql_option
@json_option
@click.pass_context
def remove(context: click.Context, collection: str, sql: bool, as_json: bool) -> None:
    """Drop the triggers of COLLECTION and what they recorded."""
    from embedmigrate import command

    if sql:
        _sql(context, collection, remove=True)
        return
    print_result(as_json, command.capture_remove(settings_of(context), collection), text.captured)
