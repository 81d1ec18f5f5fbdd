"""Provider ``static``: a table of token vectors; a text is the mean of its tokens' rows.

Reads the tables of WordLlama, of sentence-transformers' StaticEmbedding and of Model2Vec. The
table stays in its file, memory-mapped; the rows that a batch needs are converted to float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from embedmigrate.embedders.base import ModelConfig, Vectors
from embedmigrate.embedders.files import Artifacts, FileReference, Places, read_json
from embedmigrate.embedders.local import LocalConfig, LocalEmbedder, declare, own
from embedmigrate.embedders.safetensors_file import Tensor, read_header
from embedmigrate.embedders.st_folder import FolderSettings, read_folder
from embedmigrate.embedders.tokenizing import TextTokenizer
from embedmigrate.errors import ConfigError, UnsupportedModel
from embedmigrate.models import EmbeddingModel

_MODEL2VEC_TABLE = "embeddings"
_MODEL2VEC_MAX_TOKENS = 512
_TABLES = ("embedding.weight", _MODEL2VEC_TABLE)
_WINDOW = 1024
_SLICE = 8192
"""Rows that are summed at once: bounds memory where one text is a book."""


class StaticConfig(LocalConfig):
    """A ``[models.x]`` table with ``provider = "static"``."""

    weights: FileReference | None = None
    pooling: Literal["mean"] = "mean"


@dataclass(frozen=True)
class _Table:
    """Token id -> vector. Model2Vec may share rows between tokens and weight each token."""

    rows: Tensor
    mapping: Tensor | None
    weights: Tensor | None
    model2vec: bool

    @property
    def width(self) -> int:
        return self.rows.shape[1]

    @property
    def token_ids(self) -> int:
        return (self.mapping or self.rows).shape[0]

    def vectors(self, ids: npt.NDArray[np.int64]) -> Vectors:
        """float32 ``(len(ids), width)``."""
        rows = ids if self.mapping is None else self.mapping.data[ids].astype(np.int64)
        vectors = self.rows.rows(rows)
        if self.weights is not None:
            vectors = vectors * self.weights.rows(ids)[:, np.newaxis]
        return vectors


class StaticEmbedder(LocalEmbedder):
    """Mean of token vectors."""

    Config: ClassVar[type[ModelConfig]] = StaticConfig

    @classmethod
    def identify(cls, name: str, config: ModelConfig, root: Path) -> EmbeddingModel:
        """See ``Embedder``. Reads headers; needs no tokenizer library."""
        config = own(config, StaticConfig)
        folder, artifacts = _find(config, root)
        table = _open_table(artifacts.files["weights"])
        if table.model2vec:
            folder = _with_model2vec(folder)
        return declare(
            name,
            config,
            folder,
            artifacts,
            width=table.width,
            pooling="mean",
            max_tokens=config.max_tokens or folder.max_tokens,
            special_tokens=False,
        )

    @classmethod
    def artifacts(cls, config: ModelConfig, root: Path) -> Artifacts:
        """The files of a declaration, by role, found and not yet hashed."""
        return _find(own(config, StaticConfig), root)[1]

    @classmethod
    def load(cls, config: ModelConfig, model: EmbeddingModel, root: Path) -> Self:
        """See ``Embedder``."""
        _, artifacts = _find(own(config, StaticConfig), root)
        artifacts.verify(model)
        return cls(model, artifacts.files)

    def __init__(self, model: EmbeddingModel, files: Mapping[str, Path]) -> None:
        super().__init__(model)
        self._table = _open_table(files["weights"])
        self._tokenizer = TextTokenizer(files["tokenizer"], model, "static")
        # Model2Vec leaves unknown tokens out of the mean; the others have a row for them.
        self._left_out = self._tokenizer.unknown_id() if self._table.model2vec else None
        if self._tokenizer.token_ids() > self._table.token_ids:
            raise ConfigError(
                f"the tokenizer of {model.reference} knows tokens that have no vector",
                found=f"token ids below {self._tokenizer.token_ids()}",
                expected=f"below {self._table.token_ids}: the rows of {files['weights']}",
                next_step="correct weights or tokenizer of the model",
            )

    def tokens_of(self, text: str) -> int:
        return len(self._tokenizer.encode([text])[0])

    def _embed(self, texts: Sequence[str]) -> Vectors:
        vectors = np.zeros((len(texts), self._table.width), np.float32)
        for start in range(0, len(texts), _WINDOW):
            tokens = self._tokens(texts[start : start + _WINDOW])
            self._means(tokens, vectors[start : start + _WINDOW])
        return vectors

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        tokens = self._tokenizer.encode(texts)
        if self._left_out is None:
            return tokens
        return [[token for token in text if token != self._left_out] for text in tokens]

    def _means(self, tokens: Sequence[Sequence[int]], out: Vectors) -> None:
        lengths = [len(text) for text in tokens]
        flat = np.fromiter((id for text in tokens for id in text), np.int64, sum(lengths))
        # Each row is read and converted once, however often its token occurs.
        ids, places = np.unique(flat, return_inverse=True)
        vectors = self._table.vectors(ids)
        at = 0
        for row, length in enumerate(lengths):
            # Summed in the order of the tokens, text by text: no neighbour changes a bit.
            for start in range(at, at + length, _SLICE):
                end = min(start + _SLICE, at + length)
                out[row] += vectors[places[start:end]].sum(axis=0)
            at += length
        out /= np.maximum(np.asarray(lengths, np.float32), 1)[:, np.newaxis]


def _find(config: StaticConfig, root: Path) -> tuple[FolderSettings, Artifacts]:
    places = Places(config, root)
    folder = read_folder(places.folder)
    if folder.pooling is not None:
        raise UnsupportedModel(
            "the model is a transformer, not a table of token vectors",
            found="Transformer and Pooling",
            expected="StaticEmbedding",
            next_step='set provider = "onnx" or "sentence-transformers"',
        )
    # A plain folder's token limit is a transformer's: the mean of a table has none.
    folder = replace(folder, max_tokens=None)
    home = folder.module_folder
    weights = places.find("weights", config.weights, [home / "model.safetensors"] if home else [])
    tokenizer = places.find(
        "tokenizer", config.tokenizer, [home / "tokenizer.json"] if home else []
    )
    files = {"weights": weights, "tokenizer": tokenizer}
    return folder, Artifacts(files, commit=places.commit)


def _open_table(path: Path) -> _Table:
    tensors = read_header(path)
    flat = [name for name, tensor in tensors.items() if len(tensor.shape) == 2]
    known = [name for name in _TABLES if name in flat] or (flat if len(flat) == 1 else [])
    strange = set(tensors) - {*known[:1], "mapping", "weights"}
    if len(known) != 1 or strange:
        raise UnsupportedModel(
            f"{path} is not one table of token vectors",
            found=", ".join(f"{name} {list(t.shape)}" for name, t in list(tensors.items())[:8]),
            expected=f"one tensor of rank 2, such as {' or '.join(_TABLES)}",
            next_step='correct weights, or set provider = "onnx"',
        )
    table = tensors[known[0]]
    if not table.is_float:
        raise UnsupportedModel(
            f"{path} holds token vectors that are quantised",
            found=table.dtype,
            expected="F32, F16 or BF16",
            next_step="save the table with floating point numbers",
        )
    return _Table(
        table, tensors.get("mapping"), tensors.get("weights"), known[0] == _MODEL2VEC_TABLE
    )


def _with_model2vec(folder: FolderSettings) -> FolderSettings:
    """The folder with what Model2Vec's own ``config.json`` says."""
    path = folder.module_folder and folder.module_folder / "config.json"
    stated = read_json(path) if path and path.is_file() else {}
    return replace(
        folder,
        normalize=folder.normalize or stated.get("normalize"),
        max_tokens=stated.get("max_length", _MODEL2VEC_MAX_TOKENS),
    )
