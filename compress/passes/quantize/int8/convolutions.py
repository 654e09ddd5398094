"""Convolutions in integers, and whatever lies between them: a value stays 8-bit from one to the next.

A convolution that read and wrote floats would spend what it saves on the way in and out. So sums of branches, pooling,
concatenation and reshapes run on the integers too; an activation function that only cuts its input (Relu, Relu6) is
the limit of the integers themselves. What has no integer kernel (a norm that could not be folded, Gelu) reads and
writes floats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from compress.lowering.graph import MS_DOMAIN, add_initializer, constant, insert_before, replace, scalar
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
_FINEST = 128
_RANGED = frozenset({*_BINARY, *_UNARY, "Concat"})


def ranged_between(graph: ir.Graph, chosen: Sequence[Convolution]) -> list[str]:
    """Names of the float values whose range `quantize_convolutions` may ask for, each once."""
    if not chosen:
        return []
    names: list[str] = []
    convolutions = {layer.node for layer in chosen}
    for node in graph:
        if node in convolutions or (node.op_type in _RANGED and not node.domain):
            wanted = [value for value in node.inputs[:2] if value is not None and constant(value) is None]
            names += [value.name or "" for value in (*wanted, activated(node.outputs[0]))]
    return list(dict.fromkeys(names))


def quantize_convolutions(
    graph: ir.Graph,
    chosen: Sequence[Convolution],
    ranges: Mapping[str, Range],
    *,
    per_channel: bool,
    limit: int = INT8_LIMIT,
) -> None:
    """Replace each chosen convolution by `QLinearConv`, and what lies between them by its integer kernel.

    Args:
        ranges: (low, high) of the values of `ranged_between`.
        limit: the largest integer of a weight.
    """
    if chosen:
        _Integers(graph, {layer.node: layer for layer in chosen}, ranges, per_channel, limit).walk()


def activated(value: ir.Value) -> ir.Value:
    """The value after the activation function that only cuts `value`; `value` where no such function reads it alone."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return value
    reader = uses[0].node
    return reader.outputs[0] if reader.op_type == "Relu" or _cuts_around_zero(reader) else value


def _cuts_around_zero(node: ir.Node) -> bool:
    """Whether a Clip keeps 0: its limits are then limits of the integers."""
    if node.op_type != "Clip":
        return False
    low, high = (scalar(value) for value in (*node.inputs[1:], None, None)[:2])
    given = [value is not None for value in (*node.inputs[1:], None, None)[:2]]
    return all(limit is not None or not known for limit, known in zip((low, high), given, strict=True)) and (
        (low or 0.0) <= 0.0 <= (high if high is not None else 0.0)
    )


@dataclass(frozen=True)
class _Integer:
    """uint8 `value`, float32 `scale`, uint8 `zero`: what a float value is in integers."""

    value: ir.Value
    scale: ir.Value
    zero: ir.Value

    @property
    def inputs(self) -> tuple[ir.Value, ir.Value, ir.Value]:
        """As operators take it."""
        return self.value, self.scale, self.zero


class _Integers:
    """One walk over a graph, from its inputs to its outputs."""

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
        self.known: dict[ir.Value, _Integer] = {}
        """Float values that exist as integers."""
        self.gone: set[ir.Value] = set()
        """Those of them that nothing computes as floats any more."""
        self.restored: dict[ir.Value, ir.Value] = {}

    def walk(self) -> None:
        for node in list(self.graph):
            if node.outputs[0] in self.gone:
                continue  # an activation function that its producer took in
            if not self._replaced(node):
                self._read_floats(node)
        for output in list(self.graph.outputs):
            if output in self.gone:
                last = next(reversed(list(self.graph)))
                restored = ir.node("DequantizeLinear", self.known[output].inputs, name=f"{output.name}.float")
                self.graph.insert_after(last, restored)
                restored.outputs[0].name = restored.name
                replace(output, restored.outputs[0])

    def _replaced(self, node: ir.Node) -> bool:
        """Put the integer kernel of a node beside it; False where the node stays as it is."""
        if node in self.convolutions:
            self._convolve(self.convolutions[node])
            return True
        if node.domain:
            return False
        first = node.inputs[0] if node.inputs else None
        source = None if first is None else self.known.get(first)
        if node.op_type in _SAME_SCALE and source is not None:
            inputs = [source.value, *node.inputs[1:]]
            self._place(node, node.outputs[0], ir.Node("", node.op_type, inputs, _copied(node)), source)
            return True
        if node.op_type == "Shape" and source is not None and first in self.gone:
            node.replace_input_with(0, source.value)
            return True
        if node.op_type in _UNARY and source is not None:
            reads = source.inputs
            self._kernel(
                node,
                _UNARY[node.op_type],
                lambda scale, zero: [*reads, scale, zero],
                mean_of=source if node.op_type == "GlobalAveragePool" else None,
            )
            return True
        if node.op_type in _BINARY and self._joins(node):
            parts = [part for value in node.inputs for part in self.integer(value, node).inputs]
            self._kernel(node, _BINARY[node.op_type], lambda scale, zero: [*parts, scale, zero])
            return True
        if node.op_type == "Concat" and all(value in self.known for value in node.inputs):
            parts = [part for value in node.inputs for part in self.integer(value, node).inputs]
            self._kernel(node, "QLinearConcat", lambda scale, zero: [scale, zero, *parts])
            return True
        return False

    def _joins(self, node: ir.Node) -> bool:
        """Whether a sum or product is worth integers: a side exists as integers alone, no side is a constant, and the
        ranges of all are known."""
        ranged = activated(node.outputs[0]).name in self.ranges
        return (
            ranged
            and any(value in self.gone for value in node.inputs)
            and all(
                value in self.known
                or (value is not None and value.name in self.ranges and constant(value) is None)
                for value in node.inputs
            )
        )

    def _read_floats(self, node: ir.Node) -> None:
        for index, value in enumerate(node.inputs):
            if value is not None and value in self.gone:
                node.replace_input_with(index, self._floating(value, node))

    def _floating(self, value: ir.Value, place: ir.Node) -> ir.Value:
        if value not in self.restored:
            node = ir.node("DequantizeLinear", self.known[value].inputs, name=f"{value.name}.float")
            self.restored[value] = insert_before(self.graph, place, node)
        return self.restored[value]

    def integer(self, value: ir.Value | None, place: ir.Node) -> _Integer:
        """A value in integers; one that is a float alone is quantized before `place`."""
        assert value is not None
        if value not in self.known:
            scale, zero = self._constants(value)
            node = ir.node("QuantizeLinear", [value, scale, zero], name=f"{value.name}.uint8")
            self.known[value] = _Integer(insert_before(self.graph, place, node), scale, zero)
        return self.known[value]

    def _convolve(self, layer: Convolution) -> None:
        node, name = layer.node, layer.weight_value.name
        source = self.integer(node.inputs[0], node)
        input_scale = _number(source.scale)
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
        self._kernel(
            node,
            "QLinearConv",
            lambda scale, zero: [*source.inputs, *constants, scale, zero, *bias],
            domain="",
        )

    def _kernel(
        self,
        node: ir.Node,
        op_type: str,
        inputs: Callable[[ir.Value, ir.Value], list[ir.Value]],
        domain: str = MS_DOMAIN,
        mean_of: _Integer | None = None,
    ) -> None:
        """An integer kernel whose result has a scale of its own, with the activation that follows taken in."""
        result = activated(node.outputs[0])
        scale, zero = self._constants(result, mean_of)
        made = ir.Node(domain, op_type, inputs(scale, zero), _copied(node))
        self._place(node, result, made, _Integer(result, scale, zero))

    def _place(self, node: ir.Node, result: ir.Value, made: ir.Node, like: _Integer) -> None:
        made.name = node.name
        made.outputs[0].name = f"{result.name}.uint8"
        self.graph.insert_before(node, made)
        self.known[result] = _Integer(made.outputs[0], like.scale, like.zero)
        self.gone.update({node.outputs[0], result})
        self.known.setdefault(node.outputs[0], self.known[result])

    def _constants(self, value: ir.Value, mean_of: _Integer | None = None) -> tuple[ir.Value, ir.Value]:
        """Scale and zero point of a value's calibrated range.

        The kernel of a mean refuses scales that are far from that of what it reads: no coarser, and not much finer.
        """
        low, high = self.ranges[value.name or ""]
        scale, zero = activation_scale(low, high)
        if mean_of is not None:
            whole = _number(mean_of.scale)
            if scale > whole:
                return mean_of.scale, mean_of.zero
            wider = max(1.0, whole / _FINEST / scale)
            scale, zero = activation_scale(low * wider, high * wider)
        return (
            add_initializer(self.graph, f"{value.name}.scale", np.asarray(scale, np.float32)),
            add_initializer(self.graph, f"{value.name}.zero", np.asarray(zero, np.uint8)),
        )


def _number(value: ir.Value) -> float:
    return float(np.asarray(constant(value)))


def _copied(node: ir.Node) -> list[ir.Attr]:
    return list(node.attributes.values())
