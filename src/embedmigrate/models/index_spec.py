"""What an index is built to: two indexes of one spec are interchangeable."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from embedmigrate.models.canonical import digest
from embedmigrate.models.embedding_model import EmbeddingModel
from embedmigrate.models.recipe import Recipe

Metric = Literal["cosine", "inner_product", "l2"]


class IndexSpec(BaseModel):
    """Space, recipe, store kind, index factory, metric and stored dtype."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: EmbeddingModel
    recipe: Recipe
    store_kind: str
    factory: str = "Flat"
    metric: Metric = "cosine"
    dtype: Literal["float32"] = Field(default="float32")

    def answers_like(self, other: IndexSpec) -> bool:
        """Whether an index of this spec can stand for one of ``other``, its query side included."""
        return self.digest == other.digest and self.model.query_side == other.model.query_side

    @property
    def digest(self) -> str:
        """Fingerprint of the spec; the model takes part through its space alone."""
        return digest(
            "index-spec/1",
            {
                "space": self.model.fingerprint,
                "recipe": self.recipe.digest,
                "store_kind": self.store_kind,
                "factory": self.factory,
                "metric": self.metric,
                "dtype": self.dtype,
            },
        )
