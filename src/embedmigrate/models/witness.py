"""The witness of a pinned model: how it behaved on the canaries when it was pinned.

Digests prove which files are loaded; a witness shows what comes out of them. There is one record
for each runtime and processor family, because the same weights answer a little differently there.
"""

from __future__ import annotations

import base64
import hashlib
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedmigrate.models.canaries import CANARIES, canary_digest
from embedmigrate.models.canonical import canonical_json

Array = npt.NDArray[np.float32]

_STORED = np.dtype("<f2")
"""Directions are stored in half precision: 3e-8 of cosine distance, far below what is alarming."""


@dataclass(frozen=True)
class Behaviour:
    """Vectors of the canaries as a model answered them, ``(canaries, dimensions)`` a side.

    A canary that the model refused has a zero vector; ``refusal`` is what it said first.
    ``noise`` is the largest cosine distance between two answers to one text asked alone,
    ``batch_noise`` between a text alone and the same text among others.
    """

    documents: Array
    queries: Array
    noise: float = 0.0
    batch_noise: float = 0.0
    refusal: str = ""

    @property
    def dimensions(self) -> int:
        return int(self.documents.shape[1])


@dataclass(frozen=True)
class WitnessRecord:
    """A behaviour, and where and when it was seen."""

    runtime: str
    processor: str
    measured_at: str
    """ISO 8601, UTC."""
    behaviour: Behaviour

    @property
    def platform(self) -> tuple[str, str]:
        return self.runtime, self.processor

    @property
    def place(self) -> str:
        """The platform in words; a server does not tell its processor."""
        return " on ".join(filter(None, self.platform))

    @cached_property
    def digest(self) -> str:
        """``sha256:…`` of what was seen, as it is stored: it pins a model that has no files."""
        seen = {key: value for key, value in self.dump().items() if key in ("documents", "queries")}
        text = canonical_json({"canaries": canary_digest(), **seen})
        return "sha256:" + hashlib.sha256(text.encode("ascii")).hexdigest()

    def dump(self) -> dict[str, Any]:
        """As JSON; ``load`` is its inverse, up to half precision."""
        seen = self.behaviour
        same = np.array_equal(seen.documents, seen.queries)
        return {
            "runtime": self.runtime,
            "processor": self.processor,
            "measured_at": self.measured_at,
            "noise": seen.noise,
            "batch_noise": seen.batch_noise,
            "documents": _dump(seen.documents),
            "queries": None if same else _dump(seen.queries),
        }

    @classmethod
    def load(cls, stored: Mapping[str, Any]) -> WitnessRecord:
        """``ValueError``, ``KeyError`` or ``TypeError`` for what ``dump`` did not write."""
        documents = _load(stored["documents"])
        queries = documents if stored["queries"] is None else _load(stored["queries"])
        behaviour = Behaviour(
            documents, queries, float(stored["noise"]), float(stored["batch_noise"])
        )
        return cls(
            str(stored["runtime"]), str(stored["processor"]), str(stored["measured_at"]), behaviour
        )


@dataclass(frozen=True)
class Witness:
    """The records of one model, at most one for each platform."""

    records: tuple[WitnessRecord, ...] = ()
    canaries: str = field(default_factory=canary_digest)

    def of(self, runtime: str, processor: str) -> WitnessRecord | None:
        """The record of a platform, if there is one."""
        return next((it for it in self.records if it.platform == (runtime, processor)), None)

    def having(self, record: WitnessRecord) -> Witness:
        """This witness with ``record``, in place of one of the same platform."""
        others = [it for it in self.records if it.platform != record.platform]
        return Witness(tuple(sorted([*others, record], key=lambda it: it.platform)))

    def of_documents(self) -> Witness:
        """What it says of documents alone: it holds for every query side of the space."""
        seen = [replace(it.behaviour, queries=it.behaviour.documents[:0]) for it in self.records]
        records = [replace(it, behaviour=b) for it, b in zip(self.records, seen, strict=True)]
        return replace(self, records=tuple(records))

    def dump(self) -> dict[str, Any]:
        return {"canaries": self.canaries, "records": [it.dump() for it in self.records]}

    @classmethod
    def load(cls, stored: Mapping[str, Any]) -> Witness:
        """The witness in a pin file; one of other canaries has no record that can be used."""
        if stored["canaries"] != canary_digest():
            return cls()
        return cls(tuple(WitnessRecord.load(it) for it in stored["records"]))


def _dump(vectors: Array) -> dict[str, Any]:
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    directions = vectors / np.where(norms == 0, 1, norms)[:, np.newaxis]
    return {
        "dimensions": int(vectors.shape[1]),
        "norms": [float(f"{norm:.7g}") for norm in norms],
        "directions": base64.b64encode(directions.astype(_STORED).tobytes()).decode("ascii"),
    }


def _load(stored: Mapping[str, Any]) -> Array:
    shape = (len(CANARIES), int(stored["dimensions"]))
    raw = base64.b64decode(stored["directions"], validate=True)
    directions = np.frombuffer(raw, _STORED).reshape(shape).astype(np.float64)
    lengths = np.linalg.norm(directions, axis=1)
    norms = np.asarray(stored["norms"], np.float64)
    if norms.shape != lengths.shape or not np.isfinite(directions).all():
        raise ValueError(f"a witness of {len(norms)} norms and {shape} directions")
    scale = norms / np.where(lengths == 0, 1, lengths)
    return np.asarray(directions * scale[:, np.newaxis], np.float32)


@lru_cache(maxsize=1)
def processor_family() -> str:
    """Architecture, maker and widest vector instructions of this machine's processor.

    These decide which kernels a runtime picks, and so the last bits of an answer.
    """
    machine = platform.machine().lower() or "unknown"
    maker, flags = "", set[str]()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "vendor_id":
                maker = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = set(value.split())
                break
    kinds = ("amx_int8", "avx512_vnni", "avx512f", "avx_vnni", "avx2", "sve", "asimddp", "asimd")
    return "/".join(filter(None, (machine, maker, first_of(kinds, flags))))


def first_of(kinds: Sequence[str], flags: set[str]) -> str:
    """The first of ``kinds`` that is among ``flags``, else an empty string."""
    return next((kind for kind in kinds if kind in flags), "")
