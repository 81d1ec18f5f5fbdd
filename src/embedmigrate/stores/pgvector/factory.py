"""Which ANN index pgvector builds: parsed from and written as the string that scripts state."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from embedmigrate.errors import ConfigError
from embedmigrate.models.index_spec import Metric

FACTORIES = (
    "none, hnsw(m=16,ef_construction=64) with m from 2 to 100 and ef_construction from 2 m to"
    " 1000, or ivfflat(lists=auto) with a number from 1 to 32768 in place of auto"
)
MAX_VECTOR, MAX_HALFVEC, MAX_STORED = 2000, 4000, 16_000
"""Dimensions that pgvector can index as ``vector`` and as ``halfvec``, and that it can store."""
_FORM = re.compile(r"(?P<kind>none|hnsw|ivfflat)(\((?P<options>[a-z0-9_=, ]*)\))?")
_OPERATORS: dict[Metric, str] = {"cosine": "<=>", "inner_product": "<#>", "l2": "<->"}
_CLASSES: dict[Metric, str] = {"cosine": "cosine_ops", "inner_product": "ip_ops", "l2": "l2_ops"}


@dataclass(frozen=True)
class Factory:
    """An ANN index to build; ``lists`` is None where the rows decide."""

    kind: Literal["none", "hnsw", "ivfflat"]
    m: int = 16
    ef_construction: int = 64
    lists: int | None = None

    def __post_init__(self) -> None:
        good = (
            2 <= self.m <= 100
            and max(4, 2 * self.m) <= self.ef_construction <= 1000
            and (self.lists is None or 1 <= self.lists <= 32_768)
        )
        if not good:
            raise ValueError(f"index {self} cannot be built; expected {FACTORIES}")

    @classmethod
    def parse(cls, text: str) -> Factory:
        """``ValueError`` for anything but the supported forms."""
        match = _FORM.fullmatch(text)
        options = _options(match["options"] or "") if match else None
        if match is None or options is None:
            raise ValueError(f"index factory {text!r} is not supported; expected {FACTORIES}")
        known = {"none": set(), "hnsw": {"m", "ef_construction"}, "ivfflat": {"lists"}}
        kind: Literal["none", "hnsw", "ivfflat"] = match["kind"]  # type: ignore[assignment]
        numbers = {
            key: int(value)
            for key, value in options.items()
            if key in known[kind] and value.isdecimal()
        }
        if kind == "ivfflat" and options == {"lists": "auto"}:
            return cls(kind)
        if numbers.keys() != options.keys():
            raise ValueError(f"index factory {text!r} is not supported; expected {FACTORIES}")
        return cls(kind, **numbers)

    def __str__(self) -> str:
        return {
            "none": "none",
            "hnsw": f"hnsw(m={self.m},ef_construction={self.ef_construction})",
            "ivfflat": f"ivfflat(lists={self.lists or 'auto'})",
        }[self.kind]

    def check(self, dimensions: int) -> None:
        """``ConfigError`` where pgvector has no such index for vectors of this length."""
        limit = MAX_STORED if self.kind == "none" else MAX_HALFVEC
        if dimensions > limit:
            raise ConfigError(
                f"pgvector cannot hold vectors of {dimensions} dimensions in this way",
                found=f"{dimensions} dimensions, index {self}",
                expected=f"at most {MAX_HALFVEC} with an ANN index, {MAX_STORED} without one",
                next_step='index = "none" searches exactly; or take a model with fewer dimensions',
            )

    def lists_for(self, rows: int) -> int:
        """IVF lists: as asked, else by pgvector's rule: rows / 1000, over a million their root."""
        by_rows = rows // 1000 if rows <= 1_000_000 else math.isqrt(rows)
        return self.lists or min(32_768, max(1, by_rows))


def operator(metric: Metric) -> str:
    """pgvector's distance operator."""
    return _OPERATORS[metric]


def operator_class(metric: Metric, dimensions: int) -> str:
    """The operator class of the ANN index; it is over ``halfvec`` beyond 2,000 dimensions."""
    return f"{'halfvec' if dimensions > MAX_VECTOR else 'vector'}_{_CLASSES[metric]}"


def _options(text: str) -> dict[str, str] | None:
    """``a=1, b=2`` as a mapping; None for anything else."""
    pairs = [part.strip().split("=") for part in text.split(",") if text.strip()]
    if any(len(pair) != 2 for pair in pairs):
        return None
    return {key.strip(): value.strip() for key, value in pairs}
