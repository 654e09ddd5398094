"""Factors that move between a layer's input and its weights: the product stays the same number.

A channel of the input is divided by a factor, and the row of weights that it meets is multiplied by it. The division
costs nothing where what makes the input can take it (a norm, a linear layer, the values of an attention); elsewhere it
is one `Mul`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compress.lowering.graph import add_initializer, attribute, constant, insert_before, made_by
from compress.passes.quantize.layers import FusedAttention, Layer, Linear, layers
from compress.passes.quantize.weights import one_use, set_weight

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Group:
    """The layers that multiply one value (..., channels)."""

    source: ir.Value
    layers: tuple[Linear | FusedAttention, ...]


def groups(chosen: Sequence[Layer]) -> list[Group]:
    """Linear layers by what they multiply; those whose weights serve elsewhere too are left out with their group."""
    by_source: dict[ir.Value, list[Linear | FusedAttention]] = {}
    for layer in chosen:
        if isinstance(layer, Linear | FusedAttention):
            by_source.setdefault(layer.source, []).append(layer)
    return [
        Group(source, tuple(readers))
        for source, readers in by_source.items()
        if all(one_use(layer.weight_value) for layer in readers)
    ]


def scale_channels(graph: ir.Graph, group: Group, factors: Floats) -> bool:
    """Divide the input of a group by `factors` (channels,) and multiply its weights by them.

    Returns:
        Whether the division went into what makes the input; otherwise a multiplication was inserted.
    """
    place, divisors = divisible(graph, group), np.reciprocal(factors)
    for layer in group.layers:
        set_weight(layer, layer.weight * factors[:, None])
    if place is None:
        _multiply(graph, group, divisors)
    else:
        place(divisors)
    return place is not None


def divisible(graph: ir.Graph, group: Group) -> Callable[[Floats], None] | None:
    """What multiplies each channel of a group's input by a vector without a further node; None where nothing can."""
    source, nodes = group.source, {layer.node for layer in group.layers}
    if source.is_graph_output() or any(use.node not in nodes or use.idx != 0 for use in source.uses()):
        return None
    norm = made_by(source, "LayerNormalization")
    if norm is not None:
        constants = [value for value in norm.inputs[1:] if value is not None]
        return _scaling_vectors(constants) if all(map(_own_vector, constants)) else None
    relu = made_by(source, "Relu")
    made = source if relu is None else relu.inputs[0]
    if made is None or (relu is not None and len(made.uses()) != 1):
        return None
    for layer in layers(graph):
        if isinstance(layer, Linear) and layer.result is made and _own_parts(layer):
            return _scaling_columns(layer, layer.shape[1])
        if isinstance(layer, FusedAttention) and layer.node.outputs[0] is made and relu is None:
            widths = attribute(layer.node, "qkv_hidden_sizes", None)
            values = widths[2] if widths else layer.shape[1] // 3
            # Attention averages values over tokens, so that a factor of a channel passes through it.
            return _scaling_columns(layer, values) if _own_parts(layer) else None
    return None


def _own_vector(value: ir.Value) -> bool:
    found = constant(value)
    return found is not None and found.ndim == 1 and one_use(value)


def _own_parts(layer: Linear | FusedAttention) -> bool:
    return one_use(layer.weight_value) and (layer.bias is None or _own_vector(layer.bias))


def _scaling_vectors(values: Sequence[ir.Value]) -> Callable[[Floats], None]:
    def scale(factors: Floats) -> None:
        for value in values:
            value.const_value = ir.tensor(np.asarray(constant(value)) * factors, name=value.name)

    return scale


def _scaling_columns(layer: Linear | FusedAttention, count: int) -> Callable[[Floats], None]:
    """Scale the last `count` outputs of a layer."""

    def scale(factors: Floats) -> None:
        weight = layer.weight
        all_factors = np.ones(weight.shape[1], np.float32)
        all_factors[-count:] = factors
        set_weight(layer, weight * all_factors)
        if layer.bias is not None:
            _scaling_vectors([layer.bias])(all_factors)

    return scale


def _multiply(graph: ir.Graph, group: Group, factors: Floats) -> None:
    """A `Mul` between a value and the group's layers."""
    name = group.layers[0].node.name
    vector = add_initializer(graph, f"{name}.divisors", factors)
    node = ir.node("Mul", [group.source, vector], name=f"{name}.divided")
    scaled = insert_before(graph, group.layers[0].node, node)
    for layer in group.layers:
        layer.node.replace_input_with(0, scaled)
