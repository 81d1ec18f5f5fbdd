"""Projects that the fault tests break."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.faults.project import Faulty
from tests.workspace import documents

BATCH = 32

GENERAL = f"""
[embedmigrate]
script_location = "migrations"
catalog = "sqlite:///catalog.db"
batch_size = {BATCH}
"""


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with `fake-a` live and a revision to `fake-b` pending; 200 documents."""
    project = Faulty.make(
        tmp_path_factory.mktemp("prepared") / "project",
        corpus=documents(200),
        general=GENERAL,
        pin=("fake-a", "fake-b"),
    )
    project.edit_config('model = "wordllama"', 'model = "fake-a"')
    project.revision("fake-a", "first index")
    project.upgrade()
    project.revision("fake-b", "move")
    return project.root


@pytest.fixture
def project(prepared: Path, tmp_path: Path) -> Faulty:
    """A copy of it that a test may break."""
    return Faulty(Path(shutil.copytree(prepared, tmp_path / "project")))
