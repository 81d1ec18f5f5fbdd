"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A project with forty documents and two pinned real models; no scripts yet."""
    return Workspace.make(tmp_path / "project")


@pytest.fixture
def migrated(workspace: Workspace) -> Workspace:
    """The same with `wordllama` live and a revision to `wordllama-64` pending."""
    workspace.revision("wordllama", "first index")
    workspace.upgrade()
    workspace.revision("wordllama-64", "shorter vectors")
    return workspace
