"""Commands that set a project up."""

from __future__ import annotations

from pathlib import Path

import click

from embedmigrate import text
from embedmigrate.cli.root import (
    cli,
    json_option,
    print_result,
    settings_of,
    tell,
)


@cli.command(short_help="Make a scripts folder and a configuration.")
@click.argument("directory", default="migrations", type=click.Path(path_type=Path))
@click.option("-t", "--template", default="default", show_default=True, help="Template to copy.")
@click.pass_context
def init(context: click.Context, directory: Path, template: str) -> None:
    """Make a scripts folder, and embedmigrate.toml unless there is one.

    Then says what to do next, unless the configuration was there already.
    """
    from embedmigrate import command
    from embedmigrate.config import FILE_NAME

    made = command.init(directory, template)
    for path in made:
        click.echo(path)
    if not made[-1].endswith(FILE_NAME):
        tell(f"kept the configuration: see that script_location is {directory}")
    elif not context.obj["quiet"]:
        tell(command.first_steps(template))


@cli.command("list-templates")
@json_option
def list_templates(as_json: bool) -> None:
    """List the templates that init can copy."""
    from embedmigrate import command

    print_result(
        as_json,
        {"schema": 1, "templates": command.list_templates()},
        lambda result: "\n".join(f"{t['name']}  {t['description']}" for t in result["templates"]),
    )


@cli.command(short_help="Would the other commands find what they need here?")
@click.option(
    "--rebuild-catalog",
    is_flag=True,
    help="Show what a lost catalog would be, made from the indexes and the scripts.",
)
@click.option("--yes", is_flag=True, help="With --rebuild-catalog: make it.")
@click.option(
    "--applied",
    multiple=True,
    metavar="REVISION",
    help="With --rebuild-catalog: a last revision that was applied, where indexes do not tell.",
)
@click.option(
    "--catalog-id",
    metavar="ID",
    help="With --rebuild-catalog: which catalog, where indexes name several.",
)
@json_option
@click.pass_context
def doctor(
    context: click.Context,
    rebuild_catalog: bool,
    yes: bool,
    applied: tuple[str, ...],
    catalog_id: str | None,
    as_json: bool,
) -> int:
    """Would the other commands find what they need here? Says what is in the way, and the way out.

    Accepts models that are not pinned, and says which and why. Exits with the status that the
    first trouble gives another command. Changes nothing, except with --rebuild-catalog --yes: for
    a catalog that is gone, or an older copy, which is kept beside the new one.
    """
    from embedmigrate import command

    if not rebuild_catalog and (yes or applied or catalog_id):
        raise click.UsageError("--yes, --applied and --catalog-id need --rebuild-catalog")
    settings = settings_of(context, allow_unpinned=True)
    if rebuild_catalog:
        rebuilt = command.rebuild_catalog(settings, yes=yes, applied=applied, catalog_id=catalog_id)
        print_result(as_json, rebuilt, text.rebuilt)
        return 0
    result = command.doctor(settings)
    print_result(as_json, result, text.observed)
    return int(result["exit_code"])
