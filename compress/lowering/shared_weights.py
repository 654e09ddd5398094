"""Two ONNX graphs with one copy of the weights: the second refers to them inside the file of the first."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import onnx

MIN_SHARED_BYTES = 1024
"""Minimum size of a shared tensor in bytes."""
_GRAPH, _INITIALIZER, _NAME, _RAW = 7, 5, 8, 9
"""Field numbers in `ModelProto`, `GraphProto` and `TensorProto`."""
_VARINT, _LENGTH = 0, 2
_FIXED = {1: 8, 5: 4}


def share_weights(model: onnx.ModelProto, file: Path) -> None:
    """Turn the tensors of `model`, which was read from `file`, into external data inside that file.

    ONNX external data is the name of a file in the same folder, an offset and a length. Existing external data is
    kept.
    """
    spans = raw_data_spans(file)
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) < MIN_SHARED_BYTES or tensor.name not in spans:
            continue
        offset, length = spans[tensor.name]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", file.name), ("offset", str(offset)), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)


def raw_data_spans(file: Path) -> dict[str, tuple[int, int]]:
    """Return the offset and length of each initializer's raw data in an ONNX file, by name.

    The protobuf encoding (https://protobuf.dev/programming-guides/encoding) is scanned directly, without parsing
    into objects.
    """
    spans = {}
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for graph in _fields(content, 0, len(content), _GRAPH):
            for tensor in _fields(content, *graph, _INITIALIZER):
                name = b"".join(content[start:end] for start, end in _fields(content, *tensor, _NAME))
                for start, end in _fields(content, *tensor, _RAW):
                    spans[name.decode()] = (start, end - start)
    return spans


def _fields(content: mmap.mmap, position: int, end: int, field_number: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of the contents of each field with the number `field_number`, in the message from `position`
    to `end`."""
    while position < end:
        tag, position = _varint(content, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            _, position = _varint(content, position)
            continue
        size, position = _varint(content, position) if wire_type == _LENGTH else (_FIXED[wire_type], position)
        if wire_type == _LENGTH and number == field_number:
            yield position, position + size
        position += size


def _varint(content: mmap.mmap, position: int) -> tuple[int, int]:
    """Decode a varint; returns its value and the position after it."""
    value = shift = 0
    while True:
        byte = content[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
