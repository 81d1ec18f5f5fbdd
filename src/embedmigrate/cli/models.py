"""Commands about models: what they are, and whether they still are."""

from __future__ import annotations

import click

from embedmigrate import text
from embedmigrate.cli.root import cli, json_option, print_result, reporter_of, settings_of


@cli.command(short_help="Resolve MODEL, measure it, write its pin file.")
@click.argument("model")
@click.option(
    "--new-witness",
    is_flag=True,
    help="Make a new model of one that behaves otherwise than when it was pinned.",
)
@click.option(
    "--vendor",
    metavar="DIR",
    help="Copy the model's files into a folder of their own below DIR, in the project, and load "
    "it from there alone.",
)
@click.option(
    "--restore",
    is_flag=True,
    help="Only make the vendored copy whole again, from where the model is configured to lie.",
)
@json_option
@click.pass_context
def pin(
    context: click.Context,
    model: str,
    new_witness: bool,
    vendor: str | None,
    restore: bool,
    as_json: bool,
) -> None:
    """Resolve MODEL to its exact identity, measure its witness and write its pin file."""
    from embedmigrate import command

    settings = settings_of(context, allow_unpinned=True)
    if not restore:
        result = command.pin(settings, model, new_witness=new_witness, vendor=vendor)
        print_result(as_json, result, text.pinned)
    elif vendor or new_witness:
        raise click.UsageError("--restore puts back what was pinned: it goes with no other option")
    else:
        print_result(as_json, command.restore(settings, model), text.restored)


@cli.command(short_help="Is the model still itself? Exit 3 if not.")
@click.argument("model", required=False)
@json_option
@click.pass_context
def drift(context: click.Context, model: str | None, as_json: bool) -> int:
    """Is the model still itself? Compares its answers to the canaries with those recorded.

    Without MODEL, every pinned one. OK, WARN (no record of this platform yet) or DRIFT; exit 3 on
    DRIFT.
    """
    from embedmigrate import command

    result = command.drift(settings_of(context), model, reporter=reporter_of(context))
    print_result(as_json, result, text.drifted)
    return 0 if result["holds"] else 3
