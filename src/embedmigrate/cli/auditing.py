"""Commands about what is really stored."""

from __future__ import annotations

import click

from embedmigrate import text
from embedmigrate.cli.root import cli, json_option, print_result, settings_of


@cli.command(short_help="What is really in the store? Exit 3 on any finding.")
@click.argument("collection")
@click.option("--index", help="Index to audit. Default: the live one.")
@click.option(
    "--confidence",
    default=0.99,
    show_default=True,
    type=click.FloatRange(0.5, 1, max_open=True),
    help="Chance that the sample finds a wrong part of the size of --share.",
)
@click.option(
    "--share",
    default=0.01,
    show_default=True,
    type=click.FloatRange(0, 0.5, min_open=True),
    help="Smallest wrong part that the sample is to find.",
)
@click.option("--no-embed", is_flag=True, help="Count only: prove nothing by embedding again.")
@json_option
@click.pass_context
def audit(
    context: click.Context,
    collection: str,
    index: str | None,
    confidence: float,
    share: float,
    no_embed: bool,
    as_json: bool,
) -> int:
    """What is really in the store of COLLECTION? Exit 3 on any finding.

    Counts stamps, ids and hashes in the store itself, and embeds a sample again: as large as it
    takes to find a wrong part of --share with --confidence (459 vectors for 1 % and 99 %).
    """
    from embedmigrate import command, progress

    result = command.audit(
        settings_of(context),
        collection,
        index=index,
        confidence=confidence,
        share=share,
        embed=not no_embed,
        reporter=progress.reporter(quiet=context.obj["quiet"]),
    )
    print_result(as_json, result, text.audited)
    return 0 if result["clean"] else 3
