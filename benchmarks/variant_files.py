"""Makes the files of a changed model: weights, tokenizers, and the folder they come from.

Every file is made once: it appears under its name only when it is whole, and is then left alone.
Needs the extra ``test-torch``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedmigrate.embedders.base import Vectors

Weights = npt.NDArray[np.float32]
Edit = Callable[[str, Weights], Weights]
"""From the name and the values of one tensor of weights to its new values, of the same shape."""

FEED_FORWARD = (1536, 384)
"""Shape of the second half of each layer's feed-forward network, as ONNX multiplies by it."""


def base_folder(folder: Path) -> None:
    """A sentence-transformers folder of all-MiniLM-L6-v2 with an ``model.onnx`` of its weights."""
    if (folder / "model.onnx").exists():
        return
    from sentence_transformers import SentenceTransformer

    from tests.embedders.test_torch import export
    from tests.embedders.test_torch import folder as installed

    shutil.copytree(
        installed(), folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("model.safetensors")
    )
    export(
        SentenceTransformer(str(installed()), device="cpu", local_files_only=True),
        folder / "export.onnx",
    )
    # The exporter puts the weights into a second file; one is easier to copy and to change.
    write(folder / "model.onnx", lambda part: save(load(folder / "export.onnx"), part))
    for leftover in folder.glob("export.onnx*"):
        leftover.unlink()


def write(path: Path, make: Callable[[Path], None]) -> None:
    """Have ``make`` write ``path``, unless it is there, under another name until it is whole."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"unfinished-{path.name}")
    make(part)
    part.replace(path)


def load(path: Path) -> Any:
    import onnx

    return onnx.load(path)


def save(model: Any, path: Path) -> None:
    import onnx

    # Without this a model that came with a second file is saved with one again.
    onnx.external_data_helper.convert_model_from_external_data(model)
    onnx.save(model, path)


def edited(base: Path, path: Path, edit: Edit) -> None:
    """Write ``base`` to ``path`` with every tensor of weights as ``edit`` makes it."""

    def make(part: Path) -> None:
        from onnx import numpy_helper

        model = load(base)
        for tensor in weights(model):
            changed = edit(tensor.name, numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(changed, np.float32), tensor.name))
        save(model, part)

    write(path, make)


def weights(model: Any) -> list[Any]:
    """The tensors that were trained: scalars in a graph are constants of its arithmetic."""
    from onnx import TensorProto

    return [
        tensor
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 0
    ]


def as_bfloat16(_: str, values: Weights) -> Weights:
    """Every weight rounded to bfloat16, and written as float32 again."""
    import torch

    rounded: Weights = torch.tensor(values).bfloat16().float().numpy()
    return rounded


def as_float16(_: str, values: Weights) -> Weights:
    """Every weight rounded to IEEE half precision, and written as float32 again."""
    return values.astype(np.float16).astype(np.float32)


def quantised(base: Path, path: Path) -> None:
    """int8 weights, and activations that are quantised while it runs, as onnxruntime makes it."""

    def make(part: Path) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(base, part, weight_type=QuantType.QInt8)

    write(path, make)


def perturbed(
    base: Path,
    path: Path,
    distance: float,
    embed: Callable[[Path], Vectors],
    tolerance: float = 0.02,
) -> None:
    """Add noise to the last feed-forward weights, so that a text in the middle moves ``distance``.

    ``embed`` answers with the vectors of some documents for a file of weights. Their median cosine
    distance grows with the square of the noise, which finds its strength in a few steps.
    """
    before = None if path.exists() else embed(base)

    def make(part: Path) -> None:
        assert before is not None
        name = [tensor.name for tensor in weights(load(base)) if _shape(tensor) == FEED_FORWARD][-1]
        strength = 0.1
        for _ in range(8):
            part.unlink(missing_ok=True)
            edited(base, part, _noise(name, strength))
            found = median_distance(before, embed(part))
            if abs(found / distance - 1) <= tolerance:
                return
            strength *= (distance / found) ** 0.5
        raise AssertionError(f"no noise moves the median text by {distance}: {found} is nearest")

    write(path, make)


def _noise(name: str, strength: float) -> Edit:
    def edit(tensor: str, values: Weights) -> Weights:
        if tensor != name:
            return values
        noise = np.random.default_rng(1).standard_normal(values.shape).astype(np.float32)
        return values + np.float32(strength * values.std()) * noise

    return edit


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(tensor.dims)


def median_distance(one: Vectors, other: Vectors) -> float:
    """Median cosine distance of rows, in double precision: it may be far below float32's."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.median(1 - np.einsum("ij,ij->i", a, b) / norms))


def tokenizer(base: Path, path: Path, normalizer: Mapping[str, object] | None) -> None:
    """The tokenizer file at ``base`` with ``normalizer`` in the place of its own."""

    def make(part: Path) -> None:
        stated = json.loads(base.read_text("utf-8"))
        stated["normalizer"] = normalizer
        part.write_text(json.dumps(stated, ensure_ascii=False), "utf-8")

    write(path, make)
