"""What migration scripts import: ``from embedmigrate import EmbeddingModel, Recipe, op``.

Identity is literal: a script states models and recipes in full and never reads settings.
"""

from __future__ import annotations

from alembic import op as _alembic_op

from embedmigrate.migration.operations import RebindOp, ReembedOp, RollbackOp
from embedmigrate.models import EmbeddingModel, Recipe
from embedmigrate.models.index_spec import Metric

__all__ = ["rebind", "reembed", "rollback"]


def reembed(
    collection: str,
    *,
    source: str | None,
    target: EmbeddingModel,
    recipe: Recipe,
    factory: str = "Flat",
    metric: Metric = "cosine",
    allow_lag: bool = False,
    allow_failed: int = 0,
) -> None:
    """Move ``collection`` from the model ``source`` to the model ``target``.

    ``source`` is ``name@fingerprint`` of what is live when the step runs, None for a first index.
    ``target`` states its ``fingerprint``. ``factory`` and ``metric`` are those of the index.
    ``allow_lag`` accepts a source that does not tell of its changes: the index is then as the
    source was when they were last compared.
    ``allow_failed`` is how many documents may lack a vector at the cut-over because ``target``
    cannot embed them; with more the cut-over is refused.
    """
    _alembic_op.invoke(
        ReembedOp(
            collection,
            source=source,
            target=target,
            recipe=recipe,
            factory=factory,
            metric=metric,
            allow_lag=allow_lag,
            allow_failed=allow_failed,
        )
    )


def rebind(collection: str, *, source: str, target: EmbeddingModel) -> None:
    """Keep the vectors of ``collection``, and ask ``target`` from now on.

    For a ``target`` of the same space as ``source`` (``name@fingerprint``, which must be live): the
    same weights on another runtime or host, or another query side. It is proven before the switch,
    on the canaries and on a sample of the stored vectors.
    """
    _alembic_op.invoke(RebindOp(collection, source=source, target=target))


def rollback(collection: str, *, to: str | None) -> None:
    """Go back to the model ``to`` (``name@fingerprint``), which was live before; None: to none."""
    _alembic_op.invoke(RollbackOp(collection, to=to))
