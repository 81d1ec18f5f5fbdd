"""The harness as docs/testing.md shows it, on stores that other packages offer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.faults.project import ROOT

STORES = '''
from embedmigrate.stores.base import Written
from embedmigrate.stores.faiss.store import FaissStore
from embedmigrate.stores.faiss.writer import FaissWriter


class Sound(FaissStore):
    """As good as the one that it is made of."""


class _Forgetful(FaissWriter):
    def delete(self, documents):
        return Written(len(documents), 0)


class Forgetful(FaissStore):
    """Says that it has deleted, and has not."""

    def writer(self, index, *, epoch, run, accepts=()):
        return _Forgetful(self._folder(index), epoch, run, accepts)
'''


def example(folder: Path, store: str) -> subprocess.CompletedProcess[str]:
    """Run the script of the page with a store that stands in a package of its own."""
    (folder / "stores.py").write_text(STORES, "utf-8")
    offered = folder / "stores-1.0.dist-info"
    offered.mkdir()
    (offered / "METADATA").write_text("Metadata-Version: 2.1\nName: stores\nVersion: 1.0\n")
    (offered / "entry_points.txt").write_text(
        "[embedmigrate.stores]\nsound = stores:Sound\nforgetful = stores:Forgetful\n"
    )
    page = (ROOT / "docs" / "testing.md").read_text("utf-8")
    script = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    assert 'kind = "faiss"' in script
    (folder / "example.py").write_text(script.replace('kind = "faiss"', f'kind = "{store}"'))
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "example.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_sound_store_of_another_package_passes(tmp_path: Path) -> None:
    ended = example(tmp_path, "sound")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("ok ") >= 7 and "BAD" not in ended.stdout


def test_a_store_that_does_not_delete_is_found_out(tmp_path: Path) -> None:
    ended = example(tmp_path, "forgetful")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "no resurrection" in ended.stdout or "resurrected" in ended.stdout
