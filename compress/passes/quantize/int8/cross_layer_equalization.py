"""Cross-layer equalization: adjacent convolutions balance the ranges of their shared channels.

Relu(s x) = s Relu(x) for s > 0, so a channel between two convolutions may be divided by any factor that the next one
multiplies by. Factors that equalize the largest weights on both sides leave no channel whose weights all round to zero.
After Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019), section 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compress.lowering.graph import attribute, constant
from compress.passes.quantize.layers import Convolution, Layer
from compress.passes.quantize.weights import has_single_use, set_constant, set_weight

Floats = NDArray[np.float32]

_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity"})
"""Operators with f(s x) = s f(x), channel by channel. Relu6 is not one of them."""
_MAX_ROUNDS = 40
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class ConvolutionPair:
    """Two convolutions, where the second is the only reader of the first, through homogeneous operators."""

    first: Convolution
    second: Convolution


def equalize(layers: Sequence[Layer]) -> int:
    """Equalize the convolutions of a graph in place, repeatedly until the factors converge; return the number of pairs.

    The outputs of the float model do not change.
    """
    adjacent = equalizable_pairs(layers)
    for _ in range(_MAX_ROUNDS):
        if not adjacent or max(_equalize_pair(pair) for pair in adjacent) < _TOLERANCE:
            break
    return len(adjacent)


def equalizable_pairs(layers: Sequence[Layer]) -> list[ConvolutionPair]:
    """Return the pairs among these layers, in graph order."""
    by_node = {layer.node: layer for layer in layers if isinstance(layer, Convolution)}
    adjacent = []
    for layer in by_node.values():
        reader = _only_reader(layer.node.outputs[0])
        while reader is not None and reader.op_type in _HOMOGENEOUS and not reader.domain:
            reader = _only_reader(reader.outputs[0])
        second = None if reader is None else by_node.get(reader)
        if second is not None and _owns_constants(layer) and _owns_constants(second):
            adjacent.append(ConvolutionPair(layer, second))
    return adjacent


def equalizing_factors(first: Floats, second: Floats) -> Floats:
    """Return sqrt(first / second) of the largest absolute weight of each channel (channels,); 1 where either is 0.

    The outputs of the first convolution are divided by these factors (equation 11 of the paper).
    """
    used = (first > 0) & (second > 0)
    ratio = np.where(used, first, 1.0) / np.where(used, second, 1.0)
    return np.sqrt(ratio).astype(np.float32)


def input_ranges(kernel: Floats, groups: int) -> Floats:
    """Return the largest absolute weight (inputs,) by input channel of a kernel (outputs, inputs / groups, ...)."""
    rows = np.abs(kernel.reshape(groups, kernel.shape[0] // groups, kernel.shape[1], -1))
    return np.asarray(rows.max(axis=(1, 3)).reshape(-1))


def scale_inputs(kernel: Floats, groups: int, factors: Floats) -> Floats:
    """Return the kernel with each input channel multiplied by its factor (inputs,)."""
    rows = kernel.reshape(groups, kernel.shape[0] // groups, kernel.shape[1], -1)
    return (rows * factors.reshape(groups, 1, kernel.shape[1], 1)).reshape(kernel.shape)


def _equalize_pair(pair: ConvolutionPair) -> float:
    """Equalize a pair once; return the largest absolute log factor."""
    first, second = pair.first.weight, pair.second.weight
    groups = attribute(pair.second.node, "group", 1)
    outputs = np.abs(first.reshape(len(first), -1)).max(axis=1)
    factors = equalizing_factors(outputs, input_ranges(second, groups))
    set_weight(pair.first, first / factors.reshape(-1, *[1] * (first.ndim - 1)))
    bias = pair.first.node.inputs[2] if len(pair.first.node.inputs) > 2 else None
    if bias is not None:
        set_constant(bias, np.asarray(constant(bias), np.float32) / factors)
    set_weight(pair.second, scale_inputs(second, groups, factors))
    return float(np.abs(np.log(factors)).max())


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and uses[0].idx == 0 and not value.is_graph_output() else None


def _owns_constants(layer: Convolution) -> bool:
    """Whether no other node uses the constants of a convolution."""
    return all(has_single_use(value) for value in layer.node.inputs[1:] if value is not None)
