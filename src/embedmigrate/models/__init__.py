"""Identity: embedding models, recipes, index specs, fingerprints and pin files."""

from embedmigrate.models.chunker import Chunker
from embedmigrate.models.embedding_model import EmbeddingModel, parse_reference
from embedmigrate.models.index_spec import IndexSpec
from embedmigrate.models.recipe import Recipe

__all__ = ["Chunker", "EmbeddingModel", "IndexSpec", "Recipe", "parse_reference"]
