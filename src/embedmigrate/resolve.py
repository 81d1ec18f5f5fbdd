"""From what is configured to what is pinned, and from what is pinned to a loaded embedder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from embedmigrate.config import Settings
from embedmigrate.embedders import vendoring
from embedmigrate.embedders.base import Embedder, ModelConfig
from embedmigrate.embedders.files import FilesConfig
from embedmigrate.errors import (
    ConfigError,
    DigestMismatch,
    EmbedMigrateError,
    MissingExtra,
    ModelUnavailable,
    UnpinnedReference,
)
from embedmigrate.models import EmbeddingModel
from embedmigrate.models.pin_file import Pin, read_pins
from embedmigrate.models.references import is_commit
from embedmigrate.models.witness import Witness


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
    refusal: EmbedMigrateError | None = None
    for pin in reversed(pins):
        try:
            actual = found(settings, pin)
        except (ConfigError, DigestMismatch) as error:  # another pin may match all the same
            refusal = refusal or error
            continue
        stated = other_commit(settings, pin)
        if pin.model.is_declared_like(actual) and not stated:
            return pin
        if stated:
            actual = actual.model_copy(update={"revision": stated})
        refusal = refusal or _other_than_pinned(name, actual, pins)
    assert refusal is not None
    raise refusal


def _other_than_pinned(name: str, actual: EmbeddingModel, pins: Sequence[Pin]) -> DigestMismatch:
    nearest = next((it for it in pins if it.model.fingerprint == actual.fingerprint), pins[-1])
    again = f"embedmigrate pin {name}"
    if nearest.vendored:
        again += f" --vendor {Path(nearest.vendored).parent}"
    return DigestMismatch(
        f"model {name!r} is not the one that was pinned",
        found=_difference(actual, nearest.model),
        expected=" or ".join(pin.model.reference for pin in pins),
        next_step=f"restore the model's files and settings; if the change is meant, {again}, and "
        "write a revision",
    )


def found(settings: Settings, pin: Pin) -> EmbeddingModel:
    """What lies here today where ``pin`` says that its model lies."""
    config = place_of(settings, pin)
    return settings.embedder_class(pin.name).identify(pin.name, config, settings.root)


def place_of(settings: Settings, pin: Pin) -> ModelConfig:
    """The declaration to load a pinned model from: the vendored copy, where there is one.

    ``DigestMismatch`` names what is changed, missing or extra in a vendored copy.
    """
    config = settings.model(pin.name)
    if pin.package is None or not pin.vendored:
        return config
    vendoring.require_whole(settings.root / pin.vendored, pin.package, pin.name)
    return vendoring.place_in(config, pin.package, pin.model.revision)


def other_commit(settings: Settings, pin: Pin) -> str:
    """The commit that the configuration states where another one was vendored, else nothing."""
    config = settings.model(pin.name)
    stated = (isinstance(config, FilesConfig) and config.revision) or ""
    vendored_otherwise = pin.vendored and stated != pin.model.revision
    return stated if vendored_otherwise and is_commit(stated) else ""


def newest_pin(settings: Settings, name: str) -> EmbeddingModel | None:
    """The last model that was pinned under a configured name; reads pin files and nothing else."""
    pins = read_pins(settings.pins, name)
    return pins[-1].model if pins else None


def _difference(actual: EmbeddingModel, pin: EmbeddingModel) -> str:
    there = pin.space() | {"query_prompt": pin.query_prompt, "revision": pin.revision}
    here = actual.space() | {"query_prompt": actual.query_prompt, "revision": actual.revision}
    changed = [
        f"{field} {here.get(field)!r}, pinned {there.get(field)!r}"
        for field in sorted({*there, *here} - {"artifacts", "witness"})
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
    """The pin file of ``model``, under whichever configured name; it tells where the model lies.

    Of the same query side, if there is one. One that is vendored comes first: the model is loaded
    from there alone.
    """
    pins = [pin for name in settings.models for pin in read_pins(settings.pins, name)]
    of_space = [pin for pin in pins if pin.model.fingerprint == model.fingerprint]
    if of_space:
        return min(
            of_space,
            key=lambda pin: (pin.model.query_side != model.query_side, not pin.vendored),
        )
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
    pin = pin_of_model(settings, model)
    same_side = pin.model.query_side == model.query_side
    return pin.witness if same_side else pin.witness.of_documents()


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
