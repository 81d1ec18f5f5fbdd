"""The only place that touches Alembic: scripts, their operations, and the walk along them."""
