"""Witness records of platforms that a pin file does not know: each host keeps its own here."""

from __future__ import annotations

import time

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from embedmigrate.catalog import events, schema
from embedmigrate.models import EmbeddingModel
from embedmigrate.models.witness import Witness, WitnessRecord

_witness = schema.witness.c


def known(connection: Connection, model: EmbeddingModel, pinned: Witness) -> Witness:
    """``pinned`` with the records that were made in this installation."""
    rows = connection.execute(
        sa.select(_witness.record).where(
            _witness.fingerprint == model.fingerprint, _witness.query_side == model.query_side
        )
    ).scalars()
    for stored in rows:
        record = WitnessRecord.load(stored)
        if pinned.of(*record.platform) is None:
            pinned = pinned.having(record)
    return pinned


def remember(
    connection: Connection, model: EmbeddingModel, record: WitnessRecord, collection: str
) -> None:
    """Keep the first record of a platform; another one of the same platform changes nothing."""
    key = {
        "fingerprint": model.fingerprint,
        "query_side": model.query_side,
        "runtime": record.runtime,
        "processor": record.processor,
    }
    there = connection.execute(
        sa.select(_witness.at).where(*(_witness[name] == value for name, value in key.items()))
    ).first()
    if there is None:
        connection.execute(
            schema.witness.insert().values(**key, record=record.dump(), at=time.time())
        )
        events.record(connection, "witness_recorded", collection, key)
