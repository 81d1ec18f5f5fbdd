"""The statements of a writer. Each is one transaction, and refuses a writer that was overtaken.

``owner`` locks the row that says who may write; it is empty for everybody else, and then nothing is
changed. Taking an index over updates that row, so it waits for a write that is under way, and a
write that comes later finds another token (I15).
"""

from __future__ import annotations

_OWNER = """
owner AS MATERIALIZED (
    SELECT 1 FROM {indexes} WHERE index = {index} AND owner_token = {token} FOR NO KEY UPDATE
)
"""

DURABLE = """
SELECT set_config('synchronous_commit', 'local', true)
WHERE current_setting('synchronous_commit') = 'off'
"""
"""What a write returned from survives a power cut, whatever the role's own setting is."""

CHECK_NEW = f"""
WITH {_OWNER}
SELECT 1 / CASE
    WHEN EXISTS (SELECT FROM owner)
    AND NOT EXISTS (SELECT FROM {{table}} WHERE id = ANY ({{ids}}::text[]))
    AND NOT EXISTS (
        SELECT FROM {{tombstones}} WHERE index = {{index}} AND id = ANY ({{ids}}::text[])
    )
    THEN 1 ELSE 0
END
"""
"""Ends the transaction (22012) unless this is the owner and nothing is known of the documents.

SQL has no other way to stop in the middle of a message; a ``DO`` block needs a language.
"""
NOT_NEW = "22012"
COPY = "COPY {table} ({columns}) FROM STDIN (FORMAT binary)"

_GIVEN = """
given AS MATERIALIZED (
    SELECT * FROM unnest(
        %(ids)s::text[], %(chunks)s::integer[], %(seqs)s::bigint[], %(content_hashes)s::bytea[],
        %(metadata_hashes)s::bytea[], %(metadata)s::text[], %(metadata_texts)s::text[]{vectors}
    ) AS given (
        id, chunk, seq, content_hash, metadata_hash, metadata, metadata_text{embedding}
    )
),
documents AS MATERIALIZED (SELECT DISTINCT id, seq FROM given)
"""
WRITE = f"""
WITH {_OWNER}, {_GIVEN},
outdated AS MATERIALIZED (
    SELECT id FROM documents AS d
    WHERE EXISTS (SELECT FROM {{table}} AS t WHERE t.id = d.id AND t.seq > d.seq)
    OR EXISTS (
        SELECT FROM {{tombstones}} AS b WHERE b.index = {{index}} AND b.id = d.id AND b.seq > d.seq
    )
),
replaced AS MATERIALIZED (
    SELECT t.id, t.chunk FROM documents AS d JOIN {{table}} AS t ON t.id = d.id, owner
    WHERE d.id NOT IN (SELECT id FROM outdated)
),
surplus AS (
    DELETE FROM {{table}} AS t USING replaced AS r
    WHERE t.id = r.id AND t.chunk = r.chunk
    AND NOT EXISTS (SELECT FROM given AS g WHERE g.id = r.id AND g.chunk = r.chunk)
),
written AS (
    INSERT INTO {{table}} ({{columns}})
    SELECT id, chunk, seq, content_hash, metadata_hash, %(fingerprint)s, %(run)s, metadata::jsonb,
           metadata_text, embedding
    FROM given, owner
    WHERE id NOT IN (SELECT id FROM outdated)
    ON CONFLICT (id, chunk) DO UPDATE SET
        seq = excluded.seq, content_hash = excluded.content_hash,
        metadata_hash = excluded.metadata_hash, fingerprint = excluded.fingerprint,
        run = excluded.run, metadata = excluded.metadata, metadata_text = excluded.metadata_text,
        written_at = excluded.written_at, embedding = excluded.embedding
)
SELECT (SELECT count(*) FROM owner), (SELECT count(*) FROM outdated),
       (SELECT count(*) FROM replaced)
"""
"""Owner or not, outdated documents, rows that were replaced or removed."""

WRITE_METADATA = f"""
WITH {_OWNER}, {_GIVEN},
stored AS MATERIALIZED (
    SELECT d.id, max(t.seq) > d.seq AS is_newer
    FROM documents AS d JOIN {{table}} AS t ON t.id = d.id
    GROUP BY d.id, d.seq
),
changed AS (
    UPDATE {{table}} AS t SET
        seq = g.seq, content_hash = g.content_hash, metadata_hash = g.metadata_hash,
        metadata = g.metadata::jsonb, metadata_text = g.metadata_text, written_at = now()
    FROM given AS g JOIN stored AS s ON s.id = g.id, owner
    WHERE t.id = g.id AND t.chunk = g.chunk AND NOT s.is_newer
)
SELECT (SELECT count(*) FROM owner), count(*) FILTER (WHERE NOT is_newer),
       count(*) FILTER (WHERE is_newer)
FROM stored
"""
"""Owner or not, documents applied, documents outdated."""

DELETE = f"""
WITH {_OWNER},
documents AS MATERIALIZED (
    SELECT * FROM unnest(%(ids)s::text[], %(seqs)s::bigint[]) AS documents (id, seq)
),
stored AS MATERIALIZED (
    SELECT d.id, max(t.seq) > d.seq AS is_newer
    FROM documents AS d JOIN {{table}} AS t ON t.id = d.id
    GROUP BY d.id, d.seq
),
removed AS (
    DELETE FROM {{table}} AS t USING stored AS s, owner WHERE t.id = s.id AND NOT s.is_newer
),
buried AS (
    INSERT INTO {{tombstones}} AS b (index, id, seq)
    SELECT {{index}}, id, seq FROM documents, owner
    ON CONFLICT (index, id) DO UPDATE SET seq = excluded.seq WHERE b.seq < excluded.seq
)
SELECT (SELECT count(*) FROM owner), count(*) FILTER (WHERE NOT is_newer),
       count(*) FILTER (WHERE is_newer)
FROM stored
"""
"""Owner or not, documents applied, documents outdated."""

DISCARD = f"""
WITH {_OWNER},
removed AS (DELETE FROM {{table}} AS t USING owner WHERE t.run = %(run)s RETURNING 1)
SELECT (SELECT count(*) FROM owner), (SELECT count(*) FROM removed)
"""
FORGET = f"""
WITH {_OWNER},
forgotten AS (
    DELETE FROM {{tombstones}} AS b USING owner
    WHERE b.index = {{index}} AND b.seq < %(before)s RETURNING 1
)
SELECT (SELECT count(*) FROM owner), (SELECT count(*) FROM forgotten)
"""
SET_MANIFEST = f"""
WITH {_OWNER},
changed AS (
    UPDATE {{indexes}} SET manifest = %(manifest)s::jsonb FROM owner WHERE index = {{index}}
)
SELECT count(*) FROM owner
"""
CHECK_OWNER = f"WITH {_OWNER} SELECT count(*) FROM owner"
CLAIM = """
UPDATE {indexes} SET owner_backend = pg_backend_pid()
WHERE index = {index} AND owner_token = {token} RETURNING 1
"""

TAKE = """
UPDATE {indexes} SET owner_epoch = %(epoch)s, owner_token = {token},
    owner_backend = pg_backend_pid()
WHERE index = {index} AND owner_epoch <= %(epoch)s
RETURNING 1
"""
END_BUILD_OF_OTHERS = """
SELECT count(pg_terminate_backend(l.pid))
FROM {indexes} AS i
JOIN pg_locks AS l ON l.pid = i.owner_backend
JOIN pg_stat_activity AS a ON a.pid = l.pid AND a.usename = current_user
WHERE i.index = {index} AND i.owner_epoch <= %(epoch)s AND l.pid <> pg_backend_pid()
AND l.locktype = 'relation' AND l.relation = to_regclass({table_text}) AND l.mode = 'ShareLock'
AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
"""Stops the backend of the owner before, if it still builds an ANN index: only that takes such a
lock. A process that was killed leaves it running, for hours, and nobody could write meanwhile."""

WHO_OWNS = "SELECT owner_epoch FROM {indexes} WHERE index = {index}"

FIND_VECTORS = """
SELECT DISTINCT ON (content_hash) content_hash, embedding FROM {table}
WHERE content_hash = ANY (%(hashes)s::bytea[])
"""
STATES = "SELECT id, chunk, seq, content_hash, metadata_hash FROM {table}"
STATES_OF = f"{STATES} WHERE id = ANY (%(ids)s::text[])"
