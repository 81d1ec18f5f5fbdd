"""The operations of migration scripts, as data, registered with Alembic.

What an operation does is decided by the handler that the migration context carries: the recorder
notes it, the walk applies it. Both get the same validated object.
"""

from __future__ import annotations

from typing import Any, Protocol, get_args

from alembic.operations import MigrateOperation, Operations
from alembic.runtime.migration import MigrationContext

from embedmigrate.errors import ScriptError, UnpinnedReference
from embedmigrate.models import EmbeddingModel, Recipe, parse_reference
from embedmigrate.models.index_spec import Metric

HANDLER = "embedmigrate_handler"
"""Key of the handler among the options of a migration context."""


class ReembedOp(MigrateOperation):
    """Move a collection from one model to another."""

    def __init__(
        self,
        collection: str,
        *,
        source: str | None,
        target: EmbeddingModel,
        recipe: Recipe,
        factory: str,
        metric: Metric,
        allow_lag: bool = False,
        allow_failed: int = 0,
    ) -> None:
        self.collection = collection
        self.source = None if source is None else _pinned(source)
        self.source_reference = source
        self.target = _of_type("target", target, EmbeddingModel)
        self.recipe = _of_type("recipe", recipe, Recipe)
        self.factory = _of_type("factory", factory, str)
        self.metric = metric
        self.allow_lag = _of_type("allow_lag", allow_lag, bool)
        if metric not in get_args(Metric):
            raise ScriptError(
                f"there is no metric {metric!r}",
                found=metric,
                expected=", ".join(get_args(Metric)),
                next_step="correct the script",
            )
        self.allow_failed = _of_type("allow_failed", allow_failed, int)
        if isinstance(allow_failed, bool) or allow_failed < 0:
            raise ScriptError(
                "allow_failed is a number of documents",
                found=allow_failed,
                expected="0 or more",
                next_step="correct the script",
            )
        _require_fingerprint(self.collection, self.target)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return ("reembed", self.collection, self.source_reference, self.target.reference)


class RebindOp(MigrateOperation):
    """Ask another model of the same space about the vectors of a collection, which stay."""

    def __init__(self, collection: str, *, source: str, target: EmbeddingModel) -> None:
        self.collection = collection
        self.source = _pinned(source)
        self.source_reference = source
        self.target = _of_type("target", target, EmbeddingModel)
        _require_fingerprint(self.collection, self.target)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return ("rebind", self.collection, self.source_reference, self.target.reference)


MoveOp = ReembedOp | RebindOp
"""What moves a collection forward: it has ``collection``, ``source`` and ``target``."""


class RollbackOp(MigrateOperation):
    """Go back to the model that was live before; ``to=None`` means to no index at all."""

    def __init__(self, collection: str, *, to: str | None) -> None:
        self.collection = collection
        self.to = None if to is None else _pinned(to)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return ("rollback", self.collection, self.to)


def _pinned(reference: object) -> str:
    """The fingerprint of ``name@fingerprint``; ``UnpinnedReference`` otherwise (I19)."""
    try:
        return parse_reference(_of_type("model reference", reference, str))[1]
    except ValueError as error:
        raise UnpinnedReference(
            f"a migration script names a model that is not pinned: {error}",
            next_step="embedmigrate pin MODEL, and write the full reference into the script",
        ) from None


def _require_fingerprint(collection: str, target: EmbeddingModel) -> None:
    if "fingerprint" not in target.model_fields_set:
        raise UnpinnedReference(
            f"the target of {collection!r} does not state its fingerprint",
            expected=f"fingerprint={target.fingerprint!r}, if that is the model you mean",
            next_step="add it to the script",
        )


def _of_type(what: str, value: Any, cls: type[Any]) -> Any:
    if not isinstance(value, cls):
        raise ScriptError(
            f"{what} has the wrong type",
            found=type(value).__name__,
            expected=cls.__name__,
            next_step="correct the script",
        )
    return value


class Handler(Protocol):
    """Decides what an operation does in a migration context."""

    def reembed(self, context: MigrationContext, operation: ReembedOp) -> None: ...

    def rebind(self, context: MigrationContext, operation: RebindOp) -> None: ...

    def rollback(self, context: MigrationContext, operation: RollbackOp) -> None: ...


def _handler(operations: Operations) -> tuple[Handler, MigrationContext]:
    context = operations.get_context()
    handler = context.opts.get(HANDLER)
    if handler is None:
        raise ScriptError(
            "an embedding operation was run outside of embedmigrate",
            expected="one of embedmigrate's own commands",
            next_step="embedmigrate upgrade",
        )
    return handler, context


@Operations.implementation_for(ReembedOp)
def _reembed(operations: Operations, operation: ReembedOp) -> None:
    handler, context = _handler(operations)
    handler.reembed(context, operation)


@Operations.implementation_for(RebindOp)
def _rebind(operations: Operations, operation: RebindOp) -> None:
    handler, context = _handler(operations)
    handler.rebind(context, operation)


@Operations.implementation_for(RollbackOp)
def _rollback(operations: Operations, operation: RollbackOp) -> None:
    handler, context = _handler(operations)
    handler.rollback(context, operation)
