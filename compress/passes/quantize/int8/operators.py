"""Integer operators in place of floating-point ones, with activation ranges computed at run time."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from compress.lowering.graph import MS_DOMAIN, add_initializer, attribute, insert_before, replace_uses
from compress.passes.quantize.int8.affine import INT8_LIMIT, quantize_columns
from compress.passes.quantize.layers import FusedAttention, Linear, MatMulLayer


@dataclass
class QuantizedWeights:
    """Quantized constants of a graph; a weight shared by two layers is stored once."""

    graph: ir.Graph
    per_channel: bool
    limit: int = INT8_LIMIT
    """The largest integer of a weight."""
    _cache: dict[tuple[int, bool], tuple[ir.Value, ir.Value]] = field(default_factory=dict)

    def columns(self, layer: MatMulLayer) -> tuple[ir.Value, ir.Value]:
        """Return the int8 weight (inputs, outputs) and its scales, as constants of the graph."""
        transposed = isinstance(layer, Linear) and bool(attribute(layer.node, "transB", 0))
        key = (id(layer.weight_value), transposed)
        if key not in self._cache:
            name, quantized = (
                layer.weight_value.name,
                quantize_columns(layer.weight, self.per_channel, self.limit),
            )
            self._cache[key] = (
                add_initializer(self.graph, f"{name}.int8", quantized.values),
                add_initializer(self.graph, f"{name}.scale", quantized.scales),
            )
        return self._cache[key]


def quantize_linear(graph: ir.Graph, layer: Linear, weights: QuantizedWeights) -> None:
    """Replace x @ weight + bias by one `DynamicQuantizeMatMul`."""
    weight, scales = weights.columns(layer)
    inputs = [layer.source, weight, scales, None, layer.bias]
    node = ir.node("DynamicQuantizeMatMul", inputs, domain=MS_DOMAIN, name=layer.node.name)
    replace_uses(layer.result, insert_before(graph, layer.node, node))


def quantize_attention(graph: ir.Graph, layer: FusedAttention, weights: QuantizedWeights) -> None:
    """Replace `Attention` by `DynamicQuantizeLinear` and `QAttention`."""
    name = layer.node.name
    quantize = ir.node("DynamicQuantizeLinear", [layer.source], num_outputs=3, name=f"{name}.input")
    insert_before(graph, layer.node, quantize)
    insert_qattention(graph, layer, weights, *quantize.outputs)


def insert_qattention(
    graph: ir.Graph,
    layer: FusedAttention,
    weights: QuantizedWeights,
    source: ir.Value,
    scale: ir.Value,
    zero_point: ir.Value,
) -> None:
    """Replace `Attention` by `QAttention` on an input that is already quantized."""
    weight, scales = weights.columns(layer)
    inputs = [source, weight, layer.bias, scale, scales, layer.mask, zero_point]
    attributes = {
        name: layer.node.attributes[name]
        for name in ("num_heads", "scale", "mask_filter_value")
        if name in layer.node.attributes
    }
    node = ir.Node(MS_DOMAIN, "QAttention", inputs, list(attributes.values()), name=layer.node.name)
    replace_uses(layer.node.outputs[0], insert_before(graph, layer.node, node))
