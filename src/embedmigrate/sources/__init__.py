"""Sources: the systems of record. ``base.py`` is the Protocol; one file an adapter."""
