"""The pinned embedding model: what decides where a text lands, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_serializer,
    field_validator,
    model_validator,
)

from embedmigrate.models.canonical import FINGERPRINT_HEX, digest

Pooling = Literal["mean", "cls", "max", "last"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")


class EmbeddingModel(BaseModel):
    """A frozen model identity, complete enough to tell its space from every other.

    The space ``fingerprint`` covers the document side: ``artifacts`` (role -> ``sha256:…`` of
    weights, tokenizer and whatever else takes part), ``pooling``, ``normalize``, the *effective*
    truncation ``max_tokens``, ``special_tokens``, ``document_prompt``, the output ``dimensions``
    (with ``normalize``, a shorter Matryoshka vector is normalised again) and ``quantization`` of
    the output. ``query_prompt`` is the query side: it has a digest of its own. ``name`` is for
    people and is not hashed; neither is the place where the files lie.

    Give ``fingerprint`` to state which space is expected; a mismatch raises ``ValueError``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    artifacts: Mapping[str, str]
    dimensions: int = Field(gt=0, le=65_536)
    pooling: Pooling = "mean"
    normalize: bool = False
    max_tokens: int | None = Field(default=None, gt=0)
    special_tokens: bool = True
    document_prompt: str = ""
    query_prompt: str = ""
    quantization: Literal["float32"] = "float32"
    fingerprint: str = ""

    @field_validator("name")
    @classmethod
    def _name_is_plain(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"a model name is 1-128 letters, digits and . _ / -, found {name[:140]!r}"
            )
        return name

    @field_validator("artifacts")
    @classmethod
    def _artifacts_are_digests(cls, artifacts: Mapping[str, str]) -> Mapping[str, str]:
        if not artifacts:
            raise ValueError("a pinned model names the sha256 of at least one artifact")
        for role, value in artifacts.items():
            if not _SHA256.fullmatch(value):
                raise ValueError(
                    f"artifact {role!r} is not pinned: expected sha256:<64 hex digits>, "
                    f"found {value[:80]!r}"
                )
        return MappingProxyType(dict(sorted(artifacts.items())))

    @field_serializer("artifacts")
    def _plain_dict(self, artifacts: Mapping[str, str]) -> dict[str, str]:
        return dict(artifacts)

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
        covered: dict[str, object] = {
            "artifacts": dict(self.artifacts),
            "dimensions": self.dimensions,
        }
        for field in (
            "pooling",
            "normalize",
            "max_tokens",
            "special_tokens",
            "document_prompt",
            "quantization",
        ):
            value = getattr(self, field)
            if value != type(self).model_fields[field].default:
                covered[field] = value
        return covered

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
        raise ValueError(
            f"{reference!r} does not pin a model: expected name@fingerprint with all "
            f"{FINGERPRINT_HEX} hexadecimal digits"
        )
    return name, fingerprint
