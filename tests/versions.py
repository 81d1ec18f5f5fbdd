"""Versions of one application, each with its configuration, alive in processes of their own.

    python -m tests.versions version.toml truth.json

The process opens the collection, searches without pause, checks every answer, and writes a line of
JSON for each line that it reads: ``health``, ``seen``. It ends with its input.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import embedmigrate
from embedmigrate.config import Settings, load_settings
from embedmigrate.errors import EmbedMigrateError
from tests.faults.project import ROOT
from tests.faults.reading import Reader, Seen, Truth
from tests.workspace import Workspace, wait_for

PAUSE_SECONDS = 0.02


@dataclass(frozen=True)
class Version:
    """What an image holds: a configuration beside the same catalog, store and pin files."""

    config: Path
    uninstalled: tuple[str, ...] = ()
    """Distributions that the image does not have."""

    @classmethod
    def write(
        cls,
        project: Workspace,
        name: str,
        model: str,
        *,
        accepts: Collection[str] = (),
        lacks: Collection[str] = (),
        uninstalled: Collection[str] = (),
    ) -> Self:
        """``lacks`` are models whose ``[models.x]`` table the configuration does not have."""
        text = (project.root / "embedmigrate.toml").read_text("utf-8")
        text = re.sub(r"^model = .*$", f'model = "{model}"', text, flags=re.MULTILINE)
        also = json.dumps(list(accepts))
        text = re.sub(r"^also_accept = .*$", f"also_accept = {also}", text, flags=re.MULTILINE)
        for table in lacks:
            text, found = re.subn(rf"^\[models\.{table}\]\n(?:(?!\[).*\n)*", "", text, flags=re.M)
            assert found == 1, table
        config = project.root / f"{name}.toml"
        config.write_text(text, "utf-8")
        return cls(config, tuple(uninstalled))

    @property
    def settings(self) -> Settings:
        return load_settings(self.config)

    def open(self) -> embedmigrate.Collection:
        """Start in this process."""
        with without(self.uninstalled):
            return embedmigrate.Collection.open("articles", self.config)

    def refusal(self) -> EmbedMigrateError | None:
        """Why it does not start; None when it does."""
        try:
            self.open().close()
        except EmbedMigrateError as error:
            return error
        return None

    def start(self, truth: Path) -> Running:
        """Start in a process of its own, and do not wait until it answers."""
        return Running(self, truth)


class Running:
    """A version that was started. Whoever started it stops it."""

    def __init__(self, version: Version, truth: Path) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.versions", str(version.config), str(truth)),
                *version.uninstalled,
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _ask(self, what: str) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "it did not start, or it died"
        return answer

    @property
    def health(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._ask("health"))
        return answer

    @property
    def seen(self) -> Seen:
        return Seen.from_json(self._ask("seen"))

    def until(self, good: Callable[[Seen], bool]) -> Seen:
        """Wait until what it has seen is good."""
        return wait_for(lambda: self.seen, good, 60)

    def until_healthy(self, good: Callable[[dict[str, Any]], bool]) -> None:
        """Wait until its health is good."""
        wait_for(lambda: self.health, good, 60)

    def stop(self) -> Seen:
        """Stop it, and tell what it saw."""
        seen = self.seen
        self.end()
        return seen

    def end(self) -> None:
        """Stop it, whatever it is doing. Idempotent."""
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        try:
            self._process.wait(30)
        finally:
            self._process.kill()


@contextmanager
def without(distributions: Collection[str]) -> Iterator[None]:
    """As if these distributions were not installed."""
    distribution = importlib.metadata.distribution

    def found(name: str) -> importlib.metadata.Distribution:
        if name in distributions:
            raise importlib.metadata.PackageNotFoundError(name)
        return distribution(name)

    with patch.object(importlib.metadata, "distribution", found):
        yield


def main(config: str, truth: str, *uninstalled: str) -> None:
    checked = Truth.from_json(Path(truth).read_text("utf-8"))
    with (
        without(uninstalled),
        embedmigrate.Collection.open("articles", config) as articles,
    ):
        reader = Reader(articles, checked, PAUSE_SECONDS)
        reader.start()
        for line in sys.stdin:
            answer = articles.health() if line == "health\n" else json.loads(reader.seen.to_json())
            print(json.dumps(answer), flush=True)
        reader.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
