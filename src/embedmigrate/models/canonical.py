"""Canonical JSON and the digests made from it.

A digest must come out the same on every machine, in every Python and for ever: keys sorted, no
white space, ASCII only, no NaN, and a domain label in front so that two kinds of thing with the
same fields never share a digest. Golden values are in ``tests/models``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

FINGERPRINT_HEX = 32
"""Hexadecimal digits of a fingerprint: the first 128 bits of a SHA-256."""


def canonical_json(value: object) -> str:
    """``value`` as JSON text that depends on nothing but the value."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def digest(domain: str, value: Mapping[str, object]) -> str:
    """Fingerprint of a mapping: 32 hexadecimal digits, separated by ``domain``."""
    payload = f"embedmigrate/{domain}\n{canonical_json(value)}".encode("ascii")
    return hashlib.sha256(payload).hexdigest()[:FINGERPRINT_HEX]


def sha256_file(path: Path) -> str:
    """``sha256:<hex>`` of a file's bytes."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
