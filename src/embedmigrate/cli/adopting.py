"""Taking over what somebody else made."""

from __future__ import annotations

from pathlib import Path

import click

from embedmigrate import text
from embedmigrate.cli.root import (
    cli,
    confidence_option,
    json_option,
    print_result,
    settings_of,
    share_option,
    working,
)


@cli.command(short_help="Take an existing FAISS index as the first live index.")
@click.argument("collection")
@click.option("--model", required=True, help="Pinned model that made its vectors.")
@click.option(
    "--index",
    required=True,
    type=click.Path(path_type=Path),
    help="File that faiss.write_index wrote. It is read and never written.",
)
@click.option(
    "--ids",
    required=True,
    type=click.Path(path_type=Path),
    help="Document ids: .json, .jsonl, .npy, or text with one id a line.",
)
@click.option(
    "--max-stale",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of the sample that may be of texts edited since.",
)
@confidence_option
@share_option
@click.option(
    "--yes",
    is_flag=True,
    help="Accept that more than a tenth of the vectors, or of the documents, is without the other.",
)
@json_option
@click.pass_context
def adopt(
    context: click.Context,
    /,
    collection: str,
    model: str,
    index: Path,
    ids: Path,
    max_stale: float,
    confidence: float,
    share: float,
    yes: bool,
    as_json: bool,
) -> None:
    """Take an existing FAISS index as the first live index of COLLECTION, after proof by sample.

    Embeds the documents of a sample again with MODEL: 459 of them find a foreign part of 1 % with
    99 % probability. A vector that MODEL did not make refuses the index, with the ids of its
    documents. Then writes a baseline revision, stamped here, which embeds the collection elsewhere.
    """
    from embedmigrate import command

    result = command.adopt(
        settings_of(context),
        collection,
        model=model,
        index=index,
        ids=ids,
        max_stale=max_stale,
        confidence=confidence,
        share=share,
        accept_gaps=yes,
        **working(context),
    )
    print_result(as_json, result, text.adopted)
