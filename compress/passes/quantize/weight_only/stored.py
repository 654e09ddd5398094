"""Read block-quantized weights from a graph, and change their scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from compress.lowering.graph import attribute, constant, constant_of, inputs_of
from compress.passes.quantize.weight_only.blocks import Blocks, Bytes, Floats, unpack_nibbles


class StoredWeight(NamedTuple):
    """A block-quantized weight, and whether its rows are looked up too, like those of an embedding table."""

    blocks: Blocks
    is_lookup: bool


def stored_blocks(graph: ir.Graph) -> dict[str, StoredWeight]:
    """Return the block-quantized weights by node name; a table tied to a product is listed as the product."""
    weights: dict[str, StoredWeight] = {}
    products = [node for node in graph if node.op_type == "MatMulNBits"]
    multiplied = {node.inputs[1] for node in products}
    for node in products:
        integers, scales = inputs_of(node, 1, 2)
        zero_points = constant(node.inputs[3]) if len(node.inputs) > 3 else None
        is_lookup = any(use.node.op_type != "MatMulNBits" for use in integers.uses())
        weights[node.name or ""] = StoredWeight(
            _blocks(node, constant_of(integers), constant_of(scales), zero_points, attribute(node, "K", 0)),
            is_lookup,
        )
    for node in graph:
        if node.op_type == "GatherBlockQuantized" and node.inputs[0] not in multiplied:
            integers, scales = inputs_of(node, 0, 2)
            zero_points = constant(node.inputs[3]) if len(node.inputs) > 3 else None
            rows = constant_of(integers)
            width = rows.shape[1] * 8 // attribute(node, "bits", 4)
            weights[node.name or ""] = StoredWeight(
                _blocks(node, rows, constant_of(scales), zero_points, width), True
            )
    return weights


def multiply_scales(graph: ir.Graph, factors: Mapping[str, Floats]) -> None:
    """Multiply the scales of block-quantized products by factors (rows, blocks); scales shared by layers only once.

    Args:
        factors: by node name.
    """
    multiplied: set[ir.Value] = set()
    for node in graph:
        if node.op_type != "MatMulNBits" or node.name not in factors:
            continue
        (scales,) = inputs_of(node, 2)
        if scales not in multiplied:
            made = np.asarray(constant_of(scales) * factors[node.name].reshape(-1), np.float32)
            scales.const_value = ir.tensor(made, name=scales.name)
            multiplied.add(scales)


def _blocks(node: ir.Node, integers: Bytes, scales: Floats, zero_points: Bytes | None, width: int) -> Blocks:
    """Unpack the constants of a node, whatever their storage layout."""
    bits, size = attribute(node, "bits", 4), attribute(node, "block_size", 32)
    rows, count = len(integers), -(-width // size)
    values = integers.reshape(rows, -1)
    if bits == 4:
        values = unpack_nibbles(values)
        zero_points = (
            None if zero_points is None else unpack_nibbles(zero_points.reshape(rows, -1))[:, :count]
        )
    padded = np.full((rows, count * size), 2 ** (bits - 1), np.uint8)
    padded[:, : values.shape[1]] = values
    grid = scales.reshape(rows, count), None if zero_points is None else zero_points.reshape(rows, count)
    return Blocks(padded.reshape(rows, count, size), *grid, bits, width)
