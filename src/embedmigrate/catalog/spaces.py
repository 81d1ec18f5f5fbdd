"""Which spaces are one: pairs of fingerprints that were proven equal, and what follows from them.

Vectors keep the stamp of the model that made them. That two stamps may lie in one index is decided
here, by what was proven and recorded, and nowhere else.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from embedmigrate.catalog import schema
from embedmigrate.catalog.database import actor
from embedmigrate.catalog.records import IndexRecord
from embedmigrate.errors import ModelMismatch

_proof = schema.proof.c


def join(connection: Connection, first: str, second: str, measured: Mapping[str, Any]) -> None:
    """Record the proof that two fingerprints span one space; nothing when they do already."""
    if second not in equal_to(connection, first):
        connection.execute(
            schema.proof.insert().values(
                first=first,
                second=second,
                measured=dict(measured),
                actor=actor(),
                at=time.time(),
            )
        )


def equal_to(connection: Connection, fingerprint: str) -> frozenset[str]:
    """Every fingerprint of the same space: this one, and what proofs lead to from it."""
    neighbours: defaultdict[str, list[str]] = defaultdict(list)
    for first, second in connection.execute(sa.select(_proof.first, _proof.second)):
        neighbours[first].append(second)
        neighbours[second].append(first)
    found, ahead = {fingerprint}, [fingerprint]
    while ahead:
        new = set(neighbours[ahead.pop()]) - found
        found |= new
        ahead += new
    return frozenset(found)


def require(index: IndexRecord, found: str, spaces: Collection[str]) -> None:
    """``ModelMismatch`` unless the container of ``index``, which says ``found``, is in ``spaces``.

    ``spaces`` are those that are equal to the index's (I4).
    """
    if found not in spaces:
        raise ModelMismatch(
            f"index {index.name} does not hold what the catalog says",
            found=found,
            expected=index.model.reference,
            next_step=f"embedmigrate verify {index.collection}",
        )
