"""The catalog: the SQL database that remembers collections, indexes, runs and routes."""

from embedmigrate.catalog.database import Catalog

__all__ = ["Catalog"]
