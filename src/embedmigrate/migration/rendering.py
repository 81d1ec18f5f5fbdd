"""Writing a revision: a complete, frozen script with every identity spelt out."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from embedmigrate.models import Chunker, EmbeddingModel, IndexSpec


@dataclass(frozen=True)
class ScriptBody:
    """What the template puts into a script for a collection."""

    imports: str
    constants: str
    upgrade: str
    downgrade: str


def render(
    collection: str, source: str | None, spec: IndexSpec, *, allow_lag: bool = False
) -> ScriptBody:
    """The body of a revision that moves ``collection`` from ``source`` to ``spec``.

    ``allow_lag`` is for a source that does not tell of its changes."""
    index = [
        f"recipe={_recipe(spec)}",
        f"factory={_quoted(spec.factory)}",
        f"metric={_quoted(spec.metric)}",
        *(["allow_lag=True"] if allow_lag else []),
    ]
    imports = "EmbeddingModel, Recipe, op"
    if spec.recipe.chunker is not None:
        imports = f"Chunker, {imports}"
    return _body("reembed", collection, source, spec.model, index, imports)


def render_rebind(collection: str, source: str, target: EmbeddingModel) -> ScriptBody:
    """The body of a revision that rebinds ``collection`` from ``source`` to ``target``."""
    return _body("rebind", collection, source, target, [], "EmbeddingModel, op")


def _body(
    operation: str,
    collection: str,
    source: str | None,
    target: EmbeddingModel,
    index: Sequence[str],
    imports: str,
) -> ScriptBody:
    constant = _constant_name(target.name)
    arguments = [_quoted(collection), f"source={_quoted(source)}", f"target={constant}", *index]
    call = "\n".join(f"        {argument}," for argument in arguments)
    return ScriptBody(
        imports=imports,
        constants=f"{constant} = {_model(target)}",
        upgrade=f"    op.{operation}(\n{call}\n    )",
        downgrade=f"    op.rollback({_quoted(collection)}, to={_quoted(source)})",
    )


def _constant_name(name: str) -> str:
    words = re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_").upper()
    if not words or words[0].isdigit() or keyword.iskeyword(words):
        words = f"MODEL_{words}"
    return words


def _model(model: EmbeddingModel) -> str:
    stated = model.model_dump()
    lines = [f"    name={_quoted(model.name)},"]
    if model.artifacts:
        lines += ["    artifacts={", *_items(model.artifacts), "    },"]
    for field, info in type(model).model_fields.items():
        if field in ("name", "artifacts", "fingerprint"):
            continue
        value = stated[field]
        if field == "parameters" and value:
            lines += ["    parameters={", *_items(value), "    },"]
        elif field == "dimensions" or value != info.get_default(call_default_factory=True):
            lines.append(f"    {field}={_quoted(value)},")
    lines.append(f"    fingerprint={_quoted(model.fingerprint)},")
    return "EmbeddingModel(\n" + "\n".join(lines) + "\n)"


def _items(mapping: Mapping[str, object]) -> list[str]:
    return [f"        {_quoted(key)}: {_quoted(value)}," for key, value in mapping.items()]


def _recipe(spec: IndexSpec) -> str:
    fields = ", ".join(_quoted(field) for field in spec.recipe.text)
    joiner = "" if spec.recipe.joiner == " " else f", joiner={_quoted(spec.recipe.joiner)}"
    chunker = spec.recipe.chunker
    cut = "" if chunker is None else f", chunker={_chunker(chunker)}"
    return f"Recipe(text=[{fields}]{joiner}{cut})"


def _chunker(chunker: Chunker) -> str:
    stated = ", ".join(f"{name}={_quoted(it)}" for name, it in chunker.model_dump().items())
    return f"Chunker({stated})"


def _quoted(value: object) -> str:
    """A Python literal, strings in double quotes as formatters write them."""
    text = repr(value)
    if isinstance(value, str) and text.startswith("'") and '"' not in value:
        return '"' + text[1:-1].replace("\\'", "'") + '"'
    return text
