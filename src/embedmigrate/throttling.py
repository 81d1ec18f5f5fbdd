"""What the configuration says of going slowly; ``engine.throttle`` does it."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Throttling(BaseModel):
    """A ``[collections.x.throttle]`` table: how slowly an upgrade goes, and who may slow it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    documents_per_second: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """At most so many texts are embedded a second, on average."""
    command: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Exit status 0 means go on. Run without a shell, in the folder of the configuration."""
    url: str | None = Field(default=None, repr=False)  # may hold a password
    """Status 200 means go on."""
    every_seconds: float = Field(default=5.0, ge=0.1, allow_inf_nan=False)
    """How often the two are asked at most."""
    timeout_seconds: float = Field(default=5.0, gt=0, le=60)
    """How long an answer may take."""

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str | None) -> str | None:
        if url is not None:
            parts = urlsplit(url)
            try:
                known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
            except ValueError:
                known = False
            if not known or not url.isascii() or any(mark.isspace() for mark in url):
                raise ValueError("is not an http or https URL")
        return url
