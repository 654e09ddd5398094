"""Write block-quantized weights as `MatMulNBits` with floating-point activations; the writer of all methods."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from compress.core.errors import ModelError
from compress.lowering.graph import (
    MS_DOMAIN,
    add_initializer,
    attribute,
    insert_before,
    replace_uses,
    unfuse_attention,
)
from compress.passes.quantize.embeddings import gather, insert_block_gather
from compress.passes.quantize.layers import FusedAttention, MatMulLayer, Table
from compress.passes.quantize.weight_only.blocks import Blocks

ACCURACY_LEVEL = 4
"""Activations are rounded to 8 bits inside the kernel, which makes it fast."""

BlockedLayer = MatMulLayer | Table


def write_blocks(graph: ir.Graph, layers: Sequence[BlockedLayer], blocks: Blocks) -> None:
    """Replace layers that share a constant, which is stored once in blocks.

    A width that is not a multiple of the block size is padded with zeros, which costs only bytes.

    Args:
        blocks: one row per output; for tables, their rows.

    Raises:
        ModelError: the rows of a table have an odd width, so they cannot be packed as two 4-bit values per byte.
    """
    tables = [layer for layer in layers if isinstance(layer, Table)]
    products = [layer for layer in layers if not isinstance(layer, Table)]
    if not products:
        insert_block_gather(graph, tables, blocks)
        return
    name = products[0].weight_value.name
    integers = add_initializer(graph, f"{name}.int{blocks.bits}", blocks.packed())
    grid = [add_initializer(graph, f"{name}.scale", blocks.scales.reshape(-1))]
    if (zero_points := blocks.packed_zero_points()) is not None:
        grid.append(add_initializer(graph, f"{name}.zero", zero_points.reshape(-1)))
    for layer in products:
        product = _product(graph, layer, blocks, [integers, *grid])
        if isinstance(layer, FusedAttention):
            replace_attention(graph, layer, product)
            continue
        if layer.bias is not None:
            add = ir.node("Add", [product, layer.bias], name=f"{layer.node.name}.bias")
            product = insert_before(graph, layer.node, add)
        replace_uses(layer.result, product)
    for table in tables:
        replace_uses(table.node.outputs[0], _gather_tied_rows(graph, table, blocks, [integers, *grid]))


def _product(graph: ir.Graph, layer: MatMulLayer, blocks: Blocks, constants: Sequence[ir.Value]) -> ir.Value:
    """Insert source @ weight."""
    attributes = {
        "K": blocks.width,
        "N": len(blocks.values),
        "bits": blocks.bits,
        "block_size": blocks.block_size,
        "accuracy_level": ACCURACY_LEVEL,
    }
    inputs = [layer.source, *constants]
    node = ir.node("MatMulNBits", inputs, attributes, domain=MS_DOMAIN, name=layer.node.name)
    return insert_before(graph, layer.node, node)


def _gather_tied_rows(
    graph: ir.Graph, table: Table, blocks: Blocks, constants: Sequence[ir.Value]
) -> ir.Value:
    """Gather table rows from the blocks of a product that shares the weight, and reassemble them."""
    node, name = table.node, table.node.name
    rows, count, size = blocks.values.shape

    def constant(what: str, values: list[int]) -> ir.Value:
        return add_initializer(graph, f"{name}.{what}", np.array(values, np.int64))

    def insert(op_type: str, inputs: Sequence[ir.Value | None], what: str) -> ir.Value:
        return insert_before(graph, node, ir.node(op_type, inputs, name=f"{name}.{what}"))

    integers, *grid = constants
    by_block = constant("by_block", [rows, count, 1])
    gather_inputs = [integers, insert("Reshape", [grid[0], by_block], "scales")]
    if blocks.zero_points is not None and blocks.bits == 8:
        gather_inputs.append(insert("Reshape", [grid[1], by_block], "zeros"))
    elif blocks.zero_points is not None:
        # A product packs two zero points per byte, whereas this operator starts each block at a new byte.
        gather_inputs.append(
            add_initializer(graph, f"{table.weight_value.name}.zero_of_rows", blocks.zero_points[..., None])
        )
    gathered = gather(graph, table, blocks, gather_inputs, axis=2)
    gathered.name = f"{name}.blocks"
    shape = node.inputs[1].shape if node.inputs[1] is not None else None
    together = constant("together", [*[0] * (2 if shape is None else len(shape)), count * size])
    rows_value = insert("Reshape", [gathered, together], "whole")
    if count * size == blocks.width:
        return rows_value
    ends = [constant("start", [0]), constant("end", [blocks.width]), constant("axis", [-1])]
    return insert("Slice", [rows_value, *ends], "unfilled")


def replace_attention(graph: ir.Graph, layer: FusedAttention, product: ir.Value) -> None:
    """Replace `Attention` by its biased QKV projection (batch, sequence, 3 * width) and `MultiHeadAttention`."""
    node, name = layer.node, layer.node.name
    widths = attribute(node, "qkv_hidden_sizes", None) or [layer.shape[1] // 3] * 3
    if len(set(widths)) != 1:
        raise ModelError(
            f"query, key and value have the widths {list(widths)}, which must be equal", where=name
        )
    product.name = f"{name}.qkv.product"
    biased = insert_before(graph, node, ir.node("Add", [product, layer.bias], name=f"{name}.qkv"))
    unfuse_attention(graph, node, biased, layer.mask)
