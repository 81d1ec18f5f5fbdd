"""The FAISS store: indexes as folders of plain files, searched in this process.

One index is one folder::

    rows.sqlite           what is true: rows, tombstones, owner, checksums, manifest
    vectors-<epoch>.f32   little-endian float32, append-only, one file a writer
    ann-<n>.faiss         derived: an ANN structure over the first vectors

A vector has a *position*, counted over all vector files in order; it never changes and is never
used again. A write appends vectors, makes them durable, and then commits one transaction of
``rows.sqlite``: that commit is the manifest, and what lies in a file beyond it does not exist.
"""
