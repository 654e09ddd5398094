"""Fold scales between a layer's input and its weights; the product does not change.

Each channel of the input is divided by a factor, and the matching row of the weight is multiplied by it. The division
is free where the producer of the input can absorb it (a norm, a linear layer, the values of an attention); elsewhere it
costs one `Mul`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compress.lowering.graph import (
    add_initializer,
    attribute,
    constant,
    constant_shape,
    insert_before,
    producer_of_type,
)
from compress.passes.quantize.layers import (
    FusedAttention,
    Layer,
    Linear,
    MatMulLayer,
    group_by_source,
    weighted_layers,
)
from compress.passes.quantize.weights import has_single_use, set_weight

Floats = NDArray[np.float32]
Scale = Callable[[Floats], None]
"""Function that multiplies channels by factors (channels,)."""


@dataclass(frozen=True)
class SourceGroup:
    """The layers that multiply the same value (..., channels)."""

    source: ir.Value
    layers: tuple[MatMulLayer, ...]


def source_groups(candidates: Sequence[Layer]) -> list[SourceGroup]:
    """Group linear layers by their input; a group with a weight that is used elsewhere is left out."""
    return [
        SourceGroup(source, tuple(readers))
        for source, readers in group_by_source(candidates).items()
        if all(has_single_use(layer.weight_value) for layer in readers)
    ]


def scale_channels(graph: ir.Graph, group: SourceGroup, factors: Floats) -> bool:
    """Divide the input of a group by `factors` (channels,) and multiply its weights by them.

    Returns:
        True if the division was folded into the input's producer; False if a `Mul` was inserted.
    """
    ties = tied_channels(group)
    folds = ties is None or bool((factors == average_tied(factors, ties)).all())
    scale_source, divisors = foldable_scale(graph, group) if folds else None, np.reciprocal(factors)
    for layer in group.layers:
        set_weight(layer, layer.weight * factors[:, None])
    if scale_source is None:
        _insert_mul(graph, group, divisors)
    else:
        scale_source(divisors)
    return scale_source is not None


def tied_channels(group: SourceGroup) -> NDArray[np.int64] | None:
    """Return the factor index of each channel if some must share a factor to be folded; None if all are independent.

    Channels share a factor across the query heads that attend to the same key-value head (grouped-query attention).
    """
    node = producer_of_type(group.source, "GroupQueryAttention")
    if node is None:
        return None
    heads, values = attribute(node, "num_heads", 1), attribute(node, "kv_num_heads", 1)
    size = group.layers[0].shape[0] // heads
    by_head = np.arange(values * size).reshape(values, 1, size)
    return np.broadcast_to(by_head, (values, heads // values, size)).reshape(-1)


def average_tied(values: NDArray[Any], ties: NDArray[np.int64]) -> NDArray[Any]:
    """Replace the numbers of tied channels by their mean."""
    means = np.bincount(ties, values) / np.bincount(ties)
    return np.asarray(means[ties], values.dtype)


def foldable_scale(graph: ir.Graph, group: SourceGroup) -> Scale | None:
    """Return a function that scales the channels of a group's input without a further node; None if impossible."""
    nodes = {layer.node for layer in group.layers}
    if any(use.node not in nodes or use.idx != 0 for use in group.source.uses()):
        return None
    return _scale_of(graph, group.source)


_NORMS = {
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "SkipLayerNormalization": (2, 3),
    "SkipSimplifiedLayerNormalization": (2,),
}
"""Input indices of gain and shift (bias) of each norm."""


def _scale_of(graph: ir.Graph, value: ir.Value | None) -> Scale | None:
    """Return a function that scales the channels of a value for all of its readers; None if impossible."""
    node = None if value is None else value.producer()
    if value is None or node is None or value.is_graph_output():
        return None
    if node.op_type in _NORMS and value is node.outputs[0]:
        inputs = [node.inputs[place] for place in _NORMS[node.op_type] if place < len(node.inputs)]
        constants = [one for one in inputs if one is not None]
        return _scale_of_vectors(constants) if all(map(_is_private_vector, constants)) else None
    if node.op_type == "Relu":
        return _scale_of_single_reader(graph, node.inputs[0])
    if node.op_type == "Mul" and all(constant_shape(one) is None for one in node.inputs):
        return _scale_of_single_reader(graph, node.inputs[1]) or _scale_of_single_reader(
            graph, node.inputs[0]
        )
    if node.op_type == "Split" and attribute(node, "axis", 0) == -1:
        return _scale_of_part(graph, node, value)
    if node.op_type == "GroupQueryAttention" and value is node.outputs[0]:
        return _scale_of_attention(graph, node)
    for layer in weighted_layers(graph):
        if isinstance(layer, Linear) and layer.result is value and _has_private_constants(layer):
            return _scale_of_columns(layer, layer.shape[1])
        if isinstance(layer, FusedAttention) and layer.node is node and _has_private_constants(layer):
            widths = attribute(node, "qkv_hidden_sizes", None)
            # Attention averages values over tokens, so a per-channel factor passes through it.
            return _scale_of_columns(layer, widths[2] if widths else layer.shape[1] // 3)
    return None


def _scale_of_single_reader(graph: ir.Graph, value: ir.Value | None) -> Scale | None:
    return _scale_of(graph, value) if value is not None and has_single_use(value) else None


def _scale_of_part(graph: ir.Graph, split: ir.Node, part: ir.Value) -> Scale | None:
    """Scale one output of a `Split`; the other channels do not change."""
    sizes = constant(split.inputs[1]) if len(split.inputs) > 1 else None
    scale_all = _scale_of_single_reader(graph, split.inputs[0])
    if sizes is None or scale_all is None:
        return None
    place = next(index for index, output in enumerate(split.outputs) if output is part)
    before, after = (np.ones(int(some.sum()), np.float32) for some in (sizes[:place], sizes[place + 1 :]))
    return lambda factors: scale_all(np.concatenate([before, factors, after]))


def _scale_of_attention(graph: ir.Graph, attention: ir.Node) -> Scale | None:
    """Scale the output of grouped-query attention through its values; factors are tied as by `tied_channels`."""
    heads, groups = attribute(attention, "num_heads", 1), attribute(attention, "kv_num_heads", 1)
    packed = attention.inputs[2] is None
    scale_all = _scale_of_single_reader(graph, attention.inputs[0 if packed else 2])
    if scale_all is None:
        return None

    def scale(factors: Floats) -> None:
        size = len(factors) // heads
        value_factors = factors.reshape(groups, -1, size)[:, 0].reshape(-1)
        before = np.ones((heads + groups) * size if packed else 0, np.float32)
        scale_all(np.concatenate([before, value_factors]))

    return scale


def _is_private_vector(value: ir.Value) -> bool:
    found = constant(value)
    return found is not None and found.ndim == 1 and has_single_use(value)


def _has_private_constants(layer: MatMulLayer) -> bool:
    return has_single_use(layer.weight_value) and (layer.bias is None or _is_private_vector(layer.bias))


def _scale_of_vectors(values: Sequence[ir.Value]) -> Scale:
    def scale(factors: Floats) -> None:
        for value in values:
            value.const_value = ir.tensor(np.asarray(constant(value)) * factors, name=value.name)

    return scale


def _scale_of_columns(layer: MatMulLayer, count: int) -> Scale:
    """Return a function that scales the last `count` outputs of a layer."""

    def scale(factors: Floats) -> None:
        weight = layer.weight
        all_factors = np.ones(weight.shape[1], np.float32)
        all_factors[-count:] = factors
        set_weight(layer, weight * all_factors)
        if layer.bias is not None:
            _scale_of_vectors([layer.bias])(all_factors)

    return scale


def _insert_mul(graph: ir.Graph, group: SourceGroup, factors: Floats) -> None:
    """Insert a `Mul` between a value and the layers of the group."""
    name = group.layers[0].node.name
    vector = add_initializer(graph, f"{name}.divisors", factors)
    node = ir.node("Mul", [group.source, vector], name=f"{name}.divided")
    scaled = insert_before(graph, group.layers[0].node, node)
    for layer in group.layers:
        layer.node.replace_input_with(0, scaled)
