"""Provider ``sentence-transformers``: a transformer that torch runs, read from its own folder.

The library loads the network; tokenizing, prompts, pooling and normalisation follow the pinned
model by the same code as for ``onnx``. Nothing is downloaded, unpickled or trusted to bring code
of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from embedmigrate.embedders.base import ModelConfig, Vectors
from embedmigrate.embedders.files import Artifacts, Places, inside, read_json
from embedmigrate.embedders.local import own, version_of
from embedmigrate.embedders.st_folder import FolderSettings
from embedmigrate.embedders.transformer import (
    Ids,
    TransformerConfig,
    TransformerEmbedder,
    identify_transformer,
    transformer_folder,
)
from embedmigrate.errors import ConfigError, MissingExtra, UnsupportedModel
from embedmigrate.models import EmbeddingModel
from embedmigrate.models.embedding_model import Pooling

if TYPE_CHECKING:
    from torch import Tensor

_EXTRA = "sentence-transformers"
_WEIGHTS = "model.safetensors"
_TOKENS_A_RUN_ON_GPU = 16_384


class SentenceTransformersConfig(TransformerConfig):
    """A ``[models.x]`` table with ``provider = "sentence-transformers"``."""

    device: str | None = None
    """Where torch computes: "cpu", "cuda:1", "mps"; by default its own choice."""


class SentenceTransformersEmbedder(TransformerEmbedder):
    """A transformer in a sentence-transformers folder."""

    Config: ClassVar[type[ModelConfig]] = SentenceTransformersConfig

    @classmethod
    def identify(cls, name: str, config: ModelConfig, root: Path) -> EmbeddingModel:
        """See ``Embedder``. Needs neither torch nor sentence-transformers."""
        config = own(config, SentenceTransformersConfig)
        folder, artifacts = _find(config, root)
        width = folder.width
        if width is None:
            raise UnsupportedModel(
                f"the pooling of model {name!r} does not say its dimension",
                found=f"no embedding_dimension in a config.json of {folder.module_folder}",
                expected="a complete sentence-transformers folder",
                next_step="save the model again with sentence-transformers",
            )
        return identify_transformer(name, config, folder, artifacts, width=width)

    @classmethod
    def artifacts(cls, config: ModelConfig, root: Path) -> Artifacts:
        """The files of a declaration, by role, found and not yet hashed."""
        return _find(own(config, SentenceTransformersConfig), root)[1]

    @classmethod
    def load(cls, config: ModelConfig, model: EmbeddingModel, root: Path) -> Self:
        """See ``Embedder``."""
        config = own(config, SentenceTransformersConfig)
        folder = Places(config, root).folder
        _, artifacts = _find(config, root)
        artifacts.verify(model)
        assert folder is not None
        return cls(model, folder, artifacts.files["tokenizer"], config.device)

    def __init__(
        self, model: EmbeddingModel, folder: Path, tokenizer: Path, device: str | None
    ) -> None:
        super().__init__(model, tokenizer, _EXTRA)
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise MissingExtra("the provider sentence-transformers", _EXTRA) from error
        loaded = SentenceTransformer(
            str(folder),
            device=device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
        self.runtime = f"{version_of('torch')} on {loaded.device.type}"
        # Weights that are stored in half precision are computed with in float32, as by ONNX.
        self._device = loaded.device
        self._transformer: Any = loaded[0].float().eval()
        if self._device.type != "cpu":
            self.tokens_a_run = _TOKENS_A_RUN_ON_GPU

    def _run(self, ids: Ids, mask: Ids) -> Vectors:
        import torch

        with torch.inference_mode():
            present = torch.from_numpy(mask).to(self._device)
            features = {"input_ids": torch.from_numpy(ids).to(self._device)}
            features["attention_mask"] = present
            states = self._transformer(features)["token_embeddings"]
            return np.asarray(_pool(states, present, self.model.pooling).cpu(), np.float32)

    def close(self) -> None:
        """Release the network. Idempotent."""
        self._transformer = None


def _pool(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """``transformer.pool`` where the token states lie, so that only vectors leave the device."""
    import torch

    if pooling == "cls":
        return states[:, 0]
    if pooling == "last":
        return states[torch.arange(len(states), device=states.device), mask.sum(dim=1) - 1]
    present = mask.unsqueeze(-1)
    if pooling == "max":
        return states.masked_fill(present == 0, float("-inf")).amax(dim=1)
    return (states * present).sum(dim=1) / mask.sum(dim=1, keepdim=True)


def _find(config: SentenceTransformersConfig, root: Path) -> tuple[FolderSettings, Artifacts]:
    places = Places(config, root)
    folder = transformer_folder(places.folder)
    home = folder.module_folder
    if home is None:
        raise ConfigError(
            "the model does not say which sentence-transformers folder it is",
            found="no place",
            expected="package, path or repo = … (and perhaps folder = …)",
            next_step="add package, path or repo to the model",
        )
    if (home / "adapter_config.json").exists():
        raise UnsupportedModel(
            f"the model in {home} is an adapter of another model",
            found="adapter_config.json",
            expected="a complete model",
            next_step="merge the adapter into its model and save that",
        )
    files = _weights(places, home)
    # The graph is not in the weights: it is built from the architecture's configuration.
    files["weights/config.json"] = places.find("config.json", None, [home / "config.json"])
    files["tokenizer"] = places.find("tokenizer", config.tokenizer, [home / "tokenizer.json"])
    return folder, Artifacts(files, commit=places.commit)


def _weights(places: Places, home: Path) -> dict[str, Path]:
    """The file of weights, or an index and its parts. Pickled weights are not among them."""
    index = home / f"{_WEIGHTS}.index.json"
    if (home / _WEIGHTS).exists() or not index.exists():
        return {"weights": places.find(_WEIGHTS, None, [home / _WEIGHTS])}
    parts = sorted(set(read_json(index).get("weight_map", {}).values()))
    return {"weights": index} | {
        f"weights/{part}": places.find(_WEIGHTS, None, [inside(home, part)]) for part in parts
    }
