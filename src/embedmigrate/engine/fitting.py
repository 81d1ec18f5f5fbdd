"""Does a model read a chunk to its end? What is beyond its limit has no part in the vector."""

from __future__ import annotations

from itertools import islice

from embedmigrate.embedders.base import Embedder
from embedmigrate.engine.job import Job
from embedmigrate.errors import Refused
from embedmigrate.models import IndexSpec
from embedmigrate.sources.base import Source

_LOOKED_AT = 256


def refuse_too_long(job: Job, spec: IndexSpec) -> None:
    """``Refused`` for chunks of more words than the model reads tokens: no text could fit."""
    chunker, limit = spec.recipe.chunker, spec.model.max_tokens
    if chunker is None or limit is None or chunker.size <= limit:
        return
    raise Refused(
        f"the chunks of {job.collection!r} are longer than what {spec.model.reference} reads",
        found=f"chunks of {chunker.size} words and signs",
        expected=f"at most {limit}, its max_tokens; better 60 % of that",
        next_step="write the revision with a smaller size of the chunker",
    )


def note_cut_off(job: Job, spec: IndexSpec, source: Source, embedder: Embedder) -> None:
    """Tell when chunks reach the limit of a model that can count its tokens; of some of them."""
    limit = spec.model.max_tokens
    tokens_of = getattr(embedder, "tokens_of", None)
    if spec.recipe.chunker is None or limit is None or tokens_of is None:
        return
    passages = (passage for document in source.scan() for passage in document.passages)
    counts = [tokens_of(passage.text) for passage in islice(passages, _LOOKED_AT)]
    cut_off = sum(count is not None and count >= limit for count in counts)
    if cut_off:
        job.reporter.note(
            f"{cut_off} of the first {len(counts)} chunks of {job.collection!r} reach the limit of "
            f"{spec.model.reference}, {limit} tokens: what is beyond it is not embedded; a smaller "
            "size of the chunker avoids that"
        )
