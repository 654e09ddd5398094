"""Quantize embedding tables; rows are dequantized after the lookup."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from compress.core.errors import ModelError
from compress.lowering.graph import MS_DOMAIN, add_initializer, insert_before, replace_uses
from compress.passes.quantize.int8.affine import quantize_table
from compress.passes.quantize.layers import Table
from compress.passes.quantize.weight_only.blocks import Blocks, Floats, quantize_blocks

MAX_BLOCK_SIZE = {8: 128, 4: 64}
"""Maximum number of values in a row that share a scale, by bits: fewer levels need finer scales."""


def quantize_rows(graph: ir.Graph, table: Table, *, per_channel: bool, bits: int) -> None:
    """Quantize a table: one scale per block of a row, or with 8 bits and without `per_channel` a single scale.

    Raises:
        ModelError: see `insert_block_gather`.
    """
    if not per_channel and bits == 8:
        _insert_row_gather(graph, table)
        return
    insert_block_gather(graph, [table], table_blocks(table.weight, bits))


def table_blocks(rows: Floats, bits: int) -> Blocks:
    """Quantize rows (rows, width) in the largest symmetric blocks up to `MAX_BLOCK_SIZE` that divide the width."""
    block = block_size_for(rows.shape[1], MAX_BLOCK_SIZE[bits])
    return quantize_blocks(rows, block, bits, symmetric=True)


def insert_block_gather(graph: ir.Graph, tables: Sequence[Table], blocks: Blocks) -> None:
    """Replace the `Gather` of tables that share one constant with `GatherBlockQuantized`, in 4- or 8-bit blocks.

    Raises:
        ModelError: the width is odd, so rows cannot be packed as two 4-bit values per byte.
    """
    name, node, width = tables[0].weight_value.name, tables[0].node, blocks.width
    if blocks.bits == 4 and width % 2:
        raise ModelError(
            f"its rows have {width} values, an odd number that 4-bit storage cannot hold",
            where=node.name,
            hint=f"Keep it in floating point: quantize: {{exclude: [{node.name}]}}",
        )
    # The padding of the last block of a row is not stored.
    bytes_used = width * blocks.bits // 8
    constants = [
        add_initializer(
            graph,
            f"{name}.uint{blocks.bits}",
            blocks.packed().reshape(len(blocks.values), -1)[:, :bytes_used],
        ),
        add_initializer(graph, f"{name}.scale", blocks.scales),
    ]
    if (zeros := blocks.packed_zero_points()) is not None:
        constants.append(add_initializer(graph, f"{name}.zero", zeros))
    for table in tables:
        replace_uses(table.node.outputs[0], gather(graph, table, blocks, constants, axis=1))


def gather(
    graph: ir.Graph, table: Table, blocks: Blocks, constants: Sequence[ir.Value], axis: int
) -> ir.Value:
    """Insert a `GatherBlockQuantized` over integers, scales and optional zero points, and return its output.

    Args:
        axis: axis of the constants along which a scale is shared.
    """
    integers, *grid = constants
    attributes = {
        "bits": blocks.bits,
        "block_size": blocks.block_size,
        "gather_axis": 0,
        "quantize_axis": axis,
    }
    inputs = [integers, table.node.inputs[1], *grid]
    node = ir.node("GatherBlockQuantized", inputs, attributes, domain=MS_DOMAIN, name=table.node.name)
    return insert_before(graph, table.node, node)


def block_size_for(width: int, max_size: int) -> int:
    """Return the largest power of two from 16 up to `max_size` that divides `width`; 16 if none does."""
    size = max_size
    while size > 16 and width % size:
        size //= 2
    return size


def _insert_row_gather(graph: ir.Graph, table: Table) -> None:
    """Replace a table by `Gather` of 8-bit rows and `DequantizeLinear` with a single scale."""
    name, node = table.weight_value.name, table.node
    quantized = quantize_table(table.weight)
    rows = add_initializer(graph, f"{name}.uint8", quantized.values)
    gather = ir.node("Gather", [rows, node.inputs[1]], {"axis": 0}, name=f"{node.name}.rows")
    inputs = [
        insert_before(graph, node, gather),
        add_initializer(graph, f"{name}.scale", quantized.scales),
        add_initializer(graph, f"{name}.zero", np.asarray(quantized.zero_point, np.uint8)),
    ]
    read = ir.node("DequantizeLinear", inputs, name=node.name)
    replace_uses(node.outputs[0], insert_before(graph, node, read))
