"""Projects that the fault tests break."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.project import EndState, Faulty
from tests.workspace import documents

BATCH = 32
DOCUMENTS = 200
QUERY = "{title} {text}".format(**documents(DOCUMENTS)[0])
"""A document's own text: all that the hashing embedder finds again."""

GENERAL = f"""
[embedmigrate]
script_location = "migrations"
catalog = "sqlite:///catalog.db"
batch_size = {BATCH}
retain_seconds = 0
"""

MakeProject = Callable[[Path], Faulty]


@pytest.fixture(scope="session")
def make_project(tmp_path_factory: pytest.TempPathFactory) -> MakeProject:
    """Makes projects with `fake-a` live and a revision to `fake-b` pending."""
    template = Faulty.make(
        tmp_path_factory.mktemp("faults") / "template",
        corpus=documents(DOCUMENTS),
        general=GENERAL,
        pin=("fake-a", "fake-b"),
    )
    template.edit_config('model = "wordllama"', 'model = "fake-a"')
    template.revision("fake-a", "first index")
    template.upgrade()
    template.revision("fake-b", "move")
    return lambda root: Faulty(Path(shutil.copytree(template.root, root)))


@pytest.fixture
def project(make_project: MakeProject, tmp_path: Path) -> Faulty:
    return make_project(tmp_path / "project")


@pytest.fixture(scope="session")
def undisturbed(make_project: MakeProject, tmp_path_factory: pytest.TempPathFactory) -> EndState:
    """What the pending revision leads to when nothing happens."""
    project = make_project(tmp_path_factory.mktemp("faults") / "undisturbed")
    project.upgrade()
    return project.end_state([QUERY])
