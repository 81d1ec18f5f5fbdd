"""Indexes in PostgreSQL with pgvector: one table an index.

``store_index`` has a row for each index: its manifest, and who may write it. The vectors of an
index, with everything that belongs to them, are rows of a table of its own, so that building the
next index writes no page of the live one. The server keeps the ANN index up to date with every
write; it is built once, after the load.

``embedding`` is ``vector(n)`` whatever ``n``: single precision, as it was written, because proofs
compare it and equal texts use it again. pgvector indexes a ``vector`` of up to 2,000 dimensions;
beyond, the ANN index is one over ``embedding::halfvec(n)``, which goes up to 4,000, and what it
finds is scored again in full precision. Above 4,000 there is exact search alone.
"""
