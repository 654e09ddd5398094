"""Static INT8 quantization: 8-bit weights and arithmetic with calibrated activation ranges.

The file contains integer operators (`QuantizeLinear` into `MatMulIntegerToFloat` or `QAttention`) instead of QDQ pairs
around floating-point ones: whether a session fuses such pairs depends on their position, and if it does not, it
dequantizes the weight at every call (after an early token selection the products have two axes, the session turns them
into `Gemm` with a bias, and those stay in float).

Outputs of products are not quantized, nor are sums, norms and activations, where a pair of nodes costs more than it
saves. Inputs that come from an activation function (the second feed-forward product) keep a range computed at run time:
a few large values dominate it, and a fixed range would lose the small values that matter.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from compress.lowering.graph import (
    MS_DOMAIN,
    add_initializer,
    inputs_of,
    insert_before,
    producer_of_type,
    replace_uses,
    tidy,
)
from compress.passes.quantize.calibration.ranges import Range
from compress.passes.quantize.embeddings import quantize_rows
from compress.passes.quantize.int8.affine import INT8_LIMIT, activation_scale
from compress.passes.quantize.int8.convolutions import fused_output, quantize_convolutions, ranged_value_names
from compress.passes.quantize.int8.operators import QuantizedWeights, insert_qattention, quantize_linear
from compress.passes.quantize.layers import Convolution, FusedAttention, Layer, Linear, MatMulLayer, Table

_ACTIVATIONS = ("Gelu", "Relu", "FastGelu", "BiasGelu", "QuickGelu", "Sigmoid", "Erf")


def calibrated_value_names(graph: ir.Graph, layers: list[Layer]) -> list[str]:
    """Return the names of the values whose range must be calibrated, without duplicates."""
    sources = [calibrated_source(layer) for layer in layers]
    names = [source.name for source in sources if source is not None and source.name]
    return list(dict.fromkeys([*names, *ranged_value_names(graph, convolutions(layers))]))


def required_value_names(layers: list[Layer]) -> set[str]:
    """Return those of `calibrated_value_names` that are required: layer inputs and convolution outputs.

    The other values lie between layers and stay in float if they have no range.
    """
    values = [source for layer in layers if (source := calibrated_source(layer)) is not None]
    for layer in convolutions(layers):
        values += [value for value in (layer.node.inputs[0], fused_output(layer.node.outputs[0])) if value]
    return {value.name or "" for value in values}


def quantize_static(
    model: ir.Model,
    layers: list[Layer],
    ranges: Mapping[str, Range],
    *,
    per_channel: bool,
    embeddings: bool,
    table_bits: int = 8,
    limit: int = INT8_LIMIT,
) -> None:
    """Replace each chosen layer of the graph by its statically quantized form.

    Args:
        ranges: (low, high) of the values of `calibrated_value_names`.
        limit: the largest integer of a weight.
    """
    graph = model.graph
    weights = QuantizedWeights(graph, per_channel, limit)
    quantized: dict[str, tuple[ir.Value, ir.Value, ir.Value]] = {}

    def quantize_source(source: ir.Value, place: ir.Node, name: str) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Return the uint8 form of `source`, its scale and its zero point."""
        restored = producer_of_type(source, "DequantizeLinear")
        if restored is not None:
            # It comes from an integer convolution: read its integers directly.
            value, scale, zero = inputs_of(restored, 0, 1, 2)
            return value, scale, zero
        if name not in quantized:
            step, middle = activation_scale(*ranges[name])
            constants = (
                add_initializer(graph, f"{name}.scale", np.asarray(step, np.float32)),
                add_initializer(graph, f"{name}.zero", np.asarray(middle, np.uint8)),
            )
            node = ir.node("QuantizeLinear", [source, *constants], name=f"{name}.quantized")
            quantized[name] = (insert_before(graph, place, node), *constants)
        return quantized[name]

    # A value keeps its calibrated name although its producer may be replaced before its reader.
    names = {
        id(layer): source.name or "" for layer in layers if (source := calibrated_source(layer)) is not None
    }
    quantize_convolutions(graph, convolutions(layers), ranges, per_channel=per_channel, limit=limit)
    for layer in layers:
        if id(layer) in names:
            assert isinstance(layer, MatMulLayer)
            source = quantize_source(layer.source, layer.node, names[id(layer)])
            if isinstance(layer, FusedAttention):
                insert_qattention(graph, layer, weights, *source)
            else:
                _multiply(graph, layer, weights, *source)
        elif isinstance(layer, Linear):
            quantize_linear(graph, layer, weights)
        elif embeddings and isinstance(layer, Table):
            quantize_rows(graph, layer, per_channel=per_channel, bits=table_bits)
    tidy(model)


def convolutions(layers: list[Layer]) -> list[Convolution]:
    """Return the convolutions among the layers."""
    return [layer for layer in layers if isinstance(layer, Convolution)]


def calibrated_source(layer: Layer) -> ir.Value | None:
    """Return the input of a layer if its range is calibrated; None if it is computed at run time or there is none."""
    if isinstance(layer, Table | Convolution):
        return None
    from_activation = isinstance(layer, Linear) and producer_of_type(layer.source, *_ACTIVATIONS) is not None
    return None if from_activation else layer.source


def _multiply(
    graph: ir.Graph,
    layer: Linear,
    weights: QuantizedWeights,
    source: ir.Value,
    scale: ir.Value,
    zero_point: ir.Value,
) -> None:
    """Replace source @ weight + bias by one `MatMulIntegerToFloat`."""
    weight, scales = weights.columns(layer)
    inputs = [source, weight, scale, scales, zero_point, None, layer.bias]
    node = ir.node("MatMulIntegerToFloat", inputs, domain=MS_DOMAIN, name=layer.node.name)
    replace_uses(layer.result, insert_before(graph, layer.node, node))
