"""What adapters may know of the project that they serve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class AdapterContext:
    """``root`` is what relative paths of the configuration start from; ``work_dir`` is scratch
    space that survives a run and may be deleted between runs; ``collection`` names the user."""

    root: Path
    work_dir: Path
    collection: str
