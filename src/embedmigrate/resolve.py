"""From what is configured to what is pinned, and from what is pinned to a loaded embedder."""

from __future__ import annotations

from embedmigrate.config import Settings
from embedmigrate.embedders.base import Embedder
from embedmigrate.errors import ConfigError, DigestMismatch, UnpinnedReference
from embedmigrate.models import EmbeddingModel
from embedmigrate.models.pin_file import read_pins


def identify(settings: Settings, name: str) -> EmbeddingModel:
    """The exact model that the configuration of ``name`` stands for here and now."""
    config = settings.model(name)
    return settings.embedder_class(name).identify(name, config, settings.root)


def pinned(settings: Settings, name: str) -> EmbeddingModel:
    """The pinned model of a configured name.

    ``UnpinnedReference`` when it was never pinned; ``DigestMismatch`` when what lies here today is
    not what any of its pin files says.
    """
    settings.model(name)
    pins = read_pins(settings.pins, name)
    if not pins:
        raise UnpinnedReference(
            f"model {name!r} is not pinned",
            found=f"no pin file in {settings.pins}",
            expected=f"{name}.<fingerprint>.json",
            next_step=f"embedmigrate pin {name}",
        )
    actual = identify(settings, name)
    for pin in pins:
        if pin.query_side == actual.query_side:  # which takes the space in
            return pin
    nearest = next((pin for pin in pins if pin.fingerprint == actual.fingerprint), pins[-1])
    raise DigestMismatch(
        f"model {name!r} is not the one that was pinned",
        found=_difference(actual, nearest),
        expected=" or ".join(pin.reference for pin in pins),
        next_step=f"restore the model's files and settings; if the change is meant, "
        f"embedmigrate pin {name}, and write a revision",
    )


def newest_pin(settings: Settings, name: str) -> EmbeddingModel | None:
    """The last model that was pinned under a configured name; reads pin files and nothing else."""
    pins = read_pins(settings.pins, name)
    return pins[-1] if pins else None


def _difference(actual: EmbeddingModel, pin: EmbeddingModel) -> str:
    there = {**pin.space(), "query_prompt": pin.query_prompt}
    here = {**actual.space(), "query_prompt": actual.query_prompt}
    changed = [
        f"{field} {here.get(field)!r}, pinned {there.get(field)!r}"
        for field in sorted({*there, *here} - {"artifacts"})
        if there.get(field) != here.get(field)
    ]
    changed += [
        f"{role} {actual.artifacts.get(role, 'missing')}, "
        f"pinned {pin.artifacts.get(role, 'absent')}"
        for role in sorted({*pin.artifacts, *actual.artifacts})
        if pin.artifacts.get(role) != actual.artifacts.get(role)
    ]
    return "; ".join(changed)


def configured_name(settings: Settings, model: EmbeddingModel) -> str:
    """The ``[models.x]`` table that says where ``model`` lies, found through the pin files."""
    for name in settings.models:
        if any(pin.fingerprint == model.fingerprint for pin in read_pins(settings.pins, name)):
            return name
    raise ConfigError(
        f"no configured model is pinned as {model.reference}",
        found=", ".join(sorted(settings.models)) or "no [models.x] table",
        expected=f"a pin file *.{model.fingerprint}.json in {settings.pins}",
        next_step="restore the pin file or the [models.x] table from version control",
    )


def load_embedder(settings: Settings, model: EmbeddingModel) -> Embedder:
    """Load ``model`` from where the configuration says it lies; digests are checked (I18)."""
    name = configured_name(settings, model)
    return settings.embedder_class(name).load(settings.model(name), model, settings.root)
