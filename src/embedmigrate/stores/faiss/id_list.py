"""The list that says which document each vector of somebody else's index belongs to.

FAISS stores numbers only, so whoever built an index kept the document ids elsewhere. They are read
from one of

- ``.json``: an array of strings or integers, or an object ``{"<FAISS id>": "<document id>"}``;
- ``.jsonl`` (``.ndjson``): one JSON string or integer a line;
- ``.npy``: an array of integers or strings;
- anything else: UTF-8 text, one id a line, taken as it stands.

Nothing is unpickled: a pickle runs whatever its author liked. An integer and the string of its
digits are one id, as they are in every source.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from embedmigrate.errors import ConfigError, DuplicateId, Refused
from embedmigrate.sources.values import UnusableId, make_id

Labels = npt.NDArray[np.int64]
"""FAISS ids: what a search of an index answers."""

SHOWN = 10
"""Ids that an error names; the others are counted."""
_FORMS = ".json, .jsonl, .npy, or text with one id a line"
_LABEL = re.compile(r"0|-?[1-9]\d{0,18}")
_NPY = b"\x93NUMPY"
_PICKLE = b"\x80"


class IdList(NamedTuple):
    """Document ids in order, or by FAISS id."""

    path: Path
    ordered: Sequence[str]
    by_label: Mapping[int, str] | None

    def __len__(self) -> int:
        return len(self.ordered if self.by_label is None else self.by_label)


def read_id_list(path: Path) -> IdList:
    """The ids of a file; none is there twice.

    ``ConfigError`` for a file that is missing or holds no id list, ``DuplicateId`` for ids that
    repeat or cannot be ids.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_NPY))
        if start.startswith(_PICKLE) or path.suffix in {".pkl", ".pickle"}:
            raise _unreadable(path, "a pickle, which is not loaded: it can run any program")
        values = _values(path, start)
    except OSError as error:
        raise ConfigError(
            f"the id list {path} cannot be read: {error.strerror}",
            expected=_FORMS,
            next_step="correct the path of the id list",
        ) from error
    if isinstance(values, Mapping):
        labels = [_label(path, key) for key in values]
        ids = _ids(path, values.values(), "entry")
        _refuse_duplicates(path, ids)
        return IdList(path, (), dict(zip(labels, ids, strict=True)))
    ids = _ids(path, values, "id")
    _refuse_duplicates(path, ids)
    return IdList(path, ids, None)


def assign(listed: IdList, labels: Labels, *, in_order_of_adding: bool) -> list[str]:
    """The document id of each row, where ``labels`` are the FAISS ids of the rows, each once.

    An object names each FAISS id. A list is read the way applications read it: where the FAISS ids
    are 0 to n - 1, they are places in the list. Where they are others, the list holds either these
    very numbers, each its own document id, or the ids in the order in which they were added; an
    index that forgot that order (``in_order_of_adding`` is false) needs an object then.
    """
    if len(listed) != len(labels):
        raise Refused(
            f"the id list {listed.path} does not fit the index",
            found=f"{len(listed)} ids",
            expected=f"{len(labels)}: one for each vector",
            next_step="find the list that was written with this index",
        )
    numbers = labels.tolist()
    if listed.by_label is not None:
        lacking = [label for label in numbers if label not in listed.by_label]
        if lacking:
            raise Refused(
                f"the id list {listed.path} lacks FAISS ids of the index",
                found=f"no entry for {shown(lacking)}",
                expected="an entry for every FAISS id",
                next_step="find the list that was written with this index",
            )
        return [listed.by_label[label] for label in numbers]
    ids = listed.ordered
    if labels.min() == 0 and labels.max() == len(labels) - 1:
        return [ids[label] for label in numbers]
    known = set(ids)
    if all(str(label) in known for label in numbers):
        return [str(label) for label in numbers]
    if in_order_of_adding:
        return list(ids)
    raise Refused(
        f"the id list {listed.path} does not say which FAISS id is which document",
        found=f"a list, and an index with FAISS ids of its own: {shown(numbers)}",
        expected='a JSON object {"<FAISS id>": "<document id>"}: this kind of index does not keep '
        "the order in which vectors were added",
        next_step="write the object, with an entry for every FAISS id, to a .json file",
    )


def shown(values: Sequence[object]) -> str:
    """The first ten, and how many more there are."""
    text = ", ".join(repr(value) for value in values[:SHOWN])
    return text if len(values) <= SHOWN else f"{text} and {len(values) - SHOWN} more"


def _values(path: Path, start: bytes) -> Iterable[object] | Mapping[str, object]:
    match path.suffix:
        case ".npy":
            return _numpy_values(path, start)
        case ".json":
            return _json_values(path)
        case ".jsonl" | ".ndjson":
            return [_parsed(path, line, number) for number, line in _lines(path) if line.strip()]
        case _:
            return [line for _, line in _lines(path)]


def _numpy_values(path: Path, start: bytes) -> Sequence[object]:
    if start != _NPY:
        raise _unreadable(path, "no array of numpy")
    try:
        array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise _unreadable(path, f"an array that cannot be loaded ({error})") from error
    if array.ndim != 1 or array.dtype.kind not in "iuUS":
        raise _unreadable(path, f"an array of {array.dtype} with shape {array.shape}")
    if array.dtype.kind == "S":
        try:
            return [value.decode() for value in array.tolist()]
        except UnicodeDecodeError as error:
            raise _unreadable(path, "bytes that are not UTF-8") from error
    return list(map(str, array.tolist()))


def _json_values(path: Path) -> list[object] | dict[str, object]:
    values = _parsed(path, _text(path), None)
    if not isinstance(values, list | dict):
        raise _unreadable(path, f"a JSON value of type {type(values).__name__}")
    return values


def _parsed(path: Path, text: str, line: int | None) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        # The parser's own message tells places only, no content.
        where = "" if line is None else f"line {line}: "
        raise _unreadable(path, f"{where}no JSON ({error})") from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    text = _text(path).removesuffix("\n")
    yield from enumerate(text.split("\n") if text else (), 1)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable(path, "no UTF-8 text") from error


def _ids(path: Path, values: Iterable[object], what: str) -> list[str]:
    ids: list[str] = []
    try:
        ids.extend(map(make_id, values))
    except UnusableId as error:
        raise error.at(f"{path}, {what} {len(ids) + 1}") from None
    return ids


def _label(path: Path, key: str) -> int:
    if not _LABEL.fullmatch(key):
        raise ConfigError(
            f"the id list {path} has a key that is no FAISS id",
            found=repr(key[:80]),
            expected='an object {"<FAISS id>": "<document id>"}, the FAISS id in decimal digits',
            next_step="swap keys and values, if the object has them the other way round",
        )
    return int(key)


def _refuse_duplicates(path: Path, ids: Sequence[str]) -> None:
    if len(set(ids)) == len(ids):
        return
    repeated = [id for id, times in Counter(ids).items() if times > 1]
    raise DuplicateId(
        f"the id list {path} names {len(repeated)} document(s) more than once",
        found=shown(repeated),
        expected="every document once: one vector a document",
        next_step="find out which vector is right, and build the index without the others",
    )


def _unreadable(path: Path, found: str) -> ConfigError:
    return ConfigError(
        f"{path} is not an id list",
        found=found,
        expected=_FORMS,
        next_step="write the ids as a JSON array, in the order of the vectors",
    )
