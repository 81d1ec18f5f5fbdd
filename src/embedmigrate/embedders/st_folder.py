"""The settings that a sentence-transformers folder states for itself.

Only what one dense vector a text needs is understood: Transformer + Pooling (+ Normalize), or
StaticEmbedding (+ Normalize). Everything else is refused by name, never approximated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from embedmigrate.embedders.files import inside, read_json
from embedmigrate.errors import ConfigError, UnsupportedModel
from embedmigrate.models.embedding_model import Pooling

Side = Literal["document", "query"]

_PROMPT_NAMES: dict[Side, tuple[str, ...]] = {
    "document": ("document", "passage", "corpus"),
    "query": ("query",),
}

_POOLINGS: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "max": "max", "lasttoken": "last"}

_SETTINGS_FILES = (
    *("modules.json", "config.json", "sentence_*_config.json", "config_sentence_transformers.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "*.model"),
    *("processor_config.json", "preprocessor_config.json"),
)
"""What a folder of the model, or of one of its modules, states in files: all that we read, and all
that the library of the folder reads besides weights."""

_SUPPORTED_MODULES = "Transformer, Pooling and perhaps Normalize; or StaticEmbedding"

_REASONS = {
    "Dense": "a dense layer after the pooling",
    "Router": "another encoder for each side",
    "Asym": "another encoder for each side",
    "WordWeights": "weights for each word",
    "CLIPModel": "images",
    "MLMTransformer": "sparse vectors",
    "SpladePooling": "sparse vectors",
    "SparseAutoEncoder": "sparse vectors",
    "SparseStaticEmbedding": "sparse vectors",
    "MultiVectorMask": "many vectors for a text",
}


@dataclass(frozen=True)
class FolderSettings:
    """What a folder says. None where it says nothing."""

    module_folder: Path | None = None
    """Where the tokenizer and the configuration of the first module lie."""
    static: bool = False
    pooling: Pooling | None = None
    normalize: bool | None = None
    max_tokens: int | None = None
    width: int | None = None
    """Dimension of the pooled vectors."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None

    def prompt(self, side: Side) -> str:
        """The prompt of one side; ``ConfigError`` where the folder leaves it open."""
        stated = [self.prompts[name] for name in _PROMPT_NAMES[side] if name in self.prompts]
        if not stated and self.default_prompt:
            found = f"only a default prompt, {self.default_prompt!r}"
        elif stated and not stated[0] and any(stated):
            found = "several, the first of them empty"
        else:
            return stated[0] if stated else ""
        raise ConfigError(
            f"the model's folder leaves its {side} prompt open",
            found=found,
            expected=f"a prompt named {' or '.join(_PROMPT_NAMES[side])}",
            next_step=f'add {side}_prompt = "…" to the model',
        )


def read_folder(folder: Path | None) -> FolderSettings:
    """The settings of a model folder; of a plain folder at most its token limit is known.

    Raises ``UnsupportedModel`` with the module or setting that was found.
    """
    if folder is None:
        return FolderSettings()
    if not (folder / "modules.json").is_file():
        return FolderSettings(module_folder=folder, max_tokens=_token_limit(folder))
    modules = _read_modules(folder)
    prompts, default_prompt = _read_prompts(folder)
    names = [name for name, _ in modules]
    module_folder = modules[0][1]
    normalize = "Normalize" in names
    if names[0] == "StaticEmbedding":
        return FolderSettings(
            module_folder,
            static=True,
            normalize=normalize,
            prompts=prompts,
            default_prompt=default_prompt,
        )
    pooling, width = _read_pooling(modules[1][1] / "config.json")
    return FolderSettings(
        module_folder,
        pooling=pooling,
        normalize=normalize,
        max_tokens=_read_transformer(module_folder) or _token_limit(module_folder),
        width=width,
        prompts=prompts,
        default_prompt=default_prompt,
    )


def settings_files(folder: Path) -> list[Path]:
    """The files of a model folder that say a setting or hold a vocabulary."""
    homes = [folder]
    if (folder / "modules.json").is_file():
        homes += [place for _, place in _read_modules(folder)]
    found = {path for home in homes for name in _SETTINGS_FILES for path in home.glob(name)}
    return sorted(path for path in found if path.is_file())


def _read_modules(folder: Path) -> list[tuple[str, Path]]:
    """(class name, folder) of each module, in order; only supported sequences come back."""
    path = folder / "modules.json"
    try:
        modules = [
            (str(module["type"]), inside(folder, str(module["path"])))
            for module in json.loads(path.read_text("utf-8"))
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error!r}", next_step="restore the file"
        ) from error
    names = [kind.rpartition(".")[2] for kind, _ in modules]
    foreign = [kind for kind, _ in modules if not kind.startswith("sentence_transformers.")]
    if foreign:
        _refuse(folder, f"code of its own ({foreign[0]})", "modules of sentence-transformers")
    core = names[:-1] if names[-1:] == ["Normalize"] else names
    if core not in (["Transformer", "Pooling"], ["StaticEmbedding"]):
        strange = next((reason for name in names if (reason := _REASONS.get(name))), None)
        if strange is None and core == ["Transformer"]:
            strange = "one vector for each token: there is no Pooling"
        listed = ", ".join(names) or "no module"
        _refuse(folder, f"{listed} ({strange})" if strange else listed, _SUPPORTED_MODULES)
    return [(name, place) for name, (_, place) in zip(names, modules, strict=True)]


def _read_pooling(path: Path) -> tuple[Pooling, int | None]:
    config = read_json(path)
    modes = config.get("pooling_mode")
    if modes is None:
        # The older form: one flag a mode; several are concatenated.
        modes = [
            key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
            for key, value in config.items()
            if key.startswith("pooling_mode_") and value is True
        ]
    modes = [modes] if isinstance(modes, str) else list(modes)
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        _refuse(path, f"pooling {' + '.join(map(str, modes)) or 'not said'}", ", ".join(_POOLINGS))
    if config.get("include_prompt", True) is not True:
        _refuse(path, "a pooling that leaves the prompt out", "a pooling of every token")
    width = config.get("embedding_dimension", config.get("word_embedding_dimension"))
    return _POOLINGS[modes[0]], width if isinstance(width, int) else None


def _read_transformer(folder: Path) -> int | None:
    """``max_seq_length`` of the Transformer module, after a look for what we cannot do."""
    for path in sorted(folder.glob("sentence_*_config.json")):
        config = read_json(path)
        for problem in _transformer_problems(config):
            _refuse(path, problem, "a plain text encoder")
        return _limit(config.get("max_seq_length"))
    return None


def _transformer_problems(config: Mapping[str, Any]) -> Iterator[str]:
    if config.get("do_lower_case"):
        yield "do_lower_case, which no tokenizer.json states"
    for key, plain in (
        ("transformer_task", "feature-extraction"),
        ("module_output_name", "token_embeddings"),
    ):
        if config.get(key, plain) not in (plain, None):
            yield f"{key} {config[key]!r}"
    if "text" not in (config.get("modality_config") or {"text": None}):
        yield "no text modality"
    for key in ("query_expansion", "query_length", "document_length"):
        if config.get(key):
            yield f"{key}, of models with many vectors for a text"
    if config.get("processing_kwargs"):
        yield "processing_kwargs"


def _token_limit(folder: Path) -> int | None:
    """The limit that sentence-transformers infers: the tokenizer's, at most the positions."""
    limits = []
    for name, key in (
        ("tokenizer_config.json", "model_max_length"),
        ("config.json", "max_position_embeddings"),
    ):
        if (folder / name).is_file():
            limits.append(_limit(read_json(folder / name).get(key)))
    return min((limit for limit in limits if limit is not None), default=None)


def _limit(value: object) -> int | None:
    """A token limit; "no limit" is written as None, -1 or a number like 1e30."""
    if isinstance(value, int | float) and 0 < value < 1e9:
        return int(value)
    return None


def _read_prompts(folder: Path) -> tuple[dict[str, str], str | None]:
    path = folder / "config_sentence_transformers.json"
    if not path.is_file():
        return {}, None
    config = read_json(path)
    kind = config.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        _refuse(path, f"a {kind}", "a SentenceTransformer")
    prompts = {name: text or "" for name, text in (config.get("prompts") or {}).items()}
    default = config.get("default_prompt_name")
    return prompts, prompts.get(default, default) if default else None


def _refuse(path: Path, found: str, expected: str) -> NoReturn:
    raise UnsupportedModel(
        f"the model in {path} is not one dense vector for each text",
        found=found,
        expected=expected,
        next_step="choose a dense text embedding model",
    )
