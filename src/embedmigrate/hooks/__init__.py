"""Hooks: what the configuration wants to be run when something happens to a collection."""
