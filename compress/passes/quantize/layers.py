"""The parts of a graph that have weights worth quantizing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import onnx_ir as ir

from compress.core.errors import ModelError
from compress.lowering.graph import Array, attribute, constant

SMALLEST_TABLE_BYTES = 16384
"""A smaller table is left alone: a step to dequantize it costs more than its bytes."""


@dataclass(frozen=True)
class Linear:
    """x @ weight + bias, as `MatMul` with or without `Add`, or as `Gemm`.

    `weight`: (inputs, outputs); `bias`: (outputs,) or None; `result` is the value after the bias.
    """

    node: ir.Node
    weight: Array
    weight_value: ir.Value
    bias: ir.Value | None
    result: ir.Value

    @property
    def source(self) -> ir.Value:
        """What it multiplies, as the graph stands now."""
        return _first_input(self.node)


@dataclass(frozen=True)
class FusedAttention:
    """`com.microsoft.Attention` with constant projections: weight (hidden, query + key + value)."""

    node: ir.Node
    weight: Array
    weight_value: ir.Value

    @property
    def source(self) -> ir.Value:
        """What it multiplies, as the graph stands now."""
        return _first_input(self.node)

    @property
    def bias(self) -> ir.Value | None:
        """(query + key + value,)."""
        return self.node.inputs[2]

    @property
    def mask(self) -> ir.Value | None:
        """int32 (batch, sequence); None where nothing is masked."""
        return self.node.inputs[3] if len(self.node.inputs) > 3 else None


@dataclass(frozen=True)
class Table:
    """`Gather` of rows of a constant table (rows, width)."""

    node: ir.Node
    rows: Array
    rows_value: ir.Value


@dataclass(frozen=True)
class Convolution:
    """`Conv` with a constant kernel: weight (outputs, inputs / groups, ...), bias (outputs,) or None."""

    node: ir.Node
    weight: Array
    weight_value: ir.Value
    bias: Array | None


Layer = Linear | FusedAttention | Table | Convolution


def layers(graph: ir.Graph) -> Iterator[Layer]:
    """Every layer with a constant weight, in graph order."""
    for node in list(graph):
        found = _linear(node) or _attention(node) or _table(node) or _convolution(node)
        if found is not None:
            yield found


KINDS: dict[str, type[Layer]] = {
    "linear": Linear,
    "attention": FusedAttention,
    "embedding": Table,
    "convolution": Convolution,
}
"""What profiles call the kinds of layers."""


def layers_to_quantize(graph: ir.Graph, exclude: Sequence[str], kinds: Sequence[str]) -> list[Layer]:
    """The layers of a graph that are not excluded by name or kind.

    Raises:
        ModelError: see `split_excluded`.
    """
    return split_excluded(list(layers(graph)), exclude, kinds)[0]


def split_excluded(
    found: Sequence[Layer], exclude: Sequence[str], kinds: Sequence[str] = ()
) -> tuple[list[Layer], list[Layer]]:
    """Layers to quantize, and layers whose node's name fits one of the shell patterns or that are of a kind.

    Raises:
        ModelError: a pattern fits no layer.
    """
    names = [layer.node.name or "" for layer in found]
    for pattern in exclude:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ModelError(
                f"no layer of the model fits the pattern {pattern!r}",
                where="quantize.exclude",
                hint=f"The layers are: {', '.join(names)}",
            )
    classes = tuple(KINDS[kind] for kind in kinds)
    out = [
        isinstance(layer, classes) or any(fnmatchcase(name, pattern) for pattern in exclude)
        for layer, name in zip(found, names, strict=True)
    ]
    chosen = [layer for layer, excluded in zip(found, out, strict=True) if not excluded]
    left = [layer for layer, excluded in zip(found, out, strict=True) if excluded]
    return chosen, left


def weight_of(layer: Layer) -> ir.Value:
    """The constant that a layer multiplies by or reads from."""
    return layer.rows_value if isinstance(layer, Table) else layer.weight_value


def weight_name(layer: Layer) -> str:
    """What a layer is known by when its graph is read again: the name of its constant."""
    return weight_of(layer).name or ""


def _first_input(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _linear(node: ir.Node) -> Linear | None:
    if node.op_type not in ("MatMul", "Gemm") or node.domain:
        return None
    source, value = node.inputs[0], node.inputs[1]
    weight = constant(value)
    if source is None or value is None or weight is None or weight.ndim != 2 or constant(source) is not None:
        return None
    if node.op_type == "MatMul":
        bias, result = _added(node.outputs[0])
        return Linear(node, weight, value, bias, result)
    plain = attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0
    if not plain or attribute(node, "transA", 0):
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and (constant(bias) is None or constant(bias).ndim != 1):  # type: ignore[union-attr]
        return None
    if attribute(node, "transB", 0):
        weight = np.ascontiguousarray(weight.T)
    if bias is None:
        bias, result = _added(node.outputs[0])
    else:
        result = node.outputs[0]
    return Linear(node, weight, value, bias, result)


def _added(product: ir.Value) -> tuple[ir.Value | None, ir.Value]:
    """The constant vector that is added to `product`, and the sum; None and `product` where there is none."""
    uses = list(product.uses())
    if len(uses) == 1 and uses[0].node.op_type == "Add" and not product.is_graph_output():
        other = uses[0].node.inputs[1 - uses[0].idx]
        bias = constant(other)
        if bias is not None and bias.ndim == 1:
            return other, uses[0].node.outputs[0]
    return None, product


def _attention(node: ir.Node) -> FusedAttention | None:
    if node.op_type != "Attention" or node.domain != "com.microsoft" or node.inputs[0] is None:
        return None
    value = node.inputs[1]
    weight = constant(value)
    if value is None or weight is None:
        return None
    return FusedAttention(node, weight, value)


def _convolution(node: ir.Node) -> Convolution | None:
    if node.op_type != "Conv" or node.domain:
        return None
    value = node.inputs[1]
    weight = constant(value)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None or weight is None or (bias is not None and constant(bias) is None):
        return None
    return Convolution(node, weight, value, constant(bias))


def _table(node: ir.Node) -> Table | None:
    if node.op_type != "Gather" or attribute(node, "axis", 0) != 0:
        return None
    value = node.inputs[0]
    rows = constant(value)
    if value is None or rows is None or rows.ndim != 2 or rows.dtype != np.float32:
        return None
    return Table(node, rows, value) if rows.nbytes >= SMALLEST_TABLE_BYTES else None
