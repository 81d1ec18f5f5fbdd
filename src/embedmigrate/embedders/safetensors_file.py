"""Reads a safetensors file: eight bytes of header length, a JSON header, raw tensors.

By hand, because the format is this small, memory-mapping a table is then a matter of course, and
numpy has no bfloat16, which many tables are stored in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from embedmigrate.errors import ConfigError

_DTYPES: dict[str, str] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
}

_MAX_HEADER = 100_000_000


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file: where it lies and how to read it."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def is_float(self) -> bool:
        return self.dtype in ("F64", "F32", "F16", "BF16")

    @cached_property
    def data(self) -> npt.NDArray[Any]:
        """The raw tensor, mapped read-only at first use; bfloat16 comes as its bits."""
        return np.memmap(
            self.path, dtype=_DTYPES[self.dtype], mode="r", offset=self.offset, shape=self.shape
        )

    def rows(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """``self[index]`` as float32, reading nothing but these rows."""
        values = self.data[index]
        if self.dtype == "BF16":
            # A bfloat16 is the upper half of a float32.
            return (values.astype(np.uint32) << 16).view(np.float32)
        return np.asarray(values, dtype=np.float32)


def read_header(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a safetensors file; ``ConfigError`` names a file that is not one."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            _not_safetensors(path, f"a header of {length} bytes in a file of {size}")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        tensors = {
            name: Tensor(
                path,
                str(entry["dtype"]),
                tuple(entry["shape"]),
                8 + length + entry["data_offsets"][0],
            )
            for name, entry in header.items()
        }
        for name, tensor in tensors.items():
            if tensor.dtype not in _DTYPES:
                continue
            end = tensor.offset + prod(tensor.shape) * np.dtype(_DTYPES[tensor.dtype]).itemsize
            if end > size or tensor.offset < 8 + length:
                _not_safetensors(path, f"tensor {name!r} ends at {end} of {size} bytes")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        _not_safetensors(path, repr(error))
    return tensors


def _not_safetensors(path: Path, found: str) -> NoReturn:
    raise ConfigError(
        f"{path} is not a sound safetensors file",
        found=found,
        expected="a file that was written by safetensors",
        next_step="restore the file",
    )
