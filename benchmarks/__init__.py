"""Measurements of embedmigrate, run by hand: see README.md."""
