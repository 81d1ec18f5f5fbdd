"""What a ``[models.x]`` table says of a model behind a server."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from embedmigrate.embedders.base import ModelConfig
from embedmigrate.models.embedding_model import Parameter
from embedmigrate.models.references import (
    NOT_WHOLE,
    allows_unpinned,
    is_dated,
    is_digest,
    split_digest,
    unpinned,
    why_unpinned_server,
)

_OURS = ("input", "model", "encoding_format")
"""Parameters of a request that are not for the configuration to set."""


class OpenAIConfig(ModelConfig):
    """A ``[models.x]`` table with ``provider = "openai"``."""

    model_config = ConfigDict(hide_input_in_errors=True)

    vendor: str = Field(default="openai", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Whose model it is, wherever it is served."""
    base_url: str = "https://api.openai.com/v1"
    api_key: SecretStr | None = None
    digest: str | None = None
    """``sha256:…`` that whoever runs the server states for the model."""
    pin: Literal["witness"] | None = None
    """Says that the model has no version that cannot be moved."""
    model: str
    """What the server is asked for. Checked after what makes it a pinned one."""
    dimensions: int | None = Field(default=None, gt=0, le=65_536, validate_default=True)
    """How long its vectors are; nothing is cut here."""
    normalize: bool = False
    """Whether its vectors have length 1: checked, not made so."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Where it cuts: put to the test when it is pinned."""
    document_prompt: str = ""
    query_prompt: str = ""
    parameters: Mapping[str, Parameter] = {}
    """What else a request says."""
    timeout_seconds: float = Field(default=60.0, gt=0)
    batch_texts: int = Field(default=64, ge=1, le=2048)

    @field_validator("name")
    @classmethod
    def _is_called_as_it_is_asked_for(cls, name: str | None) -> None:
        if name is not None:
            raise ValueError("a model behind a server is called as it is asked for: leave it out")

    @field_validator("base_url")
    @classmethod
    def _is_a_plain_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError("expected http://… or https://…")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError("expected an address without user, ? and #; a key goes into api_key")
        return url

    @field_validator("api_key")
    @classmethod
    def _can_be_sent(cls, key: SecretStr | None) -> SecretStr | None:
        if key and not re.fullmatch("[!-~]*", key.get_secret_value()):
            raise ValueError("holds what no header can: white space, or letters beyond ASCII")
        return key

    @field_validator("digest")
    @classmethod
    def _is_a_whole_digest(cls, digest: str | None, info: ValidationInfo) -> str | None:
        if digest and not is_digest(digest) and not allows_unpinned(info.context):
            raise unpinned(NOT_WHOLE)
        return digest

    @field_validator("model")
    @classmethod
    def _cannot_be_moved(cls, model: str, info: ValidationInfo) -> str:
        if allows_unpinned(info.context):
            return model
        witnessed = info.data.get("pin") == "witness"
        if why := why_unpinned_server(model, info.data.get("digest"), witnessed=witnessed):
            raise unpinned(why)
        return model

    @field_validator("dimensions")
    @classmethod
    def _are_stated(cls, dimensions: int | None, info: ValidationInfo) -> int | None:
        if dimensions is None and not allows_unpinned(info.context):
            raise ValueError("missing: how long its vectors are; embedmigrate pin asks the server")
        return dimensions

    @field_validator("parameters")
    @classmethod
    def _parameters_are_scalars(
        cls, parameters: Mapping[str, Parameter], info: ValidationInfo
    ) -> Mapping[str, Parameter]:
        for key, value in parameters.items():
            if key in _OURS:
                raise ValueError(f"{key} is not a parameter to set here")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{key} is not a finite number")
        asked, stated = parameters.get("dimensions"), info.data.get("dimensions")
        if asked is not None and stated is not None and asked != stated:
            raise ValueError(f"asks for {asked!r} dimensions where dimensions is {stated}")
        return MappingProxyType(dict(sorted(parameters.items())))

    def why_unpinned(self) -> str | None:
        """Why this names no pinned model, where the validation let it pass; None when it does."""
        witnessed = self.pin == "witness"
        return why_unpinned_server(self.model, self.digest, witnessed=witnessed)

    @property
    def plain_name(self) -> str:
        """The name without a digest that is a part of it."""
        return split_digest(self.model)[0]

    @property
    def stated_digest(self) -> str:
        return self.digest or split_digest(self.model)[1]

    @property
    def version(self) -> str:
        """The digest or the dated name that fixes it; empty if it is to be witnessed."""
        if self.pin == "witness":
            return ""
        return self.stated_digest or (self.model if is_dated(self.model) else "")
