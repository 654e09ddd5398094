"""Operators with integer arithmetic in place of floating-point ones; activation ranges are found at run time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from compress.lowering.graph import MS_DOMAIN, add_initializer, attribute, insert_before, replace
from compress.passes.quantize.blocks import quantize_blocks
from compress.passes.quantize.integers import Quantized, quantize_columns, quantize_table
from compress.passes.quantize.layers import FusedAttention, Linear, Table

TABLE_BLOCK = 128
"""Values of a row that share a scale at most."""


@dataclass
class Weights:
    """Quantized constants of one graph; a weight that two layers share is stored once."""

    graph: ir.Graph
    per_channel: bool
    _made: dict[tuple[int, bool], tuple[ir.Value, ir.Value]] = field(default_factory=dict)

    def columns(self, layer: Linear | FusedAttention) -> tuple[ir.Value, ir.Value]:
        """int8 weight (inputs, outputs) and its scales, as constants of the graph."""
        transposed = isinstance(layer, Linear) and bool(attribute(layer.node, "transB", 0))
        key = (id(layer.weight_value), transposed)
        if key not in self._made:
            self._made[key] = self._add(
                layer.weight_value.name, quantize_columns(layer.weight, self.per_channel)
            )
        return self._made[key]

    def _add(self, name: str | None, quantized: Quantized) -> tuple[ir.Value, ir.Value]:
        return (
            add_initializer(self.graph, f"{name}.int8", quantized.values),
            add_initializer(self.graph, f"{name}.scale", quantized.scales),
        )


def quantize_linear(graph: ir.Graph, layer: Linear, weights: Weights) -> None:
    """x @ weight + bias -> one `DynamicQuantizeMatMul`."""
    weight, scales = weights.columns(layer)
    inputs = [layer.source, weight, scales, None, layer.bias]
    node = ir.node("DynamicQuantizeMatMul", inputs, domain=MS_DOMAIN, name=layer.node.name)
    replace(layer.result, insert_before(graph, layer.node, node))


def quantize_attention(graph: ir.Graph, layer: FusedAttention, weights: Weights) -> None:
    """`Attention` -> `DynamicQuantizeLinear` and `QAttention`."""
    name = layer.node.name
    ranged = ir.node("DynamicQuantizeLinear", [layer.source], num_outputs=3, name=f"{name}.input")
    insert_before(graph, layer.node, ranged)
    attend(graph, layer, weights, *ranged.outputs)


def attend(
    graph: ir.Graph,
    layer: FusedAttention,
    weights: Weights,
    source: ir.Value,
    scale: ir.Value,
    zero: ir.Value,
) -> None:
    """`Attention` -> `QAttention` of an input that is quantized already."""
    weight, scales = weights.columns(layer)
    inputs = [source, weight, layer.bias, scale, scales, layer.mask, zero]
    kept = {
        name: layer.node.attributes[name]
        for name in ("num_heads", "scale", "mask_filter_value")
        if name in layer.node.attributes
    }
    node = ir.Node(MS_DOMAIN, "QAttention", inputs, list(kept.values()), name=layer.node.name)
    replace(layer.node.outputs[0], insert_before(graph, layer.node, node))


def quantize_rows(graph: ir.Graph, table: Table, per_channel: bool) -> None:
    """Rows of a table -> 8-bit rows that are dequantized after they are read.

    With `per_channel` each 128 values of a row have a scale of their own (`GatherBlockQuantized`); otherwise the
    table has one.
    """
    name, node = table.rows_value.name, table.node
    if per_channel:
        block = block_size_for(table.rows.shape[1])
        blocks = quantize_blocks(table.rows, block, bits=8, symmetric=True)
        width = table.rows.shape[1]
        values = blocks.values.reshape(len(table.rows), -1)[:, :width]
        inputs = [
            add_initializer(graph, f"{name}.uint8", values),
            node.inputs[1],
            add_initializer(graph, f"{name}.scale", blocks.scales),
        ]
        attributes = {"bits": 8, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
        read = ir.node("GatherBlockQuantized", inputs, attributes, domain=MS_DOMAIN, name=node.name)
    else:
        quantized = quantize_table(table.rows)
        rows = add_initializer(graph, f"{name}.uint8", quantized.values)
        gather = ir.node("Gather", [rows, node.inputs[1]], {"axis": 0}, name=f"{node.name}.rows")
        inputs = [
            insert_before(graph, node, gather),
            add_initializer(graph, f"{name}.scale", quantized.scales),
            add_initializer(graph, f"{name}.zero", np.asarray(quantized.zero, np.uint8)),
        ]
        read = ir.node("DequantizeLinear", inputs, name=node.name)
    replace(node.outputs[0], insert_before(graph, node, read))


def block_size_for(width: int, largest: int = TABLE_BLOCK) -> int:
    """The largest power of two from 16 up to `largest` that divides `width`; 16 where none does."""
    size = largest
    while size > 16 and width % size:
        size //= 2
    return size
