"""The Protocol of a store whose indexes outlive the catalog that they were made by."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from embedmigrate.stores.base import Store


class Marks(NamedTuple):
    """How far the writers of an index were, for a catalog that does not know any more."""

    epoch: int
    """Greatest epoch that ever owned it: a writer of a smaller one is refused."""
    seq: int
    """Greatest seq of a row or a tombstone: a write of a smaller one may be."""
    adopted: bool = False
    """Whether somebody else made its vectors."""


@runtime_checkable
class RecoverableStore(Store, Protocol):
    """A store that tells what a new catalog must not fall behind."""

    def marks(self, index: str) -> Marks:
        """Read everything that bears a seq. Raises what ``reader`` does."""
