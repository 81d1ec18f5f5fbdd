"""The pinned embedding model: what decides where a text lands, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_serializer,
    field_validator,
    model_validator,
)

from embedmigrate.models.canonical import FINGERPRINT_HEX, digest
from embedmigrate.models.references import moving_form, unpinned, why_unpinned

Pooling = Literal["mean", "cls", "max", "last"]
Assurance = Literal["digest", "version", "witness"]
Parameter = str | int | float | bool

_NAME = re.compile(r"[A-Za-z0-9@][A-Za-z0-9._/:@-]{0,127}")
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")

UNMEASURED = "sha256:" + 64 * "0"
"""Stands for the witness of a declared model, which only measuring it can tell. No pin file holds
it, so that a model as it is declared is never loaded but to be measured."""


class EmbeddingModel(BaseModel):
    """A frozen model identity, complete enough to tell its space from every other.

    The space ``fingerprint`` covers the document side: ``artifacts`` (role -> ``sha256:…`` of
    weights, tokenizer and whatever else takes part), ``pooling``, ``normalize``, the *effective*
    truncation ``max_tokens``, ``special_tokens``, ``document_prompt``, the output ``dimensions``
    (with ``normalize``, a shorter Matryoshka vector is normalised again) and ``quantization`` of
    the output. ``query_prompt`` is the query side: it has a digest of its own. ``name`` is for
    people and is not hashed; neither is the place where the files lie, nor the ``revision`` (a
    commit) that they came in.

    A ``vendor`` that gives no files has no artifacts: there the vendor, the name, the ``revision``
    (a dated name or a stated digest, if there is one), the request ``parameters`` and the digest of
    the recorded ``witness`` make the space. A witness may also tell two behaviours of the same
    files apart.

    Give ``fingerprint`` to state which space is expected; a mismatch raises ``ValueError``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    artifacts: Mapping[str, str] = Field(default_factory=dict)
    dimensions: int = Field(gt=0, le=65_536)
    pooling: Pooling = "mean"
    normalize: bool = False
    max_tokens: int | None = Field(default=None, gt=0)
    special_tokens: bool = True
    document_prompt: str = ""
    query_prompt: str = ""
    quantization: Literal["float32"] = "float32"
    vendor: str = ""
    revision: str = ""
    parameters: Mapping[str, Parameter] = Field(default_factory=dict)
    witness: str = ""
    fingerprint: str = ""

    @field_validator("name")
    @classmethod
    def _name_is_plain(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"a model name is 1-128 letters, digits and . _ / : @ -, found {name[:140]!r}"
            )
        return name

    @field_validator("artifacts")
    @classmethod
    def _artifacts_are_digests(cls, artifacts: Mapping[str, str]) -> Mapping[str, str]:
        for role, value in artifacts.items():
            if not _SHA256.fullmatch(value):
                raise unpinned(
                    f"artifact {role!r} is not pinned: expected sha256:<64 hex digits>, "
                    f"found {value[:80]!r}"
                )
        return MappingProxyType(dict(sorted(artifacts.items())))

    @field_validator("parameters")
    @classmethod
    def _parameters_do_not_change(cls, parameters: Mapping[str, Parameter]) -> Mapping[str, Any]:
        return MappingProxyType(dict(sorted(parameters.items())))

    @field_validator("witness")
    @classmethod
    def _witness_is_a_digest(cls, witness: str) -> str:
        if witness and not _SHA256.fullmatch(witness):
            raise ValueError(f"a witness is sha256:<64 hex digits>, found {witness[:80]!r}")
        return witness

    @field_validator("revision")
    @classmethod
    def _revision_does_not_move(cls, revision: str) -> str:
        if revision and (moving := moving_form(revision)):
            raise unpinned(f"revision {revision[:80]!r} is {moving}")
        return revision

    @field_serializer("artifacts", "parameters")
    def _plain_dict(self, value: Mapping[str, Any]) -> dict[str, Any]:
        return dict(value)

    @model_validator(mode="after")
    def _something_pins_it(self) -> Self:
        if self.artifacts:
            return self
        if not self.vendor:
            raise unpinned("a pinned model names the sha256 of at least one artifact")
        if not self.witness:
            raise unpinned(f"a model of vendor {self.vendor!r} has no files, and no witness")
        return self

    @model_validator(mode="after")
    def _fingerprint_matches(self) -> Self:
        actual = digest("space/1", self.space())
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", actual)
        elif self.fingerprint != actual:
            raise ValueError(
                f"the fields of {self.name!r} make fingerprint {actual}, "
                f"but fingerprint={self.fingerprint!r} is stated"
            )
        return self

    def __hash__(self) -> int:
        return hash((self.fingerprint, self.query_prompt, self.name))

    def space(self) -> dict[str, object]:
        """The fields that the fingerprint covers; those at their default are left out."""
        covered: dict[str, object] = {"dimensions": self.dimensions}
        if self.artifacts:
            covered["artifacts"] = dict(self.artifacts)
        else:  # nothing but its name and the vendor's word says which model it is
            covered |= {"vendor": self.vendor, "name": self.name, "revision": self.revision}
        for field in (
            "pooling",
            "normalize",
            "max_tokens",
            "special_tokens",
            "document_prompt",
            "quantization",
            "witness",
        ):
            value = getattr(self, field)
            if value != type(self).model_fields[field].default:
                covered[field] = value
        if self.parameters:
            covered["parameters"] = dict(self.parameters)
        return covered

    @property
    def assurance(self) -> Assurance:
        """What says that this is the model: file digests, a vendor's version, or its witness."""
        if self.artifacts:
            return "digest"
        return "version" if self.revision else "witness"

    @property
    def pinned_or_witnessed(self) -> str:
        """The word for reports: a model without any immutable version is only ``witnessed``."""
        return "witnessed" if self.assurance == "witness" else "pinned"

    def is_declared_like(self, other: EmbeddingModel) -> bool:
        """Whether both are the same model up to how it was seen to behave (its witness)."""
        mine, others = self.space() | {"witness": ""}, other.space() | {"witness": ""}
        return mine == others and self.query_prompt == other.query_prompt

    @property
    def query_side(self) -> str:
        """Digest of what embeds queries: two models of one space may differ here."""
        return digest("query-side/1", {"space": self.fingerprint, "prompt": self.query_prompt})

    @property
    def reference(self) -> str:
        """``name@fingerprint``: how scripts, reports and errors name this model."""
        return f"{self.name}@{self.fingerprint}"


def parse_reference(reference: str) -> tuple[str, str]:
    """Split ``name@fingerprint``; ``ValueError`` unless the fingerprint is complete."""
    name, _, fingerprint = reference.rpartition("@")
    if not name or not re.fullmatch(rf"[0-9a-f]{{{FINGERPRINT_HEX}}}", fingerprint):
        why = why_unpinned(reference)
        raise ValueError(
            f"{reference!r} does not pin a model{f' ({why})' if why else ''}: expected "
            f"name@fingerprint with all {FINGERPRINT_HEX} hexadecimal digits"
        )
    return name, fingerprint
