"""Provider ``onnx``: a transformer that onnxruntime runs on the CPU.

What the declaration does not say is read from the model's folder, if it is one of
sentence-transformers. Graphs that quantise their activations on the fly answer differently in
another batch; they are run one text at a time, so that a vector depends on its text alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from embedmigrate.embedders.base import ModelConfig, Vectors
from embedmigrate.embedders.files import Artifacts, FileReference, Places, inside
from embedmigrate.embedders.local import own, version_of
from embedmigrate.embedders.onnx_file import INT32, OnnxGraph, read_graph
from embedmigrate.embedders.st_folder import FolderSettings
from embedmigrate.embedders.transformer import (
    Ids,
    TransformerConfig,
    TransformerEmbedder,
    identify_transformer,
    pool,
    transformer_folder,
)
from embedmigrate.errors import ConfigError, MissingExtra, UnsupportedModel
from embedmigrate.models import EmbeddingModel

_TOKEN_STATES = ("last_hidden_state", "token_embeddings")
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class OnnxConfig(TransformerConfig):
    """A ``[models.x]`` table with ``provider = "onnx"``."""

    weights: FileReference | None = None
    output: str | None = None
    """Name of the graph's output; by default its token states, the one output of rank 3."""


@dataclass(frozen=True)
class _Parts:
    """A declaration, found: the files, what the graph says, and which output is read."""

    folder: FolderSettings
    artifacts: Artifacts
    graph: OnnxGraph
    output: str

    @property
    def pooled(self) -> bool:
        shape = self.graph.outputs[self.output].shape
        return shape is not None and len(shape) == 2

    @property
    def width(self) -> int | None:
        shape = self.graph.outputs[self.output].shape
        return shape[-1] if shape else None


class OnnxEmbedder(TransformerEmbedder):
    """A transformer in ONNX format."""

    Config: ClassVar[type[ModelConfig]] = OnnxConfig

    @classmethod
    def identify(cls, name: str, config: ModelConfig, root: Path) -> EmbeddingModel:
        """See ``Embedder``. Needs onnxruntime only if the file does not tell its dimension."""
        config = own(config, OnnxConfig)
        parts = _find(config, root)
        width = parts.width or _probe_width(parts)
        return identify_transformer(
            name, config, parts.folder, parts.artifacts, width=width, pooled=parts.pooled
        )

    @classmethod
    def artifacts(cls, config: ModelConfig, root: Path) -> Artifacts:
        """The files of a declaration, by role, found and not yet hashed."""
        return _find(own(config, OnnxConfig), root).artifacts

    @classmethod
    def load(cls, config: ModelConfig, model: EmbeddingModel, root: Path) -> Self:
        """See ``Embedder``."""
        parts = _find(own(config, OnnxConfig), root)
        parts.artifacts.verify(model)
        return cls(model, parts)

    def __init__(self, model: EmbeddingModel, parts: _Parts) -> None:
        super().__init__(model, parts.artifacts.files["tokenizer"], "onnx")
        self._session = _open(parts)
        self.runtime = version_of("onnxruntime")
        self._inputs = parts.graph.inputs
        self._output = parts.output
        if "DynamicQuantizeLinear" in parts.graph.operators:
            self.tokens_a_run = 1

    def _run(self, ids: Ids, mask: Ids) -> Vectors:
        (answer,) = self._session.run([self._output], _feeds(self._inputs, ids, mask))
        answer = np.asarray(answer, np.float32)
        return answer if answer.ndim == 2 else pool(answer, mask, self.model.pooling)

    def close(self) -> None:
        """Release the session. Idempotent."""
        self._session = None


def _find(config: OnnxConfig, root: Path) -> _Parts:
    places = Places(config, root)
    folder = transformer_folder(places.folder)
    homes = [home for home in (places.folder, folder.module_folder) if home is not None]
    weights = places.find(
        "weights",
        config.weights,
        [home / name for home in homes for name in ("model.onnx", "onnx/model.onnx")],
    )
    tokenizer = places.find(
        "tokenizer", config.tokenizer, [home / "tokenizer.json" for home in reversed(homes)]
    )
    graph = read_graph(weights)
    _require_text_encoder(weights, graph)
    usual = _token_states(graph)
    output = config.output or usual
    if output is None or output not in graph.outputs:
        raise ConfigError(
            f"{weights} has no output of token states that could be meant",
            found=", ".join(_described(graph)),
            expected=f"an output {output!r}" if output else "exactly one output of rank 3",
            next_step='name one of them: output = "…" in the model',
        )
    external = {f"weights/{name}": inside(weights.parent, name) for name in graph.external_files}
    for path in external.values():
        places.find("weights", None, [path])
    # The choice of an output changes every vector and is no field of the identity.
    chosen = {} if output == usual else {"output": _digest_of_name(output)}
    files = {"weights": weights, **external, "tokenizer": tokenizer}
    return _Parts(folder, Artifacts(files, chosen, places.commit), graph, output)


def _require_text_encoder(path: Path, graph: OnnxGraph) -> None:
    strange = sorted(set(graph.inputs) - set(_INPUTS))
    if strange or "input_ids" not in graph.inputs:
        raise UnsupportedModel(
            f"{path} is not a text encoder",
            found=f"inputs {', '.join(graph.inputs)}",
            expected=f"inputs among {', '.join(_INPUTS)}",
            next_step="choose a dense text embedding model",
        )
    if set(graph.outputs) == {"logits"}:
        raise UnsupportedModel(
            f"{path} ends in a head for another task",
            found="one output, logits: a classifier, or a model of sparse vectors",
            expected="token states",
            next_step="export the model for feature extraction, or choose another one",
        )


def _token_states(graph: OnnxGraph) -> str | None:
    """The output that holds token states, if the graph leaves no doubt."""
    for name in _TOKEN_STATES:
        if name in graph.outputs:
            return name
    deep = [name for name, it in graph.outputs.items() if it.shape and len(it.shape) == 3]
    return deep[0] if len(deep) == 1 and deep != ["logits"] else None


def _described(graph: OnnxGraph) -> list[str]:
    return [
        f"{name} of rank {len(it.shape) if it.shape is not None else '?'}"
        for name, it in graph.outputs.items()
    ]


def _digest_of_name(output: str) -> str:
    return "sha256:" + hashlib.sha256(f"embedmigrate/onnx-output/1\n{output}".encode()).hexdigest()


def _open(parts: _Parts) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("the provider onnx", "onnx") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        str(parts.artifacts.files["weights"]), options, providers=["CPUExecutionProvider"]
    )


def _feeds(inputs: Mapping[str, Any], ids: Ids, mask: Ids) -> dict[str, Any]:
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return {
        name: given[name].astype(np.int32) if tensor.element == INT32 else given[name]
        for name, tensor in inputs.items()
    }


def _probe_width(parts: _Parts) -> int:
    """The dimension, from one tiny run: the file leaves it open."""
    ids = np.ones((1, 2), np.int64)
    (answer,) = _open(parts).run([parts.output], _feeds(parts.graph.inputs, ids, ids))
    return int(answer.shape[-1])
