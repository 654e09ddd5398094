"""Tables of embeddings whose rows are kept in few bits and dequantized after they are read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from compress.core.errors import ModelError
from compress.lowering.graph import MS_DOMAIN, add_initializer, insert_before, replace
from compress.passes.quantize.int8.affine import quantize_table
from compress.passes.quantize.layers import Table
from compress.passes.quantize.weight_only.blocks import Blocks, Floats, quantize_blocks

LARGEST_BLOCK = {8: 128, 4: 64}
"""Values of a row that share a scale at most, by bits: fewer levels want scales that fit closer."""


def quantize_rows(graph: ir.Graph, table: Table, *, per_channel: bool, bits: int) -> None:
    """Replace a table: blocks of its rows have scales of their own; 8 bits without `per_channel` one in all.

    Raises:
        ModelError: see `read_blocks`.
    """
    if not per_channel and bits == 8:
        _read_whole(graph, table)
        return
    read_blocks(graph, [table], table_blocks(table.weight, bits))


def table_blocks(rows: Floats, bits: int) -> Blocks:
    """Rows (rows, width) in symmetric blocks as large as `LARGEST_BLOCK` allows and the width divides into."""
    block = block_size_for(rows.shape[1], LARGEST_BLOCK[bits])
    return quantize_blocks(rows, block, bits, symmetric=True)


def read_blocks(graph: ir.Graph, tables: Sequence[Table], blocks: Blocks) -> None:
    """`Gather` -> `GatherBlockQuantized` of tables that read one constant, in blocks of 4 or 8 bits.

    Raises:
        ModelError: rows of an odd width, which two values a byte cannot hold.
    """
    name, node, width = tables[0].weight_value.name, tables[0].node, blocks.width
    if blocks.bits == 4 and width % 2:
        raise ModelError(
            f"its rows have {width} values, an odd number that 4-bit storage cannot hold",
            where=node.name,
            hint=f"Keep it in floating point: quantize: {{exclude: [{node.name}]}}",
        )
    # What fills the last block of a row is not stored.
    bytes_used = width * blocks.bits // 8
    constants = [
        add_initializer(
            graph,
            f"{name}.uint{blocks.bits}",
            blocks.packed().reshape(len(blocks.values), -1)[:, :bytes_used],
        ),
        add_initializer(graph, f"{name}.scale", blocks.scales),
    ]
    if (zeros := blocks.packed_zeros()) is not None:
        constants.append(add_initializer(graph, f"{name}.zero", zeros))
    for table in tables:
        replace(table.node.outputs[0], gather(graph, table, blocks, constants, axis=1))


def gather(
    graph: ir.Graph, table: Table, blocks: Blocks, constants: Sequence[ir.Value], axis: int
) -> ir.Value:
    """What a table reads of integers, scales and perhaps zero points.

    Args:
        axis: of the constants, the one along which a scale is shared.
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


def block_size_for(width: int, largest: int) -> int:
    """The largest power of two from 16 up to `largest` that divides `width`; 16 where none does."""
    size = largest
    while size > 16 and width % size:
        size //= 2
    return size


def _read_whole(graph: ir.Graph, table: Table) -> None:
    """`Gather` of 8-bit rows and `DequantizeLinear` with the one scale of the table."""
    name, node = table.weight_value.name, table.node
    quantized = quantize_table(table.weight)
    rows = add_initializer(graph, f"{name}.uint8", quantized.values)
    gather = ir.node("Gather", [rows, node.inputs[1]], {"axis": 0}, name=f"{node.name}.rows")
    inputs = [
        insert_before(graph, node, gather),
        add_initializer(graph, f"{name}.scale", quantized.scales),
        add_initializer(graph, f"{name}.zero", np.asarray(quantized.zero, np.uint8)),
    ]
    read = ir.node("DequantizeLinear", inputs, name=node.name)
    replace(node.outputs[0], insert_before(graph, node, read))
