"""Reads what an ONNX file says of itself: inputs, outputs, operators, files of weights.

By hand and without a runtime, because an identity must be told where the runtime is not
installed, and because nothing but the file knows which other files belong to it. An ONNX file is
one protobuf message; weights are skipped over, so that reading takes milliseconds.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from embedmigrate.errors import ConfigError

Shape = tuple[int | None, ...]
"""One entry an axis; None for an axis whose length varies."""


class TensorType(NamedTuple):
    """An input or output. ``shape`` is None when the file does not tell the rank."""

    element: int
    shape: Shape | None


INT32 = 6
"""Element type of a 32-bit integer; token ids are 64-bit where it is not this."""


@dataclass(frozen=True)
class OnnxGraph:
    """The outside of a model, and the names of what it is made of."""

    inputs: Mapping[str, TensorType]
    outputs: Mapping[str, TensorType]
    operators: frozenset[str]
    external_files: tuple[str, ...]
    """Files of weights, as the model names them: relative to the model file."""


def read_graph(path: Path) -> OnnxGraph:
    """What the ONNX file at ``path`` says of itself; ``ConfigError`` if it is not one."""
    try:
        with path.open("rb") as file:
            # Unmapped when the last view of it is gone; closing it earlier would be an error.
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _Reader().read(memoryview(data))
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is not a sound ONNX file",
            found=str(error),
            expected="a model in ONNX's format",
            next_step="restore the file",
        ) from error


# Field numbers of onnx.proto, which are fixed for ever.
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_SPARSE = 1, 5, 11, 12, 15
_FUNCTION_NODE = 7
_NODE_OPERATOR, _NODE_ATTRIBUTE = 4, 5
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES = 22, 23
_SPARSE_VALUES, _SPARSE_INDICES = 1, 2
_TENSOR_NAME, _TENSOR_EXTERNAL = 8, 13
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR, _TENSOR_ELEMENT, _TENSOR_SHAPE = 1, 1, 2
_SHAPE_AXIS, _AXIS_LENGTH = 1, 1


class _Reader:
    def __init__(self) -> None:
        self.operators: set[str] = set()
        self.external: dict[str, None] = {}
        self.initializers: set[str] = set()
        self.inputs: dict[str, TensorType] = {}
        self.outputs: dict[str, TensorType] = {}

    def read(self, model: memoryview) -> OnnxGraph:
        graphs = 0
        for number, value in _messages(model):
            if number == _MODEL_GRAPH:
                graphs += 1
                self.graph(value, top=True)
            elif number == _MODEL_FUNCTIONS:
                self.nodes(value, _FUNCTION_NODE)
        if not graphs or not self.outputs:
            raise ValueError("no graph with outputs")
        return OnnxGraph(
            # Old files list their weights among the inputs.
            {name: it for name, it in self.inputs.items() if name not in self.initializers},
            self.outputs,
            frozenset(self.operators),
            tuple(self.external),
        )

    def graph(self, graph: memoryview, *, top: bool = False) -> None:
        for number, value in _messages(graph):
            if number == _GRAPH_INITIALIZER:
                name = self.tensor(value)
                if top:
                    self.initializers.add(name)
            elif number == _GRAPH_SPARSE:
                self.sparse(value)
            elif top and number in (_GRAPH_INPUT, _GRAPH_OUTPUT):
                name, tensor = _value(value)
                (self.inputs if number == _GRAPH_INPUT else self.outputs)[name] = tensor
        self.nodes(graph, _GRAPH_NODE)

    def nodes(self, owner: memoryview, node_field: int) -> None:
        for number, node in _messages(owner):
            if number != node_field:
                continue
            for part, value in _messages(node):
                if part == _NODE_OPERATOR:
                    self.operators.add(_text(value))
                elif part == _NODE_ATTRIBUTE:
                    self.attribute(value)

    def attribute(self, attribute: memoryview) -> None:
        for number, value in _messages(attribute):
            if number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
                self.tensor(value)
            elif number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                self.graph(value)
            elif number in (_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES):
                self.sparse(value)

    def sparse(self, sparse: memoryview) -> None:
        for number, value in _messages(sparse):
            if number in (_SPARSE_VALUES, _SPARSE_INDICES):
                self.tensor(value)

    def tensor(self, tensor: memoryview) -> str:
        """Note the file of a tensor, if it lies in one, and answer its name."""
        name = ""
        for number, value in _messages(tensor):
            if number == _TENSOR_NAME:
                name = _text(value)
            elif number == _TENSOR_EXTERNAL:
                entry = {part: _text(text) for part, text in _messages(value)}
                if entry.get(_ENTRY_KEY) == "location":
                    self.external[entry.get(_ENTRY_VALUE, "")] = None
        return name


def _value(value: memoryview) -> tuple[str, TensorType]:
    name, tensor = "", TensorType(0, None)
    for number, part in _messages(value):
        if number == _VALUE_NAME:
            name = _text(part)
        elif number == _VALUE_TYPE:
            for kind, body in _messages(part):
                if kind == _TYPE_TENSOR:
                    tensor = _tensor_type(body)
    return name, tensor


def _tensor_type(body: memoryview) -> TensorType:
    element, shape = 0, None
    for number, value in _fields(body):
        if number == _TENSOR_ELEMENT and isinstance(value, int):
            element = value
        elif number == _TENSOR_SHAPE and isinstance(value, memoryview):
            shape = tuple(_axis(axis) for part, axis in _messages(value) if part == _SHAPE_AXIS)
    return TensorType(element, shape)


def _axis(axis: memoryview) -> int | None:
    for number, value in _fields(axis):
        if number == _AXIS_LENGTH and isinstance(value, int) and 0 < value < 2**31:
            return value
    return None


def _text(value: memoryview) -> str:
    return bytes(value).decode("utf-8")


def _messages(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The length-delimited fields of a message: messages, strings and bytes."""
    for number, value in _fields(message):
        if isinstance(value, memoryview):
            yield number, value


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """(field number, value) of each field of a protobuf message, in order."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        value: memoryview | int
        if wire == 0:
            value, at = _varint(message, at)
        else:
            if wire == 2:
                length, at = _varint(message, at)
            elif wire in (1, 5):
                length = 8 if wire == 1 else 4
            else:
                raise ValueError(f"no protobuf message: wire type {wire}")
            if length > end - at:
                raise ValueError(f"truncated: {length} bytes announced, {end - at} there")
            value, at = message[at : at + length], at + length
        yield number, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("no protobuf message: a number of more than 64 bits")
