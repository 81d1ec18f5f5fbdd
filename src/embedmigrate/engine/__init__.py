"""The engine: builds, verifies and follows indexes. It knows no Alembic, no CLI and no adapter."""
