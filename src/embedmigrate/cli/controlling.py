"""Commands for a person while somebody else may be at work: pause, resume, cancel."""

from __future__ import annotations

import click

from embedmigrate import text
from embedmigrate.cli.root import (
    cli,
    json_option,
    print_result,
    reason_option,
    settings_of,
    told_all_the_same,
)


@cli.command(short_help="Leave COLLECTION where it is until it is resumed.")
@click.argument("collection")
@reason_option
@json_option
@click.pass_context
def pause(context: click.Context, collection: str, reason: str | None, as_json: bool) -> None:
    """Leave COLLECTION where it is until it is resumed.

    A runner that is at work on it, here or on another machine, checkpoints and ends with exit 0
    before its next model call. Until `resume` no `upgrade` does anything to the collection.
    """
    from embedmigrate import command

    result = command.pause(settings_of(context), collection, reason=reason)
    print_result(as_json, result, text.controlled)


@cli.command(short_help="Take a pause of COLLECTION back.")
@click.argument("collection")
@json_option
@click.pass_context
def resume(context: click.Context, collection: str, as_json: bool) -> None:
    """Take a pause of COLLECTION back; the next `upgrade` carries on where it was."""
    from embedmigrate import command

    print_result(as_json, command.resume(settings_of(context), collection), text.controlled)


@cli.command(short_help="Give up what is being built for COLLECTION.")
@click.argument("collection")
@reason_option
@click.option("--drop", is_flag=True, help="Remove its shadow, and whatever else is abandoned.")
@json_option
@click.pass_context
def cancel(
    context: click.Context, collection: str, reason: str | None, drop: bool, as_json: bool
) -> None:
    """Give up what is being built for COLLECTION. The live index is not touched.

    No `upgrade` takes it up again, but `upgrade REVISION --again "reason"`, which uses what is
    embedded already.
    """
    from embedmigrate import command

    with told_all_the_same(as_json, text.controlled):
        result = command.cancel(settings_of(context), collection, reason=reason, drop=drop)
        print_result(as_json, result, text.controlled)
