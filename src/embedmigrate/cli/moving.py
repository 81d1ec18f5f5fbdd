"""Commands that move collections, forward and back."""

from __future__ import annotations

import click

from embedmigrate import text
from embedmigrate.cli.root import (
    SQL_WARNING,
    cli,
    echo,
    json_option,
    now_option,
    print_result,
    reason_option,
    rebuild_option,
    settings_of,
    sql_option,
    stop_is_fine,
    stop_ok_option,
    told_all_the_same,
    working,
    yes_option,
)


@cli.command(short_help="Apply the pending revisions: embed, verify, cut over.")
@click.argument("targets", nargs=-1)
@click.option("--until", type=click.Choice(["ready"]), help="Stop before the cut-over.")
@click.option(
    "--retry-failed", is_flag=True, help="Try documents again that could not be embedded."
)
@click.option("--again", metavar="REASON", help="Redo what a person rolled back or cancelled.")
@click.option(
    "--max-minutes",
    type=click.FloatRange(0, min_open=True),
    metavar="N",
    help="Stop after N minutes, with exit 7; the same command resumes.",
)
@click.option(
    "--window",
    metavar="HOURS",
    help='Work in these hours only, for example "01:00-05:00 Europe/Berlin"; by the clock of this '
    "machine if no zone is named. Exit 7 outside them, and when they end.",
)
@sql_option
@yes_option
@stop_ok_option
@json_option
@click.pass_context
def upgrade(
    context: click.Context,
    targets: tuple[str, ...],
    until: str | None,
    retry_failed: bool,
    again: str | None,
    max_minutes: float | None,
    window: str | None,
    sql: bool,
    yes: bool,
    stop_ok: bool,
    as_json: bool,
) -> None:
    """Apply the pending revisions: embed, verify, cut over. Default target: heads.

    A collection that is paused is left as it is, and one with `cutover = "manual"` is made ready
    and left to the command `cutover`; both say so, and exit 0.
    """
    from embedmigrate import command

    settings = settings_of(context)
    if sql:
        if len(targets) > 1:
            raise click.UsageError("--sql takes one target, or a range START:END")
        click.echo(SQL_WARNING, err=True)
        echo(command.upgrade_sql(settings, *(targets or ("heads",))))
        return
    with stop_is_fine(stop_ok), told_all_the_same(as_json):
        result = command.upgrade(
            settings,
            targets or ("heads",),
            until_ready=until == "ready",
            again=again,
            allow_mass_delete=yes,
            max_minutes=max_minutes,
            window=window,
            retry_failed=retry_failed,
            **working(context),
        )
        print_result(as_json, result, text.moved)


@cli.command()
@click.argument("targets", nargs=-1)
@stop_ok_option
@json_option
@click.pass_context
def cutover(context: click.Context, targets: tuple[str, ...], stop_ok: bool, as_json: bool) -> None:
    """Cut over what `upgrade --until ready` prepared."""
    from embedmigrate import command

    with stop_is_fine(stop_ok), told_all_the_same(as_json):
        result = command.cutover(settings_of(context), targets or ("heads",), **working(context))
        print_result(as_json, result, text.moved)


@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("target")
@reason_option
@now_option
@rebuild_option
@sql_option
@yes_option
@json_option
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
        click.echo(SQL_WARNING, err=True)
        echo(command.downgrade_sql(settings_of(context), target))
        return
    result = command.downgrade(
        settings_of(context),
        target,
        reason=reason,
        now=now,
        rebuild=rebuild,
        allow_mass_delete=yes,
        **working(context),
    )
    print_result(as_json, result, text.went_back)


@cli.command(short_help="Undo the last cut-over of COLLECTION.")
@click.argument("collection")
@reason_option
@now_option
@rebuild_option
@yes_option
@json_option
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
        settings_of(context),
        collection,
        reason=reason,
        now=now,
        rebuild=rebuild,
        allow_mass_delete=yes,
        **working(context),
    )
    print_result(as_json, result, text.went_back)


@cli.command()
@click.argument("collection", required=False)
@click.option(
    "--abandoned",
    is_flag=True,
    help="Drop shadows as well that nobody is going to finish: cancelled, failed, passed over.",
)
@json_option
@click.pass_context
def contract(
    context: click.Context, collection: str | None, abandoned: bool, as_json: bool
) -> None:
    """Drop retained indexes whose grace is over."""
    from embedmigrate import command

    print_result(
        as_json,
        command.contract(settings_of(context), collection, abandoned=abandoned),
        lambda result: "\n".join(
            f"{entry['collection']}: dropped {', '.join(entry['dropped']) or 'nothing'}"
            for entry in result["collections"]
        ),
    )
