"""Commands that only look."""

from __future__ import annotations

import json
from typing import Any

import click

from embedmigrate import text
from embedmigrate.cli.root import (
    cli,
    json_option,
    print_result,
    reporter_of,
    settings_of,
    told_all_the_same,
)


@cli.command()
@click.argument("targets", nargs=-1)
@json_option
@click.pass_context
def plan(context: click.Context, targets: tuple[str, ...], as_json: bool) -> None:
    """Show what upgrade would do."""
    from embedmigrate import command

    print_result(as_json, command.plan(settings_of(context), targets or ("heads",)), text.planned)


@cli.command()
@json_option
@click.pass_context
def status(context: click.Context, as_json: bool) -> None:
    """Show every collection: live, being built, retained."""
    from embedmigrate import command

    print_result(as_json, command.status(settings_of(context)), text.status)


@cli.command(short_help="Is this index whole? Exit 3 if not.")
@click.argument("collection", required=False)
@click.option("--index", help="Index to verify. Default: the live one.")
@json_option
@click.pass_context
def verify(context: click.Context, collection: str | None, index: str | None, as_json: bool) -> int:
    """Is this index whole? Measures invariants 1 to 7; exit 3 if one does not hold."""
    from embedmigrate import command

    result = command.verify(
        settings_of(context),
        collection,
        index=index,
        reporter=reporter_of(context),
    )
    print_result(as_json, result, text.verified)
    return 0 if result["holds"] else 3


@cli.command(short_help="Do configuration, scripts and catalog agree?")
@click.option(
    "--policy",
    is_flag=True,
    help="May this repository be merged? Needs no catalog, store, model or network.",
)
@click.option(
    "--freeze",
    is_flag=True,
    help="With --policy: record scripts as applied that applied.json does not name yet.",
)
@click.option(
    "--serving",
    is_flag=True,
    help="Is what is live sound? For readiness probes: pending revisions have no part in it.",
)
@json_option
@click.pass_context
def check(context: click.Context, policy: bool, freeze: bool, serving: bool, as_json: bool) -> int:
    """Do configuration, scripts and catalog agree? Exit 3 if not; a pending revision is enough."""
    from embedmigrate import command

    if freeze and not policy:
        raise click.UsageError("--freeze needs --policy")
    if serving and policy:
        raise click.UsageError("--serving and --policy are two questions: ask one")
    if serving:
        result = command.check_serving(settings_of(context))
        print_result(as_json, result, text.health)
        return 0 if result["sound"] else 3
    if policy:
        with told_all_the_same(as_json, text.policy):
            settings = settings_of(context, require_pins=False)  # that is one of its rules
            result = command.check_policy(settings, freeze=freeze)
        print_result(as_json, result, text.policy)
    else:
        result = command.check(settings_of(context))
        print_result(as_json, result, text.checked)
    return 0 if result["agrees"] else 3


@cli.command()
@click.argument("collection")
@click.argument("query", metavar="TEXT")
@click.option("-k", default=10, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--filter", "filters", multiple=True, metavar="FIELD=VALUE", help="Metadata filter.")
@json_option
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

    result = command.search(settings_of(context), collection, query, k, _filter(filters))
    print_result(as_json, result, text.hits)


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
