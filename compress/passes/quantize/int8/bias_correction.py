"""Bias correction: rounding shifts the mean output of a layer, and its bias compensates for the shift.

The mean input of each layer over the calibration examples is measured, in float and after quantization; the weight is
known in both forms. The difference of the two expected outputs is added to the bias in the float graph before
quantization. After Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019),
section 4.2, but with measured means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compress.encoding.inputs import Batch
from compress.lowering.graph import add_initializer, attribute, constant, inputs_of, replace_uses
from compress.passes.quantize.calibration.activation_capture import capture_activations
from compress.passes.quantize.calibration.observers import ChannelMean
from compress.passes.quantize.calibration.ranges import Range
from compress.passes.quantize.int8.affine import (
    INT8_LIMIT,
    activation_scale,
    quantize_columns,
    quantize_dequantize,
    quantize_kernel,
)
from compress.passes.quantize.layers import Convolution, Layer, Linear, MatMulLayer

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
WeightedLayer = MatMulLayer | Convolution


def correct_biases(
    model: ir.Model,
    layers: Sequence[Layer],
    ranges: Mapping[str, Range],
    path: Path,
    batches: Callable[[], Iterator[Batch]],
    work: Path,
    *,
    per_channel: bool,
    limit: int = INT8_LIMIT,
) -> int:
    """Correct layer biases so that quantization preserves the expected outputs; return the number of layers.

    Args:
        model: the float graph, changed in place before it is quantized.
        layers: its layers that will be quantized.
        ranges: calibrated ranges of their inputs by name; an input without one is quantized with a range found at run
            time, which causes no shift on average.
        path: the same graph as a file, run on the calibration examples.
        limit: the largest integer of the weights.
    """
    weighted = [layer for layer in layers if isinstance(layer, WeightedLayer)]
    means = _input_means(weighted, ranges, path, batches, work)
    for layer in weighted:
        name = _input_value(layer).name or ""
        float_means, quantized_means = means[name]
        low_high = ranges.get(name)
        scale = 1.0 if low_high is None else activation_scale(*low_high)[0]
        weight, dequantized = layer.weight, _fake_quantized_weight(layer, scale, per_channel, limit)
        groups = attribute(layer.node, "group", 1) if isinstance(layer, Convolution) else 1
        shift = expected_shift(
            _matrix(layer, weight), _matrix(layer, dequantized), float_means, quantized_means, groups
        )
        _add_to_bias(model.graph, layer, shift)
    return len(weighted)


def expected_shift(
    weight: Floats, dequantized: Floats, float_means: Doubles, quantized_means: Doubles, groups: int = 1
) -> Doubles:
    """Return the shift of each mean output caused by rounding, float64 (outputs,): to be added to the bias.

    Args:
        weight: (inputs / groups, outputs); for a convolution, summed over its window.
        dequantized: the same, quantized and dequantized.
        float_means: mean of each input (inputs,).
        quantized_means: the same, quantized and dequantized.
        groups: of a convolution.
    """
    per_group = weight.shape[1] // groups
    shifts = []
    for group in range(groups):
        columns = slice(group * per_group, (group + 1) * per_group)
        rows = slice(group * len(weight), (group + 1) * len(weight))
        shifts.append(
            float_means[rows] @ weight[:, columns] - quantized_means[rows] @ dequantized[:, columns]
        )
    return np.concatenate(shifts)


def _input_means(
    layers: Sequence[WeightedLayer],
    ranges: Mapping[str, Range],
    path: Path,
    batches: Callable[[], Iterator[Batch]],
    work: Path,
) -> dict[str, tuple[Doubles, Doubles]]:
    """Return the channel means of each layer's input: in float, and quantized and dequantized."""
    axes = {_input_value(layer).name or "": 1 if isinstance(layer, Convolution) else -1 for layer in layers}
    means = {name: (ChannelMean(axis), ChannelMean(axis)) for name, axis in axes.items()}
    for values in capture_activations(path, list(axes), batches(), work):
        for name, one in values.items():
            means[name][0].add(one)
            if name in ranges:
                means[name][1].add(quantize_dequantize(one, *activation_scale(*ranges[name])))
    return {
        name: (floats.mean, integers.mean if name in ranges else floats.mean)
        for name, (floats, integers) in means.items()
    }


def _input_value(layer: WeightedLayer) -> ir.Value:
    return inputs_of(layer.node, 0)[0]


def _fake_quantized_weight(layer: WeightedLayer, input_scale: float, per_channel: bool, limit: int) -> Floats:
    """Return the weight, quantized and dequantized."""
    weight = layer.weight
    if not isinstance(layer, Convolution):
        columns = quantize_columns(weight, per_channel, limit)
        return columns.values * columns.scales
    kernel = quantize_kernel(weight, per_channel, layer.bias, input_scale, limit)
    scales: NDArray[Any] = kernel.scales
    across = scales.reshape(-1, *[1] * (weight.ndim - 1)) if per_channel else scales
    return np.asarray(kernel.values * across, np.float32)


def _matrix(layer: WeightedLayer, weight: Floats) -> Floats:
    """Return a weight as (inputs / groups, outputs); a kernel is summed over its window, assuming equal means."""
    if not isinstance(layer, Convolution):
        return weight
    return np.asarray(weight.reshape(*weight.shape[:2], -1).sum(axis=2).T)


def _add_to_bias(graph: ir.Graph, layer: WeightedLayer, shift: Doubles) -> None:
    node, result = layer.node, layer.result if isinstance(layer, Linear) else layer.node.outputs[0]
    bias_value = layer.bias if isinstance(layer, Linear) else next(iter(node.inputs[2:3]), None)
    bias = np.zeros_like(shift) if bias_value is None else np.asarray(constant(bias_value), np.float64)
    name = f"{node.name}.bias" if bias_value is None else bias_value.name
    corrected = add_initializer(graph, f"{name}.corrected", (bias + shift).astype(np.float32))
    if bias_value is not None:
        use = next(use for use in bias_value.uses() if use.node is node or use.node.outputs[0] is result)
        use.node.replace_input_with(use.idx, corrected)
    elif node.op_type == "MatMul":
        add = ir.node("Add", [result, corrected], name=f"{node.name}.bias")
        add.outputs[0].name = f"{result.name}.biased"
        graph.insert_after(node, add)
        replace_uses(result, add.outputs[0])
        add.replace_input_with(0, result)
    else:
        node.resize_inputs(3)
        node.replace_input_with(2, corrected)
