"""Layers of a graph with weights worth quantizing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compress.lowering.graph import (
    MS_DOMAIN,
    Array,
    attribute,
    constant,
    constant_of,
    constant_shape,
    inputs_of,
)
from compress.passes.patterns import matching_names
from compress.passes.quantize.spec import OnnxSpec

Floats = NDArray[np.float32]

_PRODUCTS = ("MatMul", "Gemm", "Conv")

MIN_TABLE_BYTES = 16384
"""A smaller table is not quantized: dequantizing it would cost more than it saves."""


@dataclass(frozen=True)
class _Weighted:
    """A layer and its constant, which is read on each access: it may be large, and other steps change it."""

    node: ir.Node
    weight_value: ir.Value

    @property
    def transposed(self) -> bool:
        """Whether the stored constant is the transpose of `weight`."""
        return False

    @property
    def weight(self) -> Floats:
        """The current weight."""
        array = constant_of(self.weight_value)
        return np.asarray(array.T if self.transposed else array, np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `weight`."""
        shape = constant_shape(self.weight_value) or ()
        return shape[::-1] if self.transposed else shape

    @property
    def source(self) -> ir.Value:
        """The layer's current input value."""
        return inputs_of(self.node, 0)[0]


@dataclass(frozen=True)
class Linear(_Weighted):
    """x @ weight + bias, as `MatMul` with or without `Add`, or as `Gemm`.

    `weight`: (inputs, outputs); `bias`: (outputs,) or None; `result`: the value after the bias.
    """

    bias: ir.Value | None
    result: ir.Value

    @property
    def transposed(self) -> bool:
        """Whether the constant is (outputs, inputs)."""
        return bool(attribute(self.node, "transB", 0))


@dataclass(frozen=True)
class FusedAttention(_Weighted):
    """`com.microsoft.Attention` with constant projections: weight (hidden, query + key + value)."""

    @property
    def bias(self) -> ir.Value | None:
        """(query + key + value,)."""
        return self.node.inputs[2]

    @property
    def mask(self) -> ir.Value | None:
        """int32 (batch, sequence); None without a mask."""
        return self.node.inputs[3] if len(self.node.inputs) > 3 else None


@dataclass(frozen=True)
class Table(_Weighted):
    """`Gather` of rows of a constant table: weight (rows, width)."""


@dataclass(frozen=True)
class Convolution(_Weighted):
    """`Conv` with a constant kernel: weight (outputs, inputs / groups, ...), bias (outputs,) or None."""

    bias: Array | None


MatMulLayer = Linear | FusedAttention
"""Layer that multiplies its input by a matrix: weight (inputs, outputs)."""
Layer = MatMulLayer | Table | Convolution


def weighted_layers(graph: ir.Graph) -> Iterator[Layer]:
    """Yield every layer with a constant weight, in graph order."""
    for node in list(graph):
        found = _linear(node) or _attention(node) or _table(node) or _convolution(node)
        if found is not None:
            yield found


LAYER_KINDS: dict[str, type[Layer]] = {
    "linear": Linear,
    "attention": FusedAttention,
    "embedding": Table,
    "convolution": Convolution,
}
"""Kinds of layers by their names in profiles."""


def layers_to_quantize(graph: ir.Graph, spec: OnnxSpec) -> list[Layer]:
    """Return the layers of a graph that the spec does not exclude, in graph order.

    Raises:
        ModelError: a pattern of `exclude` matches no layer and no product of `other_products`.
    """
    found = list(weighted_layers(graph))
    excluded = _excluded_nodes(found, other_products(graph), spec)
    return [layer for layer in found if layer.node not in excluded]


def excluded_weights(graph: ir.Graph, spec: OnnxSpec) -> list[str]:
    """Return the names of the weights that the spec excludes; tables are not included.

    Raises:
        ModelError: see `layers_to_quantize`.
    """
    found, other = list(weighted_layers(graph)), other_products(graph)
    excluded = _excluded_nodes(found, other, spec)
    products = {layer.node: weight_name(layer) for layer in found if not isinstance(layer, Table)} | other
    return [name for node, name in products.items() if node in excluded]


def _excluded_nodes(all_layers: Sequence[Layer], other: Iterable[ir.Node], spec: OnnxSpec) -> set[ir.Node]:
    matched = matching_nodes(
        [*(layer.node for layer in all_layers), *other], spec.exclude, "quantize.exclude"
    )
    kinds = tuple(LAYER_KINDS[kind] for kind in spec.exclude_kinds)
    return matched | {layer.node for layer in all_layers if isinstance(layer, kinds)}


def other_products(graph: ir.Graph) -> dict[ir.Node, str]:
    """Return non-quantizable products with a constant weight, which are not `Layer`s: node -> weight name.

    For example, the weight is the left operand or holds several matrices.
    """
    layer_nodes = {layer.node for layer in weighted_layers(graph)}
    products: dict[ir.Node, str] = {}
    for node in graph:
        if node.op_type in _PRODUCTS and not node.domain and node not in layer_nodes:
            names = [
                value.name or "" for value in node.inputs[:2] if value and constant_shape(value) is not None
            ]
            if names:
                products[node] = names[0]
    return products


def matching_nodes(nodes: Sequence[ir.Node], patterns: Sequence[str], where: str) -> set[ir.Node]:
    """Return the nodes whose name matches one of the shell patterns.

    Args:
        where: path of the patterns in the profile, for the message.

    Raises:
        ModelError: a pattern matches no node.
    """
    names = [node.name or "" for node in nodes]
    matched = matching_names(names, patterns, what="layer", where=where)
    return {node for node, name in zip(nodes, names, strict=True) if name in matched}


def group_by_source(candidates: Iterable[Layer]) -> dict[ir.Value, list[MatMulLayer]]:
    """Group the matrix products among the layers by their input, in graph order."""
    groups: dict[ir.Value, list[MatMulLayer]] = {}
    for layer in candidates:
        if isinstance(layer, MatMulLayer):
            groups.setdefault(layer.source, []).append(layer)
    return groups


def input_names(candidates: Iterable[Layer]) -> list[str]:
    """Return the names of the inputs of the matrix products among the layers, without duplicates."""
    return [value.name for value in group_by_source(candidates) if value.name]


def weight_name(layer: Layer) -> str:
    """Name of a layer's constant, which identifies the layer across loads of its graph."""
    return layer.weight_value.name or ""


def _linear(node: ir.Node) -> Linear | None:
    if node.op_type not in ("MatMul", "Gemm") or node.domain:
        return None
    source, value = node.inputs[0], node.inputs[1]
    shape = constant_shape(value)
    if (
        source is None
        or value is None
        or shape is None
        or len(shape) != 2
        or constant_shape(source) is not None
    ):
        return None
    if node.op_type == "MatMul":
        return Linear(node, value, *_bias_after(node.outputs[0], shape[1]))
    plain = attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0
    if not plain or attribute(node, "transA", 0):
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    width = shape[0 if attribute(node, "transB", 0) else 1]
    if bias is None:
        return Linear(node, value, *_bias_after(node.outputs[0], width))
    return Linear(node, value, bias, node.outputs[0]) if constant_shape(bias) == (width,) else None


def _bias_after(product: ir.Value, width: int) -> tuple[ir.Value | None, ir.Value]:
    """Return the constant bias (width,) added to `product`, and the sum; None and `product` without one."""
    uses = list(product.uses())
    if len(uses) == 1 and uses[0].node.op_type == "Add" and not product.is_graph_output():
        other = uses[0].node.inputs[1 - uses[0].idx]
        if other is not None and constant_shape(other) == (width,):
            return other, uses[0].node.outputs[0]
    return None, product


def _attention(node: ir.Node) -> FusedAttention | None:
    if node.op_type != "Attention" or node.domain != MS_DOMAIN or node.inputs[0] is None:
        return None
    value = node.inputs[1]
    return None if value is None or constant_shape(value) is None else FusedAttention(node, value)


def _convolution(node: ir.Node) -> Convolution | None:
    if node.op_type != "Conv" or node.domain:
        return None
    value = node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None or constant_shape(value) is None or (bias is not None and constant_shape(bias) is None):
        return None
    return Convolution(node, value, constant(bias))


def _table(node: ir.Node) -> Table | None:
    if node.op_type != "Gather" or attribute(node, "axis", 0) != 0:
        return None
    value = node.inputs[0]
    shape = constant_shape(value)
    if value is None or value.dtype != ir.DataType.FLOAT or shape is None or len(shape) != 2:
        return None
    return Table(node, value) if 4 * math.prod(shape) >= MIN_TABLE_BYTES else None
