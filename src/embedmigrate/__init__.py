"""embedmigrate: versioned, verified migrations for embedding indexes.

What applications and migration scripts import is here; it is loaded when first used, so that
``import embedmigrate`` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from embedmigrate import op as op
    from embedmigrate.collection import Collection as Collection
    from embedmigrate.models import Chunker as Chunker
    from embedmigrate.models import EmbeddingModel as EmbeddingModel
    from embedmigrate.models import Recipe as Recipe

_WHERE = {
    "Chunker": "embedmigrate.models",
    "Collection": "embedmigrate.collection",
    "EmbeddingModel": "embedmigrate.models",
    "Recipe": "embedmigrate.models",
}

__all__ = ["Chunker", "Collection", "EmbeddingModel", "Recipe", "op"]


def __getattr__(name: str) -> Any:
    if name == "op":
        return import_module("embedmigrate.op")
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
