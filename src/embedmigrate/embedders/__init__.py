"""Embedders: pinned models that are loaded. ``base.py`` is the Protocol; one file a provider."""
