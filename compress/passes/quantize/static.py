"""8-bit weights and arithmetic with activation ranges known beforehand.

Where a range is put decides what onnxruntime can fuse. A product by a constant weight takes a quantized input and a
quantized weight (`QuantizeLinear`, `DequantizeLinear` around both): the session turns that into integer arithmetic.
Nothing is quantized on the way out, nor are sums, norms and activations, where a pair of nodes costs more than it
saves. Two places differ:

- inputs that come out of an activation function (the second feed-forward product): their range is ruled by a few
  large values, and a fixed one destroys the small ones that matter; they keep a range found at run time.
- `Attention`, which has an integer kernel of its own (`QAttention`) that takes the fixed range directly.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from compress.lowering.graph import add_initializer, insert_before, made_by, replace, tidy
from compress.passes.quantize.integers import activation_scale
from compress.passes.quantize.layers import FusedAttention, Layer, Linear
from compress.passes.quantize.operators import Weights, attend, quantize_linear, quantize_rows
from compress.passes.quantize.ranges import Range

_ACTIVATIONS = ("Gelu", "Relu", "FastGelu", "BiasGelu", "QuickGelu", "Sigmoid", "Erf")


def ranged_values(chosen: list[Layer]) -> list[str]:
    """Names of the values whose range must be known, each once."""
    names = [layer.source.name for layer in chosen if _has_fixed_range(layer)]
    return list(dict.fromkeys(name for name in names if name is not None))


def quantize_static(
    model: ir.Model, chosen: list[Layer], ranges: Mapping[str, Range], *, per_channel: bool, embeddings: bool
) -> None:
    """Replace each chosen layer of the graph; `ranges` holds (low, high) of the values of `ranged_values`."""
    graph = model.graph
    weights = Weights(graph, per_channel)
    quantized: dict[str, tuple[ir.Value, ir.Value, ir.Value]] = {}

    def fixed(source: ir.Value, place: ir.Node, name: str) -> tuple[ir.Value, ir.Value, ir.Value]:
        """The uint8 value of `source`, its scale and its zero point."""
        if name not in quantized:
            scale, zero = activation_scale(*ranges[name])
            constants = (
                add_initializer(graph, f"{name}.scale", np.asarray(scale, np.float32)),
                add_initializer(graph, f"{name}.zero", np.asarray(zero, np.uint8)),
            )
            node = ir.node("QuantizeLinear", [source, *constants], name=f"{name}.quantized")
            quantized[name] = (insert_before(graph, place, node), *constants)
        return quantized[name]

    # A value keeps its calibrated name although its producer may be replaced before its reader is.
    names = {id(layer): layer.source.name or "" for layer in chosen if _has_fixed_range(layer)}
    for layer in chosen:
        if id(layer) in names:
            assert isinstance(layer, Linear | FusedAttention)
            source = fixed(layer.source, layer.node, names[id(layer)])
            if isinstance(layer, FusedAttention):
                attend(graph, layer, weights, *source)
            else:
                _multiply(graph, layer, weights, *source)
        elif isinstance(layer, Linear):
            quantize_linear(graph, layer, weights)
        elif embeddings and not isinstance(layer, FusedAttention):
            quantize_rows(graph, layer, per_channel)
    tidy(model)


def _has_fixed_range(layer: Layer) -> bool:
    if isinstance(layer, Linear):
        return made_by(layer.source, *_ACTIVATIONS) is None
    return isinstance(layer, FusedAttention)


def _multiply(
    graph: ir.Graph, layer: Linear, weights: Weights, source: ir.Value, scale: ir.Value, zero: ir.Value
) -> None:
    """DequantizeLinear(source) @ DequantizeLinear(weight) + bias."""
    name, place = layer.node.name, layer.node
    weight, scales = weights.columns(layer)
    read = ir.node("DequantizeLinear", [source, scale, zero], name=f"{name}.input")
    floats = ir.node("DequantizeLinear", [weight, scales], {"axis": 1}, name=f"{name}.weight")
    inputs = [insert_before(graph, place, read), insert_before(graph, place, floats)]
    result = insert_before(graph, place, ir.node("MatMul", inputs, name=name))
    if layer.bias is not None:
        result = insert_before(graph, place, ir.node("Add", [result, layer.bias], name=f"{name}.bias"))
    replace(layer.result, result)
