"""Run by embedmigrate's commands; the place for settings that Alembic reads from Python."""

from embedmigrate.migration.environment import run_environment

run_environment()
