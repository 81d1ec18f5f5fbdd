"""Commands about what a model is: pin, and drift."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from embedmigrate import resolve
from embedmigrate.command.project import hooks_of, tell_drift
from embedmigrate.command.vendoring import line_to_configure, packaged, summary
from embedmigrate.config import Settings
from embedmigrate.embedders.base import NORM_TOLERANCE, Embedder
from embedmigrate.embedders.measuring import (
    behaviour,
    measured,
    processor_of,
    record_of,
    runtime_of,
    seen_to_cut_at,
)
from embedmigrate.engine.job import Reporter
from embedmigrate.engine.occasion import Hooks
from embedmigrate.errors import ConfigError, Drifted, NotProven
from embedmigrate.models import EmbeddingModel
from embedmigrate.models.canaries import CANARIES, SENTINELS
from embedmigrate.models.drift import (
    OTHER_MODEL_DISTANCE,
    DriftReport,
    judge,
    threshold_of,
)
from embedmigrate.models.pin_file import Pin, read_pins, write_pin
from embedmigrate.models.references import is_dated
from embedmigrate.models.witness import Behaviour, Witness, WitnessRecord

_LONG_TEXT = 50
"""Times that the longest canary is repeated to see where a model cuts."""


def pin(
    settings: Settings, name: str, *, new_witness: bool = False, vendor: Path | str | None = None
) -> dict[str, Any]:
    """Resolve the model ``name`` to its exact identity, measure it, and write its pin file.

    A pin file that is there and whose witness still holds is kept; a platform that it does not
    know is added. ``Drifted`` when the model behaves otherwise than it did: ``new_witness`` then
    makes it a new model, with a fingerprint of its own. ``vendor`` copies its files into a folder
    of their own below that one (relative to the project); from then on they alone are the model.
    """
    pins = read_pins(settings.pins, name)
    place, package = packaged(settings, name, pins, vendor)
    cls = settings.embedder_class(name)
    declared = cls.identify(name, place, settings.root)
    known = next((it for it in reversed(pins) if it.model.is_declared_like(declared)), None)
    # A witness is no part of what a declaration says, so an embedder is asked for one as declared.
    expected = declared if known is None else known.model
    with closing(cls.load(place, expected, settings.root)) as embedder:
        _refuse_unmeasurable(embedder.model, behaviour(embedder, SENTINELS[:1]))
        seen = measured(embedder)  # hundreds of calls, which one that is wrong at once is spared
        record = record_of(embedder, seen)
        _refuse_unmeasurable(embedder.model, seen)
        effective = _effective(embedder, seen)
    if known is None:
        new = _new_pin(name, declared, record)
    else:
        new = _renewed(known, record, name, new_witness=new_witness)
        if vendor is not None and known is not pins[-1]:  # the last one pinned counts
            new = replace(new, pinned_at=record.measured_at)
    model = new.model.model_copy(update={"revision": declared.revision})
    new = replace(new, model=model, effective=effective, package=package)
    try:
        path, changed = write_pin(settings.pins, new)
    except OSError as error:
        raise ConfigError(
            f"the pin file cannot be written to {settings.pins}: {error.strerror}",
            next_step="make the folder writable",
        ) from error
    return {
        "schema": 1,
        "name": name,
        "reference": new.model.reference,
        "path": str(path),
        "changed": changed,
        "assurance": new.model.pinned_or_witnessed,
        "model": new.model.model_dump(mode="json"),
        "effective": dict(new.effective),
        "package": package and summary(package),
        "configure": line_to_configure(settings.model(name), new.model),
        "dated_name": _dated_name(new),
        "same_space_as": _same_space(settings, name, new.model),
        "witness": {
            "runtime": record.runtime,
            "processor": record.processor,
            "canaries": len(CANARIES),
            "noise": seen.noise,
            "batch_noise": seen.batch_noise,
            "detects": threshold_of(seen.noise),
            "detects_in_batches": threshold_of(seen.batch_noise),
        },
    }


def _new_pin(name: str, declared: EmbeddingModel, record: WitnessRecord) -> Pin:
    # Where no file says what a model is, what it answers is a part of what it is.
    model = declared if declared.artifacts else _with_witness(declared, record)
    return Pin(name, model, record.measured_at, witness=Witness((record,)))


def _renewed(known: Pin, record: WitnessRecord, name: str, *, new_witness: bool) -> Pin:
    report = judge(known.witness, record.behaviour, record.runtime, record.processor)
    if report.holds:
        if report.known_platform:
            return known
        return replace(
            known,
            pinned_at=known.pinned_at or record.measured_at,
            witness=known.witness.having(record),
        )
    if not new_witness:
        was = known.model.pinned_or_witnessed
        raise Drifted(
            f"model {name!r} does not behave as it did when it was {was}",
            found=report.summary(),
            expected=f"at most {report.threshold:.2g} from the witness of {known.model.reference}",
            next_step=f"find out what changed; embedmigrate pin {name} --new-witness makes it a "
            "new model, to which collections are migrated by a revision",
        )
    model = _with_witness(known.model, record)
    return Pin(name, model, record.measured_at, package=known.package, witness=Witness((record,)))


def _with_witness(model: EmbeddingModel, record: WitnessRecord) -> EmbeddingModel:
    stated = model.model_dump(exclude={"fingerprint"}) | {"witness": record.digest}
    return EmbeddingModel.model_validate(stated)


def _refuse_unmeasurable(model: EmbeddingModel, seen: Behaviour) -> None:
    """A model whose answers say nothing of it has no witness."""
    if seen.refusal:
        raise ConfigError(
            f"{model.name} does not answer every canary as it is declared",
            found=seen.refusal,
            expected=f"{model.dimensions} numbers for every text"
            + (", of length 1" if model.normalize else ""),
            next_step="correct dimensions, normalize or parameters of the model",
        )
    if not model.artifacts and (least := threshold_of(seen.noise)) >= OTHER_MODEL_DISTANCE:
        raise NotProven(
            f"{model.name} answers too differently from one time to the next for a witness",
            found=f"cosine distances up to {seen.noise:.2g} for one text: a change below "
            f"{least:.2g} is hidden in it",
            expected=f"less than {OTHER_MODEL_DISTANCE}, which another model may be away",
            next_step="choose another model, or one whose files can be pinned",
        )


def _effective(embedder: Embedder, seen: Behaviour) -> dict[str, Any]:
    """Settings read back from the loaded model; ``ConfigError`` where they are not the pinned ones.

    What a file states is not always what a model does: a ``tokenizer.json`` may say 128 tokens
    where the model takes 256.
    """
    model = embedder.model
    norms = np.linalg.norm(seen.documents[seen.documents.any(axis=1)].astype(np.float64), axis=1)
    unit = bool(len(norms) and (np.abs(norms - 1) <= NORM_TOLERANCE).all())
    effective: dict[str, Any] = {"dimensions": seen.dimensions, "unit_vectors": unit}
    expected: dict[str, Any] = {"dimensions": model.dimensions}
    if model.normalize:
        expected["unit_vectors"] = True
    if model.max_tokens is not None:
        expected["max_tokens"] = model.max_tokens
        effective["max_tokens"] = _tokens_taken(embedder, model.max_tokens, seen)
    if answers_as := getattr(embedder, "answers_as", ""):
        effective["answers_as"] = answers_as
    for key, value in expected.items():
        if effective[key] != value:
            raise ConfigError(
                f"{model.reference} does not do what is declared for it: {key}",
                found=f"{key} {effective[key]} when it was asked",
                expected=f"{key} {value}",
                next_step=f"correct {key} of the model",
            )
    return effective


def _tokens_taken(embedder: Embedder, stated: int, seen: Behaviour) -> int | str:
    tokens_of = getattr(embedder, "tokens_of", None)
    longest = max((canary.text for canary in CANARIES), key=len)
    taken: int | None = tokens_of(" ".join([longest] * _LONG_TEXT)) if tokens_of else None
    if taken is not None:
        return taken
    cuts = seen_to_cut_at(embedder, stated, threshold_of(seen.noise))
    return stated if cuts else f"other than {stated}"


def _dated_name(pin: Pin) -> str | None:
    """What a server calls a model that is only witnessed, if that name would pin it."""
    answers_as = str(pin.effective.get("answers_as", ""))
    return answers_as if pin.model.assurance == "witness" and is_dated(answers_as) else None


def _same_space(settings: Settings, name: str, model: EmbeddingModel) -> list[str]:
    """Other configured names whose pins are of the same space: equal files in another package."""
    return [
        other
        for other in settings.models
        if other != name
        and any(it.model.fingerprint == model.fingerprint for it in read_pins(settings.pins, other))
    ]


def drift(
    settings: Settings, name: str | None = None, *, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Is each pinned model (or ``name``) still itself? Asks it for the canaries and compares.

    The result's ``holds`` is False when one has drifted; hooks hear of each collection that uses
    it. A local model on a platform that its pin file does not know gets a record of it there, if
    the file can be written.
    """
    names = [name] if name is not None else list(_pinned_names(settings))
    entries = [_drift_of(settings, it) for it in names]
    hooks = hooks_of(settings, None, reporter)
    for entry in entries:
        if entry["verdict"] == "DRIFT":
            _tell(settings, hooks, entry)
    return {
        "schema": 1,
        "holds": all(it["verdict"] != "DRIFT" for it in entries),
        "models": entries,
    }


def _tell(settings: Settings, hooks: Hooks, entry: Mapping[str, Any]) -> None:
    drift = Drifted(
        f"{entry['reference']} does not behave as it did when it was {entry['assurance']}",
        found="; ".join(entry["reasons"]),
        expected=f"at most {entry['threshold']:.2g} from its witness",
        next_step=f"embedmigrate drift {entry['model']}",
    )
    using: list[str | None] = [
        it.name for it in settings.collections.values() if it.model == entry["model"]
    ]
    for collection in using or [None]:
        tell_drift(hooks, collection, drift)


def _pinned_names(settings: Settings) -> Iterator[str]:
    return (name for name in settings.models if read_pins(settings.pins, name))


def _drift_of(settings: Settings, name: str) -> dict[str, Any]:
    pin = resolve.pin_of(settings, name)
    with closing(resolve.load_embedder(settings, pin.model)) as embedder:
        runtime, processor = runtime_of(embedder), processor_of(embedder)
        known = pin.witness.of(runtime, processor)
        seen = behaviour(embedder) if known is not None else measured(embedder)
        report = judge(pin.witness, seen, runtime, processor)
        added = False
        if known is None and report.holds and pin.model.artifacts:
            added = _remember(
                settings, replace(pin, witness=pin.witness.having(record_of(embedder, seen)))
            )
    return _entry(pin, report, (runtime, processor), added)


def _remember(settings: Settings, pin: Pin) -> bool:
    try:
        return write_pin(settings.pins, pin)[1]
    except OSError:  # a deployment that cannot be written to warns each time
        return False


def _entry(pin: Pin, report: DriftReport, platform: Sequence[str], added: bool) -> dict[str, Any]:
    return {
        "model": pin.name,
        "reference": pin.model.reference,
        "assurance": pin.model.pinned_or_witnessed,
        "runtime": platform[0],
        "processor": platform[1],
        "record_added": added,
        **report.dump(),
    }
