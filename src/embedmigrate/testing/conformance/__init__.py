"""What every store must do, as tests to inherit. Needs pytest.

A store passes when a class like this one does, once for each index factory that it offers::

    import pytest
    from embedmigrate.testing.conformance import StoreConformance

    class TestMyStore(StoreConformance):
        @pytest.fixture(params=["flat", "approximate"])
        def store(self, request, tmp_path):
            return MyStore(MyConfig(kind="mine", factory=request.param), context(tmp_path))

The store is empty, in a place of the test's own, and searches hard enough that with a thousand
vectors its approximate search finds what exact search finds. Nothing here knows how it keeps its
rows: the tests use the Protocols of ``embedmigrate.stores.base`` alone.
"""

import pytest

pytest.register_assert_rewrite(
    *(f"{__name__}.{module}" for module in ("indexes", "writing", "searching", "reading"))
)

from embedmigrate.testing.conformance.fixtures import StoreFixtures  # noqa: E402
from embedmigrate.testing.conformance.indexes import (  # noqa: E402
    IndexConformance,
    OwnershipConformance,
)
from embedmigrate.testing.conformance.reading import (  # noqa: E402
    ConcurrencyConformance,
    ReadingConformance,
)
from embedmigrate.testing.conformance.searching import (  # noqa: E402
    FilterConformance,
    SearchConformance,
)
from embedmigrate.testing.conformance.writing import (  # noqa: E402
    DeletingConformance,
    RunnerConformance,
    WritingConformance,
)

__all__ = ["StoreConformance", "StoreFixtures"]


class StoreConformance(
    IndexConformance,
    OwnershipConformance,
    WritingConformance,
    DeletingConformance,
    RunnerConformance,
    SearchConformance,
    FilterConformance,
    ReadingConformance,
    ConcurrencyConformance,
):
    """Everything."""
