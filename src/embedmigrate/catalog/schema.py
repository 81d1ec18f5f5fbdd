"""Tables of the catalog (SQLAlchemy Core). Times are seconds since 1970, UTC.

No table holds document text or a secret: documents appear as ids, batches as key ranges.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

SCHEMA_VERSION = 3

metadata = MetaData()

_BIG = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts up INTEGER keys only

catalog = Table(
    "embedmigrate_catalog",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("catalog_id", String(36), nullable=False),
    Column("schema_version", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
)

collection = Table(
    "embedmigrate_collection",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("journal_head", _BIG, nullable=False),
    Column("indexes_made", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
)

model = Table(
    "embedmigrate_model",
    metadata,
    Column("fingerprint", String(32), primary_key=True),
    Column("query_side", String(32), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("identity", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
)

index = Table(
    "embedmigrate_index",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("collection", String(40), ForeignKey(collection.c.name), nullable=False),
    Column("spec_digest", String(32), nullable=False),
    Column("spec", JSON, nullable=False),
    Column("fingerprint", String(32), nullable=False),
    Column("query_side", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("position", _BIG, nullable=False),  # journal seq that the index reflects
    Column("created_at", Float, nullable=False),
    Column("retained_at", Float),  # when it stopped being live
    Column("dropped_at", Float),
    Column("container", String(63)),  # what holds the vectors; NULL: a container of this name
    Column("adopted", JSON),  # how somebody else's container was proven; NULL: built by us
    Column("tracked_by", String(64)),  # recording of changes that `position` is complete for
    Column("compared_at", Float),  # when it was last compared with its source as a whole
    Column("deleted_through", _BIG),  # journal seq through which deletes alone were applied
    Index("embedmigrate_index_collection", "collection", "spec_digest"),
)

route = Table(
    "embedmigrate_route",
    metadata,
    Column("collection", String(40), ForeignKey(collection.c.name), primary_key=True),
    Column("live_index", String(63), ForeignKey(index.c.name)),
    Column("candidate_index", String(63), ForeignKey(index.c.name)),
    Column("generation", Integer, nullable=False),
    Column("settled_generation", Integer, nullable=False),
    Column("updated_at", Float, nullable=False),
)

run = Table(
    "embedmigrate_run",
    metadata,
    Column("id", _BIG, primary_key=True),
    Column("collection", String(40), ForeignKey(collection.c.name), nullable=False),
    Column("revision", String(32), nullable=False),
    Column("index_name", String(63), ForeignKey(index.c.name), nullable=False),
    Column("state", String(16), nullable=False),
    Column("epoch", _BIG, nullable=False),
    Column("total", _BIG, nullable=False),
    Column("done", _BIG, nullable=False),
    Column("skipped", _BIG, nullable=False),
    Column("failed", _BIG, nullable=False),
    Column("embedded", _BIG, nullable=False),  # texts that the model was asked for
    Column("started_at", Float, nullable=False),
    Column("ready_at", Float),
    Column("actor", String(128), nullable=False),
    Column("reason", Text),
    Column("waiting", Text),  # why its runner waits just now
    Index("embedmigrate_run_revision", "collection", "revision"),
)

batch = Table(
    "embedmigrate_batch",
    metadata,
    Column("run_id", _BIG, ForeignKey(run.c.id), primary_key=True),
    Column("ordinal", Integer, primary_key=True),
    Column("after", Text),
    Column("until", Text),
    Column("documents", Integer, nullable=False),
    Column("finished_at", Float),
    Column("confirmed_at", Float),  # when the witness held after it
    Column("done", Integer),
    Column("skipped", Integer),
    Column("embedded", Integer),
    Column("failed", Integer),
)

journal = Table(
    "embedmigrate_journal",
    metadata,
    Column("collection", String(40), ForeignKey(collection.c.name), primary_key=True),
    Column("seq", _BIG, primary_key=True),
    Column("document_id", Text, nullable=False),
    Column("change", String(16), nullable=False),
    Column("at", Float),  # when it was entered
)

intake = Table(  # how far the changes that a source records itself have entered the journal
    "embedmigrate_intake",
    metadata,
    Column("collection", String(40), ForeignKey(collection.c.name), primary_key=True),
    Column("token", String(64)),  # which recording `cursor` counts in; NULL: there is none
    Column("cursor", _BIG, nullable=False),
    Column("tag", String(64)),  # of the change that `cursor` stands on; NULL: it was gone
    Column("watermark", JSON),  # greatest `updated_at` that was looked at
)

applied = Table(
    "embedmigrate_applied",
    metadata,
    Column("id", _BIG, primary_key=True),  # the order in which revisions were applied
    Column("revision", String(32), nullable=False, unique=True),
    Column("collection", String(40), ForeignKey(collection.c.name), nullable=False),
    Column("down_revision", String(32)),
    Column("index_name", String(63), ForeignKey(index.c.name)),
    Column("previous_index", String(63), ForeignKey(index.c.name)),
    Column("superseded_by", String(32)),  # set: the version row was written, nothing was cut over
    Column("run_id", _BIG, ForeignKey(run.c.id)),
    Column("applied_at", Float, nullable=False),
)

evidence = Table(
    "embedmigrate_evidence",
    metadata,
    Column("id", _BIG, primary_key=True),
    Column("run_id", _BIG, ForeignKey(run.c.id)),
    Column("index_name", String(63), ForeignKey(index.c.name), nullable=False),
    Column("invariant", Integer, nullable=False),
    Column("holds", Boolean, nullable=False),
    Column("measured", JSON, nullable=False),
    Column("at", Float, nullable=False),
)

witness = Table(
    "embedmigrate_witness",
    metadata,
    Column("fingerprint", String(32), primary_key=True),
    Column("query_side", String(32), primary_key=True),
    Column("runtime", String(128), primary_key=True),
    Column("processor", String(128), primary_key=True),
    Column("record", JSON, nullable=False),
    Column("at", Float, nullable=False),
)

proof = Table(  # two fingerprints that were shown to span one space
    "embedmigrate_proof",
    metadata,
    Column("id", _BIG, primary_key=True),
    Column("first", String(32), nullable=False),
    Column("second", String(32), nullable=False),
    Column("measured", JSON, nullable=False),
    Column("actor", String(128), nullable=False),
    Column("at", Float, nullable=False),
)

event = Table(
    "embedmigrate_event",
    metadata,
    Column("id", _BIG, primary_key=True),
    Column("at", Float, nullable=False),
    Column("actor", String(128), nullable=False),
    Column("collection", String(40)),
    Column("run_id", _BIG),
    Column("kind", String(32), nullable=False),
    Column("data", JSON, nullable=False),
)

lease = Table(
    "embedmigrate_lease",
    metadata,
    Column("collection", String(40), ForeignKey(collection.c.name), primary_key=True),
    Column("role", String(16), primary_key=True),
    Column("epoch", _BIG, nullable=False),  # never the same for two roles of a collection
    Column("owner", Text),  # None: free
    Column("heartbeat_at", Float, nullable=False),
    Column("lease_seconds", Float, nullable=False),
)

request = Table(  # what a person asks of whoever works on a collection
    "embedmigrate_request",
    metadata,
    Column("collection", String(40), ForeignKey(collection.c.name), primary_key=True),
    Column("wanted", String(16), nullable=False),
    Column("reason", Text),
    Column("actor", String(128), nullable=False),
    Column("at", Float, nullable=False),
    Column("run_id", _BIG, ForeignKey(run.c.id)),
)

dead_letter = Table(  # a document that the model of an index cannot embed
    "embedmigrate_dead_letter",
    metadata,
    Column("index_name", String(63), ForeignKey(index.c.name), primary_key=True),  # the container
    Column("document_id", Text, primary_key=True),
    Column("chunk", Integer, nullable=False),  # the first one that failed
    Column("content_hash", LargeBinary, nullable=False),  # of the text that was tried last
    Column("reason", String(128), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("seq", _BIG, nullable=False),
    Column("run_id", _BIG),  # with ordinal, the batch that found it; NULL: found by following
    Column("ordinal", Integer),
    Column("first_at", Float, nullable=False),
    Column("last_at", Float, nullable=False),
)
