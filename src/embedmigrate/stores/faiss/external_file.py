"""Opening a FAISS index file that somebody else wrote, without loading it and without trusting it.

The file is mapped, read-only, and FAISS is given the mapped bytes: what FAISS can leave where it
is (vectors, codes, inverted lists, graphs) costs no memory. Its own mapped reader
(``IO_FLAG_MMAP_IFC``) is not used: it crashes the process when a file was cut inside one of its
numbers, and overlooks that the last bytes are missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from embedmigrate.errors import ConfigError, DamagedIndex
from embedmigrate.stores.faiss.library import load_faiss

_BINARY = b"IB"
"""How the four letters begin that a binary index starts with; no other index has them."""
_UNKNOWN_KIND = "not recognized"


def open_index(path: Path) -> Any:
    """The FAISS index in a file, as the class that it is; it keeps the mapping alive.

    ``ConfigError`` when there is no file, or no FAISS index of float vectors in it;
    ``DamagedIndex`` when the file ends early or FAISS finds it inconsistent.
    """
    faiss = load_faiss()
    try:
        with path.open("rb") as file:
            kind = file.read(4)
        # An empty file cannot be mapped.
        mapped = np.memmap(path, np.uint8, "r") if kind else np.empty(0, np.uint8)
    except OSError as error:
        raise ConfigError(
            f"the index file {path} cannot be read: {error.strerror}",
            expected="a file that faiss.write_index wrote",
            next_step="correct the path of the index",
        ) from error
    if kind.startswith(_BINARY):
        raise ConfigError(
            f"{path} is a binary FAISS index: it holds bits, not the vectors of a model",
            found=repr(kind.decode("ascii", "replace")),
            expected="an index of float vectors",
            next_step="build an index from the vectors, or embed the documents again",
        )
    try:
        return _read(faiss, path, mapped)
    except RuntimeError as error:
        if len(kind) < 4 or _UNKNOWN_KIND in str(error):
            raise ConfigError(
                f"{path} is not a FAISS index, or of a kind that FAISS {faiss.__version__} "
                "does not know",
                found=f"{mapped.size} bytes that start with {kind!r}",
                expected="a file that faiss.write_index wrote",
                next_step="correct the path of the index, or install the FAISS that wrote it",
            ) from error
        raise truncated(path, str(error).rpartition("Error: ")[2]) from error


def _read(faiss: Any, path: Path, mapped: Any) -> Any:
    if not hasattr(faiss, "ZeroCopyIOReader"):  # FAISS before 1.11
        flags = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY
        return faiss.read_index(str(path), flags)
    reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(mapped), mapped.size)
    index = faiss.read_index(reader, faiss.IO_FLAG_READ_ONLY)
    if reader.rp_ != mapped.size:
        raise truncated(path, f"{mapped.size} bytes, while its content takes {reader.rp_}")
    keep(index, mapped)
    return index


def keep(owner: Any, *needed: Any) -> None:
    """Let ``needed`` live as long as the FAISS object that points into them."""
    owner.referenced_objects = [*getattr(owner, "referenced_objects", ()), *needed]


def truncated(path: Path, found: str) -> DamagedIndex:
    """The error for a file that is not what FAISS wrote."""
    return DamagedIndex(
        f"{path} is damaged: it was truncated or edited",
        found=found,
        expected="the file as faiss.write_index wrote it",
        next_step="copy the file again from where it was written",
    )
