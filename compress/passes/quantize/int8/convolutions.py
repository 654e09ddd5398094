"""Integer convolutions and the operators between them, so that values stay 8-bit from one convolution to the next.

Converting to and from float around every convolution would cost what integers save. Residual sums, pooling,
concatenation and reshapes therefore run on integers too; an activation that only clips (Relu, Relu6) becomes part of
the integer range. Operators without an integer kernel (a norm that could not be folded, Gelu) read and write floats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from compress.lowering.graph import MS_DOMAIN, add_initializer, constant, insert_before, replace_uses, scalar
from compress.passes.quantize.calibration.ranges import Range
from compress.passes.quantize.int8.affine import INT8_LIMIT, activation_scale, quantize_bias, quantize_kernel
from compress.passes.quantize.layers import Convolution

_SAME_SCALE = frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity"})
_BINARY = {"Add": "QLinearAdd", "Mul": "QLinearMul"}
_UNARY = {
    "GlobalAveragePool": "QLinearGlobalAveragePool",
    "AveragePool": "QLinearAveragePool",
    "Sigmoid": "QLinearSigmoid",
}
_MAX_REFINEMENT = 128
_RANGED_OPERATORS = frozenset({*_BINARY, *_UNARY, "Concat"})


def ranged_value_names(graph: ir.Graph, layers: Sequence[Convolution]) -> list[str]:
    """Return the names of the float values whose range `quantize_convolutions` may need, without duplicates."""
    if not layers:
        return []
    names: list[str] = []
    convolutions = {layer.node for layer in layers}
    for node in graph:
        if node in convolutions or (node.op_type in _RANGED_OPERATORS and not node.domain):
            wanted = [value for value in node.inputs[:2] if value is not None and constant(value) is None]
            names += [value.name or "" for value in (*wanted, fused_output(node.outputs[0]))]
    return list(dict.fromkeys(names))


def quantize_convolutions(
    graph: ir.Graph,
    layers: Sequence[Convolution],
    ranges: Mapping[str, Range],
    *,
    per_channel: bool,
    limit: int = INT8_LIMIT,
) -> None:
    """Replace each chosen convolution by `QLinearConv`, and the operators in between by their integer kernels.

    Args:
        ranges: (low, high) of the values of `ranged_value_names`.
        limit: the largest integer of a weight.
    """
    if layers:
        _IntegerRewriter(graph, {layer.node: layer for layer in layers}, ranges, per_channel, limit).rewrite()


def fused_output(value: ir.Value) -> ir.Value:
    """Return the output of the clipping activation that alone reads `value`, or `value` itself if there is none."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return value
    reader = uses[0].node
    return reader.outputs[0] if reader.op_type == "Relu" or _clips_around_zero(reader) else value


def _clips_around_zero(node: ir.Node) -> bool:
    """Whether a node is a Clip whose range contains 0, so that its limits can become integer limits."""
    if node.op_type != "Clip":
        return False
    low, high = (scalar(value) for value in (*node.inputs[1:], None, None)[:2])
    is_set = [value is not None for value in (*node.inputs[1:], None, None)[:2]]
    return all(limit is not None or not known for limit, known in zip((low, high), is_set, strict=True)) and (
        (low or 0.0) <= 0.0 <= (high if high is not None else 0.0)
    )


@dataclass(frozen=True)
class _QuantizedValue:
    """Integer form of a float value: uint8 `value`, float32 `scale`, uint8 `zero_point`."""

    value: ir.Value
    scale: ir.Value
    zero_point: ir.Value

    @property
    def inputs(self) -> tuple[ir.Value, ir.Value, ir.Value]:
        """The three values in the order that operators take them."""
        return self.value, self.scale, self.zero_point


class _IntegerRewriter:
    """One traversal of a graph, from its inputs to its outputs."""

    def __init__(
        self,
        graph: ir.Graph,
        convolutions: Mapping[ir.Node, Convolution],
        ranges: Mapping[str, Range],
        per_channel: bool,
        limit: int,
    ) -> None:
        self.graph = graph
        self.convolutions = convolutions
        self.ranges = ranges
        self.per_channel = per_channel
        self.limit = limit
        self.quantized: dict[ir.Value, _QuantizedValue] = {}
        """Integer form of each float value that has one."""
        self.integer_only: set[ir.Value] = set()
        """Values that are no longer computed as floats."""
        self.dequantized: dict[ir.Value, ir.Value] = {}

    def rewrite(self) -> None:
        for node in list(self.graph):
            if node.outputs[0] in self.integer_only:
                continue  # activation function fused into its producer
            if not self._replace(node):
                self._dequantize_inputs(node)
        for output in list(self.graph.outputs):
            if output in self.integer_only:
                last = next(reversed(list(self.graph)))
                dequantize = ir.node(
                    "DequantizeLinear", self.quantized[output].inputs, name=f"{output.name}.float"
                )
                self.graph.insert_after(last, dequantize)
                dequantize.outputs[0].name = dequantize.name
                replace_uses(output, dequantize.outputs[0])

    def _replace(self, node: ir.Node) -> bool:
        """Insert the integer kernel of a node next to it; return False if the node stays in float."""
        if node in self.convolutions:
            self._convolve(self.convolutions[node])
            return True
        if node.domain:
            return False
        first = node.inputs[0] if node.inputs else None
        source = None if first is None else self.quantized.get(first)
        if node.op_type in _SAME_SCALE and source is not None:
            inputs = [source.value, *node.inputs[1:]]
            self._insert(
                node, node.outputs[0], ir.Node("", node.op_type, inputs, _attributes_of(node)), source
            )
            return True
        if node.op_type == "Shape" and source is not None and first in self.integer_only:
            node.replace_input_with(0, source.value)
            return True
        if node.op_type in _UNARY and source is not None:
            source_inputs = source.inputs
            self._insert_kernel(
                node,
                _UNARY[node.op_type],
                lambda scale, zero: [*source_inputs, scale, zero],
                mean_of=source if node.op_type == "GlobalAveragePool" else None,
            )
            return True
        if node.op_type in _BINARY and self._runs_in_integers(node):
            parts = [part for value in node.inputs for part in self.quantize(value, node).inputs]
            self._insert_kernel(node, _BINARY[node.op_type], lambda scale, zero: [*parts, scale, zero])
            return True
        if node.op_type == "Concat" and all(value in self.quantized for value in node.inputs):
            parts = [part for value in node.inputs for part in self.quantize(value, node).inputs]
            self._insert_kernel(node, "QLinearConcat", lambda scale, zero: [scale, zero, *parts])
            return True
        return False

    def _runs_in_integers(self, node: ir.Node) -> bool:
        """Whether a sum or product should run in integers.

        That is if an operand exists only as integers, none is a constant, and all ranges are known.
        """
        has_range = fused_output(node.outputs[0]).name in self.ranges
        return (
            has_range
            and any(value in self.integer_only for value in node.inputs)
            and all(
                value in self.quantized
                or (value is not None and value.name in self.ranges and constant(value) is None)
                for value in node.inputs
            )
        )

    def _dequantize_inputs(self, node: ir.Node) -> None:
        for index, value in enumerate(node.inputs):
            if value is not None and value in self.integer_only:
                node.replace_input_with(index, self._dequantize(value, node))

    def _dequantize(self, value: ir.Value, anchor: ir.Node) -> ir.Value:
        if value not in self.dequantized:
            node = ir.node("DequantizeLinear", self.quantized[value].inputs, name=f"{value.name}.float")
            self.dequantized[value] = insert_before(self.graph, anchor, node)
        return self.dequantized[value]

    def quantize(self, value: ir.Value | None, anchor: ir.Node) -> _QuantizedValue:
        """Return the integer form of a value; a float-only value is quantized before `anchor`."""
        assert value is not None
        if value not in self.quantized:
            scale, zero = self._constants(value)
            node = ir.node("QuantizeLinear", [value, scale, zero], name=f"{value.name}.uint8")
            self.quantized[value] = _QuantizedValue(insert_before(self.graph, anchor, node), scale, zero)
        return self.quantized[value]

    def _convolve(self, layer: Convolution) -> None:
        node, name = layer.node, layer.weight_value.name
        source = self.quantize(node.inputs[0], node)
        input_scale = _float_of(source.scale)
        kernel = quantize_kernel(layer.weight, self.per_channel, layer.bias, input_scale, self.limit)
        constants = [
            add_initializer(self.graph, f"{name}.int8", kernel.values),
            add_initializer(self.graph, f"{name}.scale", kernel.scales),
            add_initializer(self.graph, f"{name}.zero", np.zeros(kernel.scales.shape, np.int8)),
        ]
        bias: list[ir.Value] = []
        if layer.bias is not None:
            integers = quantize_bias(layer.bias, kernel.scales, input_scale)
            bias = [add_initializer(self.graph, f"{name}.bias.int32", integers)]
        self._insert_kernel(
            node,
            "QLinearConv",
            lambda scale, zero: [*source.inputs, *constants, scale, zero, *bias],
            domain="",
        )

    def _insert_kernel(
        self,
        node: ir.Node,
        op_type: str,
        inputs: Callable[[ir.Value, ir.Value], list[ir.Value]],
        domain: str = MS_DOMAIN,
        mean_of: _QuantizedValue | None = None,
    ) -> None:
        """Insert an integer kernel with its own output scale, fusing a following activation."""
        result = fused_output(node.outputs[0])
        scale, zero = self._constants(result, mean_of)
        made = ir.Node(domain, op_type, inputs(scale, zero), _attributes_of(node))
        self._insert(node, result, made, _QuantizedValue(result, scale, zero))

    def _insert(self, node: ir.Node, result: ir.Value, kernel: ir.Node, like: _QuantizedValue) -> None:
        kernel.name = node.name
        kernel.outputs[0].name = f"{result.name}.uint8"
        self.graph.insert_before(node, kernel)
        self.quantized[result] = _QuantizedValue(kernel.outputs[0], like.scale, like.zero_point)
        self.integer_only.update({node.outputs[0], result})
        self.quantized.setdefault(node.outputs[0], self.quantized[result])

    def _constants(
        self, value: ir.Value, mean_of: _QuantizedValue | None = None
    ) -> tuple[ir.Value, ir.Value]:
        """Add scale and zero point of a value's calibrated range as constants.

        The kernel of `GlobalAveragePool` only supports output scales close to its input scale: not coarser, and at most
        `_MAX_REFINEMENT` times finer.
        """
        low, high = self.ranges[value.name or ""]
        scale, zero = activation_scale(low, high)
        if mean_of is not None:
            input_scale = _float_of(mean_of.scale)
            if scale > input_scale:
                return mean_of.scale, mean_of.zero_point
            wider = max(1.0, input_scale / _MAX_REFINEMENT / scale)
            scale, zero = activation_scale(low * wider, high * wider)
        return (
            add_initializer(self.graph, f"{value.name}.scale", np.asarray(scale, np.float32)),
            add_initializer(self.graph, f"{value.name}.zero", np.asarray(zero, np.uint8)),
        )


def _float_of(value: ir.Value) -> float:
    return float(np.asarray(constant(value)))


def _attributes_of(node: ir.Node) -> list[ir.Attr]:
    return list(node.attributes.values())
