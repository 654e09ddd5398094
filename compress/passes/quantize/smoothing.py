"""SmoothQuant: what is hard to quantize moves from activations into the weights that multiply them.

A channel of a layer's input is divided by a factor, and the row of weights that it meets is multiplied by it: the
product is the same number, but a channel of outliers no longer rules the range of all. The division costs nothing where
what makes the input can take it (a norm, a linear layer, the values of an attention); elsewhere it is one `Mul`. After
Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models" (2022).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compress.lowering.graph import add_initializer, attribute, constant, insert_before, made_by
from compress.passes.quantize.integers import activation_scale, quantize_columns, rounded_activations
from compress.passes.quantize.layers import FusedAttention, Layer, Linear, layers
from compress.passes.quantize.observation import observe
from compress.passes.quantize.statistics import ChannelSample
from compress.passes.quantize.weights import one_use, set_weight, weight_now
from compress.tasks.base import Batch

Floats = NDArray[np.float32]

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the difficulty that are tried: 0 leaves it in the activations, 1 moves all of it."""
ROWS = 256
"""Rows of a layer's input on which the error of its output is measured."""
WORTH_A_MULTIPLICATION = 0.8
"""Where the division is a node of its own, the error must fall below this share of what it was."""
_LARGEST_FACTOR = 1024.0


@dataclass(frozen=True)
class Group:
    """The layers that multiply one value (..., channels)."""

    source: ir.Value
    layers: tuple[Linear | FusedAttention, ...]


def smooth(
    model: ir.Model,
    chosen: Sequence[Layer],
    path: Path,
    batches: Callable[[], Iterator[Batch]],
    work: Path,
    *,
    alpha: float | None,
    per_channel: bool,
) -> dict[str, float]:
    """Smooth the inputs of linear layers; the outputs of the float model stay what they are.

    Args:
        model: the graph that is changed.
        chosen: its layers that will be quantized.
        path: the same graph as a file, which calibration examples are run on.
        alpha: the same for every layer; None: for each the one with the least error of its output.

    Returns:
        alpha by the name of the first layer of each group that was smoothed.
    """
    found = groups(chosen)
    samples = {group.source.name or "": ChannelSample(ROWS) for group in found}
    for values in observe(path, list(samples), batches(), work):
        for name, one in values.items():
            samples[name].add(one)
    used = {}
    for group in found:
        sample = samples[group.source.name or ""]
        weights = [weight_now(layer) for layer in group.layers]
        place = divisible(model.graph, group)
        share = 1.0 if place is not None else WORTH_A_MULTIPLICATION
        picked = alpha if alpha is not None else best_alpha(sample, weights, per_channel, share)
        if picked is None:
            continue
        factors = factors_of(sample, weights, picked)
        divisors = np.reciprocal(factors)
        if place is None:
            _multiply(model.graph, group, divisors)
        else:
            place(divisors)
        for layer, weight in zip(group.layers, weights, strict=True):
            set_weight(layer, weight * factors[:, None])
        used[group.layers[0].node.name or ""] = picked
    return used


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


def smoothing_factors(activations: Floats, weights: Floats, alpha: float) -> Floats:
    """activations^alpha / weights^(1 - alpha), of the largest absolute values of each channel (channels,).

    1 where a channel or its weights are zero; equation 4 of the paper.
    """
    used = (activations > 0) & (weights > 0)
    ratio = np.where(used, activations, 1.0) ** alpha / np.where(used, weights, 1.0) ** (1 - alpha)
    return np.clip(ratio, 1 / _LARGEST_FACTOR, _LARGEST_FACTOR).astype(np.float32)


def factors_of(sample: ChannelSample, weights: Sequence[Floats], alpha: float) -> Floats:
    """The factors of a group: all layers that read a value share them."""
    largest = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    return smoothing_factors(np.maximum(np.abs(sample.low), np.abs(sample.high)), largest, alpha)


def output_error(
    sample: ChannelSample, weights: Sequence[Floats], factors: Floats, per_channel: bool = True
) -> float:
    """Squares of what 8 bits change in the layers' outputs on the sampled rows, over the squares of the outputs.

    Activations have one range, that of all that was seen; weights (channels, outputs) are rounded as they will be.
    """
    low, high = float((sample.low / factors).min()), float((sample.high / factors).max())
    rows = rounded_activations(sample.rows / factors, *activation_scale(low, high)).astype(np.float32)
    total = 0.0
    for weight in weights:
        wanted = sample.rows @ weight
        rounded = quantize_columns(weight * factors[:, None], per_channel)
        off = rows @ (rounded.values * rounded.scales) - wanted
        total += float(np.square(off).sum() / max(np.square(wanted).sum(), 1e-30))
    return total


def best_alpha(
    sample: ChannelSample, weights: Sequence[Floats], per_channel: bool = True, share: float = 1.0
) -> float | None:
    """The alpha with the least error; None where none brings it below `share` of the error without smoothing."""
    one = np.ones(sample.rows.shape[1], np.float32)
    limit = share * output_error(sample, weights, one, per_channel)
    errors = {
        alpha: output_error(sample, weights, factors_of(sample, weights, alpha), per_channel)
        for alpha in ALPHAS
    }
    best = min(errors, key=lambda alpha: errors[alpha])
    return best if errors[best] < limit else None


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
            return _scaling_columns(layer, layer.weight.shape[1])
        if isinstance(layer, FusedAttention) and layer.node.outputs[0] is made and relu is None:
            widths = attribute(layer.node, "qkv_hidden_sizes", None)
            values = widths[2] if widths else layer.weight.shape[1] // 3
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
        weight = weight_now(layer)
        all_factors = np.ones(weight.shape[1], np.float32)
        all_factors[-count:] = factors
        set_weight(layer, weight * all_factors)
        if layer.bias is not None:
            _scaling_vectors([layer.bias])(all_factors)

    return scale


def _multiply(graph: ir.Graph, group: Group, factors: Floats) -> None:
    """A `Mul` between a value and the group's layers."""
    name = group.layers[0].node.name
    vector = add_initializer(graph, f"{name}.smoothing", factors)
    node = ir.node("Mul", [group.source, vector], name=f"{name}.smoothed")
    scaled = insert_before(graph, group.layers[0].node, node)
    for layer in group.layers:
        layer.node.replace_input_with(0, scaled)
