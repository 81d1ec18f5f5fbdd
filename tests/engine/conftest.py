from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.parts import Bench, ListSource


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Thirty documents `d00` … `d29`, nothing built yet."""
    source = ListSource({f"d{number:02d}": f"text {number}" for number in range(30)})
    made = Bench(tmp_path, source)
    yield made
    made.close()
