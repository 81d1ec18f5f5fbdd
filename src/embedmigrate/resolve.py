"""From what is configured to what is pinned, and from what is pinned to a loaded embedder."""

from __future__ import annotations

from embedmigrate.config import Settings
from embedmigrate.embedders.base import Embedder, ModelConfig
from embedmigrate.errors import (
    ConfigError,
    DigestMismatch,
    MissingExtra,
    ModelUnavailable,
    UnpinnedReference,
)
from embedmigrate.models import EmbeddingModel
from embedmigrate.models.pin_file import Pin, read_pins
from embedmigrate.models.witness import Witness


def identify(settings: Settings, name: str) -> EmbeddingModel:
    """The exact model that the configuration of ``name`` stands for here and now."""
    config = settings.model(name)
    return settings.embedder_class(name).identify(name, config, settings.root)


def pinned(settings: Settings, name: str) -> EmbeddingModel:
    """The pinned model of a configured name.

    ``UnpinnedReference`` when it was never pinned; ``DigestMismatch`` when what lies here today is
    not what any of its pin files says. Of several that match, the last one pinned counts.
    """
    return pin_of(settings, name).model


def pin_of(settings: Settings, name: str) -> Pin:
    """The pin file behind ``pinned``."""
    settings.model(name)
    pins = read_pins(settings.pins, name)
    if not pins:
        raise UnpinnedReference(
            f"model {name!r} is not pinned",
            found=f"no pin file in {settings.pins}",
            expected=f"{name}.<fingerprint>.json",
            next_step=f"embedmigrate pin {name}",
        )
    matching = (pin for pin in reversed(pins) if pin.model.is_declared_like(found(settings, pin)))
    if (pin := next(matching, None)) is not None:
        return pin
    actual = found(settings, pins[-1])
    nearest = next((it for it in pins if it.model.fingerprint == actual.fingerprint), pins[-1])
    raise DigestMismatch(
        f"model {name!r} is not the one that was pinned",
        found=_difference(actual, nearest.model),
        expected=" or ".join(pin.model.reference for pin in pins),
        next_step=f"restore the model's files and settings; if the change is meant, "
        f"embedmigrate pin {name}, and write a revision",
    )


def found(settings: Settings, pin: Pin) -> EmbeddingModel:
    """What lies here today where ``pin`` says that its model lies."""
    config = place_of(settings, pin)
    return settings.embedder_class(pin.name).identify(pin.name, config, settings.root)


def place_of(settings: Settings, pin: Pin) -> ModelConfig:
    """The declaration to load a pinned model from."""
    return settings.model(pin.name)


def newest_pin(settings: Settings, name: str) -> EmbeddingModel | None:
    """The last model that was pinned under a configured name; reads pin files and nothing else."""
    pins = read_pins(settings.pins, name)
    return pins[-1].model if pins else None


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


def pin_of_model(settings: Settings, model: EmbeddingModel) -> Pin:
    """The pin file of ``model``, under whichever configured name; it tells where the model lies."""
    for name in settings.models:
        for pin in read_pins(settings.pins, name):
            if pin.model.fingerprint == model.fingerprint:
                return pin
    raise ConfigError(
        f"no configured model is pinned as {model.reference}",
        found=", ".join(sorted(settings.models)) or "no [models.x] table",
        expected=f"a pin file *.{model.fingerprint}.json in {settings.pins}",
        next_step="restore the pin file or the [models.x] table from version control",
    )


def knows(settings: Settings, model: EmbeddingModel) -> bool:
    """Whether one of the configured models is pinned as ``model``; looks at no file of its."""
    try:
        pin_of_model(settings, model)
    except ConfigError:
        return False
    return True


def witness_of(settings: Settings, model: EmbeddingModel) -> Witness:
    """How ``model`` behaved when it was pinned."""
    return pin_of_model(settings, model).witness


def load_embedder(settings: Settings, model: EmbeddingModel) -> Embedder:
    """Load ``model`` from where the configuration says it lies; digests are checked (I18)."""
    pin = pin_of_model(settings, model)
    return settings.embedder_class(pin.name).load(place_of(settings, pin), model, settings.root)


def embedder_to_serve(settings: Settings, collection: str, model: EmbeddingModel) -> Embedder:
    """``load_embedder`` for an application; ``ModelUnavailable`` when it was shipped without."""
    try:
        return load_embedder(settings, model)
    except MissingExtra:
        raise
    except ConfigError as error:
        raise ModelUnavailable(
            f"this application does not have {model.reference}, which an index of {collection!r} "
            "is searched with",
            found=error.message if error.found is None else f"{error.message}: {error.found}",
            expected="its [models.x] table, its pin file and its files",
            next_step="deploy an image that has them; embedmigrate status shows what is live",
        ) from error
