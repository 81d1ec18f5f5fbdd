"""Commands about what is really stored."""

from __future__ import annotations

from pathlib import Path

import click

from embedmigrate import text
from embedmigrate.cli.root import (
    cli,
    confidence_option,
    json_option,
    print_result,
    reporter_of,
    settings_of,
    share_option,
    working,
)


@cli.command(short_help="What is really in the store? Exit 3 on any finding.")
@click.argument("collection")
@click.option("--index", help="Index to audit. Default: the live one.")
@confidence_option
@share_option
@click.option("--no-embed", is_flag=True, help="Count only: prove nothing by embedding again.")
@click.option(
    "--attribute", is_flag=True, help="Say which model and recipe made the vectors, or none."
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="MODEL",
    help="With --attribute: a model to try. Default: every pinned one of this dimension.",
)
@click.option(
    "--faiss",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With --attribute: a FAISS file of unknown origin, in place of an index of ours.",
)
@click.option(
    "--ids",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With --faiss: its id list (JSON, one id a line, or .npy).",
)
@click.option("--seed", type=int, help="With --attribute: draw the same sample again.")
@json_option
@click.pass_context
def audit(
    context: click.Context,
    collection: str,
    index: str | None,
    confidence: float,
    share: float,
    no_embed: bool,
    attribute: bool,
    models: tuple[str, ...],
    faiss: Path | None,
    ids: Path | None,
    seed: int | None,
    as_json: bool,
) -> int:
    """What is really in the store of COLLECTION? Exit 3 on any finding.

    Counts stamps, ids and hashes in the store itself, and embeds a sample again: as large as it
    takes to find a wrong part of --share with --confidence (459 vectors for 1 % and 99 %). With
    --attribute, stamps are not looked at: each sampled vector is compared with what every candidate
    model makes of its document, by the common recipes.
    """
    from embedmigrate import command

    if (faiss is None) != (ids is None):
        raise click.UsageError("--faiss and --ids belong together")
    if not attribute and (models or faiss):
        raise click.UsageError("--model, --faiss and --ids need --attribute")
    if attribute:
        found = command.attribute(
            settings_of(context),
            collection,
            models=models,
            index=index,
            foreign=None if faiss is None or ids is None else (faiss, ids),
            confidence=confidence,
            share=share,
            seed=seed,
            **working(context),
        )
        print_result(as_json, found, text.attributed)
        return 0 if found["clean"] else 3
    result = command.audit(
        settings_of(context),
        collection,
        index=index,
        confidence=confidence,
        share=share,
        embed=not no_embed,
        reporter=reporter_of(context),
    )
    print_result(as_json, result, text.audited)
    return 0 if result["clean"] else 3
