"""Write integer operators in QDQ form: `DequantizeLinear` before a floating-point operator, `QuantizeLinear` after it.

This is the form that other runtimes read. onnxruntime fuses each group back into the integer operator it came from: a
weight and a bias are dequantized right before the product that reads them, and outputs are quantized right after the
operator, where the operator form quantizes them too. Rows of an embedding table are dequantized after the lookup, as in
the operator form. Two kinds of products remain integer operators: those whose input range is computed at run time, for
which QDQ has no form, and those followed by an activation function, which a session would fuse into the `Gemm` before
fusing it into integers. These, already fused attention, and 4-bit tables can be read by onnxruntime only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from compress.lowering.graph import (
    Array,
    add_initializer,
    constant,
    constant_of,
    inputs_of,
    insert_before,
    replace_uses,
    tidy,
    unfuse_attention,
)
from compress.passes.quantize.int8.affine import MIN_SCALE, quantize_bias, scales_for_bias

_BINARY = {"QLinearAdd": "Add", "QLinearMul": "Mul"}
_UNARY = {
    "QLinearGlobalAveragePool": "GlobalAveragePool",
    "QLinearAveragePool": "AveragePool",
    "QLinearSigmoid": "Sigmoid",
}
_FUSED_ACTIVATIONS = frozenset(
    {"Relu", "LeakyRelu", "Elu", "Selu", "HardSigmoid", "Softplus", "Softsign", "ThresholdedRelu"}
)
_DATA_MOVEMENT = frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"})
"""Operators that run on integers unchanged."""


def convert_to_qdq(model: ir.Model) -> None:
    """Rewrite the integer operators of a statically quantized graph in place."""
    graph = model.graph
    converters: dict[str, Callable[[ir.Graph, ir.Node], None]] = {
        "QLinearConv": _convolution,
        "MatMulIntegerToFloat": _product,
        "QAttention": _attention,
        "QLinearConcat": _concatenation,
        **dict.fromkeys(_BINARY, _binary),
        **dict.fromkeys(_UNARY, _unary),
    }
    scales: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
    for node in list(graph):
        _remember_scales(node, scales)
        if node.op_type in converters:
            converters[node.op_type](graph, node)
        elif node.op_type in _DATA_MOVEMENT and node.inputs[0] in scales:
            _data_movement(graph, node, *scales[node.inputs[0]])
    tidy(model)


def _remember_scales(node: ir.Node, scales: dict[ir.Value, tuple[ir.Value, ir.Value]]) -> None:
    """Record scale and zero point of a node's output if that is uint8."""
    index = {"QuantizeLinear": 1, "QLinearConv": 6, "QLinearConcat": 0}.get(node.op_type)
    if index is None:
        index = 6 if node.op_type in _BINARY else 3 if node.op_type in _UNARY else None
    if index is not None:
        scale, zero = inputs_of(node, index, index + 1)
        scales[node.outputs[0]] = scale, zero
    elif node.op_type in _DATA_MOVEMENT and node.inputs[0] in scales:
        scales[node.outputs[0]] = scales[node.inputs[0]]


def _dequantize(
    graph: ir.Graph, anchor: ir.Node, parts: Sequence[ir.Value | None], axis: int | None = None
) -> ir.Value:
    """Insert a `DequantizeLinear` of (value, scale, zero point or None) before `anchor`; `axis`: of per-channel scales.

    The zero point is always written: a `Gemm` does not fuse otherwise.
    """
    value, scale, zero = parts
    scale_values = constant(scale)
    assert value is not None
    per_channel = scale_values is not None and scale_values.ndim == 1
    if zero is None:
        shape = () if scale_values is None else scale_values.shape
        zero = add_initializer(graph, f"{value.name}.zero", np.zeros(shape, constant_of(value).dtype))
    # One for each reader, as it fuses with that reader only.
    name = f"{value.name}.float.{len(value.uses())}"
    attributes = {"axis": axis} if per_channel and axis is not None else {}
    return insert_before(
        graph, anchor, ir.node("DequantizeLinear", [value, scale, zero], attributes, name=name)
    )


def _requantize(graph: ir.Graph, node: ir.Node, float_node: ir.Node, scale: ir.Value, zero: ir.Value) -> None:
    """Replace `node` by `float_node` followed by a `QuantizeLinear`."""
    float_node.outputs[0].name = f"{node.outputs[0].name}.unrounded"
    insert_before(graph, node, float_node)
    quantized = ir.node(
        "QuantizeLinear", [float_node.outputs[0], scale, zero], name=f"{node.outputs[0].name}.quantized"
    )
    replace_uses(node.outputs[0], insert_before(graph, node, quantized))


def _float_equivalent(node: ir.Node, op_type: str, inputs: Sequence[ir.Value | None]) -> ir.Node:
    """Return the floating-point equivalent of an integer operator."""
    # An attribute of onnxruntime's own pooling, which the standard operator lacks.
    attributes = [one for name, one in node.attributes.items() if name != "channels_last"]
    return ir.Node("", op_type, list(inputs), attributes, name=node.name)


def _convolution(graph: ir.Graph, node: ir.Node) -> None:
    x, weight = node.inputs[:3], node.inputs[3:6]
    inputs = [_dequantize(graph, node, x), _dequantize(graph, node, weight, axis=0)]
    if len(node.inputs) > 8:
        inputs.append(_dequantize(graph, node, _bias(graph, node.inputs[8], x[1], weight[1]), axis=0))
    _requantize(graph, node, _float_equivalent(node, "Conv", inputs), *inputs_of(node, 6, 7))


def _bias(graph: ir.Graph, value: ir.Value | None, *scales: ir.Value | None) -> list[ir.Value | None]:
    """Return an int32 bias with its scale, the product of input and weight scales."""
    first, second = map(constant_of, scales)
    assert value is not None
    scale = add_initializer(graph, f"{value.name}.scale", np.asarray(first * second, np.float32))
    return [value, scale, None]


def _product(graph: ir.Graph, node: ir.Node) -> None:
    if any(use.node.op_type in _FUSED_ACTIVATIONS for use in node.outputs[0].uses()):
        return
    replace_uses(node.outputs[0], _matmul(graph, node, *node.inputs[:5], *node.inputs[6:7]))


def _matmul(
    graph: ir.Graph,
    node: ir.Node,
    x: ir.Value | None,
    weight: ir.Value | None,
    scale: ir.Value | None,
    weight_scale: ir.Value | None,
    zero: ir.Value | None,
    bias: ir.Value | None = None,
) -> ir.Value:
    """Insert DequantizeLinear(x) @ DequantizeLinear(weight) + DequantizeLinear(bias)."""
    if bias is not None:
        weight, weight_scale = _raise_scales(
            graph, weight, weight_scale, constant_of(scale), constant_of(bias)
        )
    inputs = [
        _dequantize(graph, node, [x, scale, zero]),
        _dequantize(graph, node, [weight, weight_scale, None], 1),
    ]
    product = insert_before(graph, node, ir.node("MatMul", inputs, name=node.name))
    if bias is None:
        return product
    product.name = f"{node.name}.product"
    add = ir.node("Add", [product, _integer_bias(graph, node, bias, scale, weight_scale)])
    add.outputs[0].name = add.name = f"{node.name}.sum"
    return insert_before(graph, node, add)


def _raise_scales(
    graph: ir.Graph, weight: ir.Value | None, scales: ir.Value | None, step: Array, bias: Array
) -> tuple[ir.Value | None, ir.Value | None]:
    """Return the int8 weight and its scales, enlarged where too small for the bias to fit into 32 bits.

    This concerns output channels with near-zero weights, see `scales_for_bias`.
    """
    scale_values = constant_of(scales)
    needed = scales_for_bias(bias, float(step), per_channel=scale_values.ndim > 0)
    raised = np.maximum(scale_values, np.maximum(needed, MIN_SCALE / float(step))).astype(np.float32)
    if weight is None or scales is None or (raised == scale_values).all():
        return weight, scales
    values = np.rint(constant_of(weight) * (scale_values.astype(np.float64) / raised)).astype(np.int8)
    return (
        add_initializer(graph, f"{weight.name}.fitting", values),
        add_initializer(graph, f"{scales.name}.fitting", raised),
    )


def _integer_bias(
    graph: ir.Graph, node: ir.Node, bias: ir.Value, scale: ir.Value | None, weight_scale: ir.Value | None
) -> ir.Value:
    """Quantize the bias to int32: a product of two axes becomes a `Gemm`, which fuses only with an int32 bias."""
    values, step, steps = map(constant_of, (bias, scale, weight_scale))
    integers = quantize_bias(values, np.broadcast_to(steps, values.shape), float(step))
    stored = add_initializer(graph, f"{bias.name}.int32", integers)
    return _dequantize(graph, node, _bias(graph, stored, scale, weight_scale), axis=0)


def _attention(graph: ir.Graph, node: ir.Node) -> None:
    """Replace attention by one QKV product and `MultiHeadAttention`, which has no integer form."""
    x, weight, bias, scale, weight_scale, mask, zero = node.inputs[:7]
    product = _matmul(graph, node, x, weight, scale, weight_scale, zero, bias)
    unfuse_attention(graph, node, product, mask)


def _binary(graph: ir.Graph, node: ir.Node) -> None:
    inputs = [_dequantize(graph, node, node.inputs[start : start + 3]) for start in (0, 3)]
    _requantize(graph, node, _float_equivalent(node, _BINARY[node.op_type], inputs), *inputs_of(node, 6, 7))


def _unary(graph: ir.Graph, node: ir.Node) -> None:
    made = _float_equivalent(node, _UNARY[node.op_type], [_dequantize(graph, node, node.inputs[:3])])
    _requantize(graph, node, made, *inputs_of(node, 3, 4))


def _concatenation(graph: ir.Graph, node: ir.Node) -> None:
    starts = range(2, len(node.inputs), 3)
    inputs = [_dequantize(graph, node, node.inputs[start : start + 3]) for start in starts]
    _requantize(graph, node, _float_equivalent(node, "Concat", inputs), *inputs_of(node, 0, 1))


def _data_movement(graph: ir.Graph, node: ir.Node, scale: ir.Value, zero: ir.Value) -> None:
    first = _dequantize(graph, node, [node.inputs[0], scale, zero])
    _requantize(graph, node, _float_equivalent(node, node.op_type, [first, *node.inputs[1:]]), scale, zero)
