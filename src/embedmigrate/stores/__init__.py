"""Stores: where indexes live. ``base.py`` is the Protocol; one file or folder an adapter."""
