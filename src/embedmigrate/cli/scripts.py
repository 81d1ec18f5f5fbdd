"""Alembic's verbs."""

from __future__ import annotations

from typing import Any

import click

from embedmigrate.cli.root import (
    cli,
    echo,
    settings_of,
    verbose_option,
)


@cli.command()
@click.option("-m", "--message", help="What the revision does.")
@click.option("--collection", help="Write the move of this collection.")
@click.option("--to", help="Model to move to. Default: the one configured for the collection.")
@click.option(
    "--rebind/--no-rebind",
    default=None,
    help="Keep the vectors, as the model spans the same space (default: if only queries change); "
    "or embed anew, even with the same model.",
)
@click.option("--head", help="Revision to build on. Default: the collection's head.")
@click.option("--splice", is_flag=True, help="Allow a head that is not one.")
@click.option("--branch-label", help="Label of a new branch. Default: the collection.")
@click.option("--rev-id", help="Revision id instead of a generated one.")
@click.option("--depends-on", multiple=True, help="Revision that must be applied before.")
@click.pass_context
def revision(context: click.Context, /, **options: Any) -> None:
    """Write a new revision script."""
    from embedmigrate import command

    click.echo(command.revision(settings_of(context), **options))


@cli.command()
@click.argument("revisions", nargs=-1, required=True)
@click.option("-m", "--message", help="What the merge joins.")
@click.option("--branch-label", help="Label of the merged branch.")
@click.option("--rev-id", help="Revision id instead of a generated one.")
@click.pass_context
def merge(context: click.Context, /, revisions: tuple[str, ...], **options: Any) -> None:
    """Join heads of different collections."""
    from embedmigrate import command

    click.echo(command.merge(settings_of(context), revisions, **options))


@cli.command()
@verbose_option
@click.option("--check-heads", is_flag=True, help="Exit 3 unless every head is applied.")
@click.pass_context
def current(context: click.Context, verbose: bool, check_heads: bool) -> None:
    """Show the applied revisions."""
    from embedmigrate import command

    echo(command.current(settings_of(context), verbose=verbose, check_heads=check_heads))


@cli.command()
@click.option("-r", "--rev-range", help="[start]:[end]; also current.")
@verbose_option
@click.option("-i", "--indicate-current", is_flag=True, help="Mark the applied revisions.")
@click.pass_context
def history(
    context: click.Context, rev_range: str | None, verbose: bool, indicate_current: bool
) -> None:
    """List the revisions, newest first."""
    from embedmigrate import command

    echo(
        command.history(
            settings_of(context), rev_range, verbose=verbose, indicate_current=indicate_current
        )
    )


@cli.command()
@verbose_option
@click.option("--resolve-dependencies", is_flag=True, help="Treat depends_on as parents.")
@click.pass_context
def heads(context: click.Context, verbose: bool, resolve_dependencies: bool) -> None:
    """Show the heads of the scripts."""
    from embedmigrate import command

    echo(
        command.heads(
            settings_of(context), verbose=verbose, resolve_dependencies=resolve_dependencies
        )
    )


@cli.command()
@verbose_option
@click.pass_context
def branches(context: click.Context, verbose: bool) -> None:
    """Show the branch points of the scripts."""
    from embedmigrate import command

    echo(command.branches(settings_of(context), verbose=verbose))


@cli.command()
@click.argument("revision")
@click.pass_context
def show(context: click.Context, revision: str) -> None:
    """Show one revision."""
    from embedmigrate import command

    echo(command.show(settings_of(context), revision))


@cli.command()
@click.argument("revision")
@click.pass_context
def edit(context: click.Context, revision: str) -> None:
    """Open a revision in $EDITOR."""
    from embedmigrate import command

    command.edit(settings_of(context), revision)


@cli.command()
@click.argument("revisions", nargs=-1, required=True)
@click.option("--purge", is_flag=True, help="Delete all version rows first.")
@click.pass_context
def stamp(context: click.Context, revisions: tuple[str, ...], purge: bool) -> None:
    """Write version rows without moving anything."""
    from embedmigrate import command

    command.stamp(settings_of(context), revisions, purge=purge)


@cli.command("ensure-version")
@click.pass_context
def ensure_version(context: click.Context) -> None:
    """Make the catalog and its version table unless they exist."""
    from embedmigrate import command

    command.ensure_version(settings_of(context))
