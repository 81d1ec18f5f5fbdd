"""Projects that the fault tests break."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.project import EndState, Faulty
from tests.workspace import documents

BATCH = 32
DOCUMENTS = 200
QUERY = "{title} {text}".format(**documents(DOCUMENTS)[0])
"""A document's own text: all that the hashing embedder finds again."""


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Faulty:
    """`fake-a` is live and a revision to `fake-b` pending. To be copied, not to be touched."""
    root = tmp_path_factory.mktemp("faults") / "template"
    return Faulty.prepared(root, documents(DOCUMENTS), "fake-a", "fake-b", batch_size=BATCH)


@pytest.fixture
def project(template: Faulty, tmp_path: Path) -> Faulty:
    return template.copy(tmp_path / "project")


@pytest.fixture(scope="session")
def undisturbed(template: Faulty, tmp_path_factory: pytest.TempPathFactory) -> EndState:
    """What the pending revision leads to when nothing happens."""
    project = template.copy(tmp_path_factory.mktemp("faults") / "undisturbed")
    project.upgrade()
    return project.end_state([QUERY])
