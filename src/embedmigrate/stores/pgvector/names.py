"""Names and ids that PostgreSQL can hold."""

from __future__ import annotations

import hashlib
import re

from embedmigrate.errors import UsageError

INDEXES, TOMBSTONES = "store_index", "store_tombstone"
SCHEMA_NAME = r"[a-z_][a-z0-9_]{0,62}"
_INDEX_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,127}")
_PREFIX = "vectors_"
_MAX_BYTES = 63
"""Longer identifiers are cut by PostgreSQL, which could make one of two."""
_HEX = 32


def table_name(index: str) -> str:
    """The table of an index; two indexes never share one.

    ``UsageError`` for a name that no index may have. A name that is too long for an identifier is
    cut, and told from others by a digest behind a ``~``, which no name of an index has.
    """
    if not _INDEX_NAME.fullmatch(index):
        raise UsageError(
            "an index name cannot be used as the name of a table",
            found=repr(index),
            expected="letters, digits and _ . @ -, at most 128, not beginning with . @ or -",
        )
    name = _PREFIX + index
    if len(name) <= _MAX_BYTES:
        return name
    tail = "~" + hashlib.sha256(index.encode("ascii")).hexdigest()[:_HEX]
    return name[: _MAX_BYTES - len(tail)] + tail


# A document id may hold U+0000, which no PostgreSQL text can. It is written as two characters that
# sort as it does, and so is the one that begins such a pair: order and difference are kept.


def stored_id(id: str) -> str:
    """A document id as it is stored; the same, unless U+0000 or U+0001 is in it."""
    if "\x00" in id or "\x01" in id:
        return id.replace("\x01", "\x01\x02").replace("\x00", "\x01\x01")
    return id


def document_id(stored: str) -> str:
    """The document id that is stored so."""
    if "\x01" in stored:
        return stored.replace("\x01\x01", "\x00").replace("\x01\x02", "\x01")
    return stored
