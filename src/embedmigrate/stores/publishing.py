"""The Protocol of a store that others may read without this program, in SQL."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from embedmigrate.stores.base import Store


@runtime_checkable
class PublishingStore(Store, Protocol):
    """A store in the database of the catalog. What it publishes changes with the route (I10).

    A ``connection`` is one of the database's driver, inside the transaction of whoever writes the
    catalog: what is done there counts when that is committed.
    """

    def offer(self, connection: Any) -> None:
        """Make what readers in SQL use, where it is not there as it would be made today."""

    def publish(self, connection: Any, collection: str, index: str | None) -> None:
        """Let readers of ``collection`` read ``index``; None: there is nothing to read.

        ``StorageUnavailable`` when somebody who reads is in the way for longer than others can be
        asked to wait; nothing is changed then.
        """
