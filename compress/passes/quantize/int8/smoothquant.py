"""SmoothQuant: migrate the quantization difficulty from activations into the weights that multiply them.

Dividing an outlier channel by a factor keeps it from determining the range of all channels. After Xiao et al.,
"SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models" (2022).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compress.encoding.inputs import Batch
from compress.passes.quantize.calibration.activation_capture import capture_activations
from compress.passes.quantize.calibration.observers import ChannelSample
from compress.passes.quantize.int8.affine import (
    INT8_LIMIT,
    activation_scale,
    quantize_columns,
    quantize_dequantize,
)
from compress.passes.quantize.layers import Layer
from compress.passes.quantize.scale_folding import foldable_scale, scale_channels, source_groups

Floats = NDArray[np.float32]

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Migration strengths to try: 0 leaves the difficulty in the activations, 1 moves all of it into the weights."""
ROWS = 256
"""Number of input rows on which a layer's output error is measured."""
MAX_ERROR_SHARE_OF_MUL = 0.8
"""If the division needs a node of its own, the error must fall below this share of the error without smoothing."""
_MAX_FACTOR = 1024.0


def smooth(
    model: ir.Model,
    layers: Sequence[Layer],
    path: Path,
    batches: Callable[[], Iterator[Batch]],
    work: Path,
    *,
    alpha: float | None,
    per_channel: bool,
    limit: int = INT8_LIMIT,
) -> dict[str, float]:
    """Smooth the inputs of linear layers; the outputs of the float model do not change.

    Args:
        model: the graph, changed in place.
        layers: its layers that will be quantized.
        path: the same graph as a file, run on the calibration examples.
        alpha: the migration strength of all layers; None: for each group the one with the smallest output error.
        limit: the largest integer of the weights.

    Returns:
        alpha by the name of the first layer of each smoothed group.
    """
    layer_groups = source_groups(layers)
    samples = {group.source.name or "": ChannelSample(ROWS) for group in layer_groups}
    for values in capture_activations(path, list(samples), batches(), work):
        for name, one in values.items():
            samples[name].add(one)
    alphas = {}
    for group in layer_groups:
        sample = samples[group.source.name or ""]
        weights = [layer.weight for layer in group.layers]
        share = 1.0 if foldable_scale(model.graph, group) is not None else MAX_ERROR_SHARE_OF_MUL
        group_alpha = alpha if alpha is not None else best_alpha(sample, weights, per_channel, share, limit)
        if group_alpha is None:
            continue
        factors = factors_of(sample, weights, group_alpha)
        scale_channels(model.graph, group, factors)
        alphas[group.layers[0].node.name or ""] = group_alpha
    return alphas


def smoothing_factors(activations: Floats, weights: Floats, alpha: float) -> Floats:
    """Return activations^alpha / weights^(1 - alpha) of the largest absolute values of each channel (channels,).

    1 where a channel or its weights are zero; equation 4 of the paper.
    """
    used = (activations > 0) & (weights > 0)
    ratio = np.where(used, activations, 1.0) ** alpha / np.where(used, weights, 1.0) ** (1 - alpha)
    return np.clip(ratio, 1 / _MAX_FACTOR, _MAX_FACTOR).astype(np.float32)


def factors_of(sample: ChannelSample, weights: Sequence[Floats], alpha: float) -> Floats:
    """Return the factors of a group, shared by all layers that read the same value."""
    largest = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    return smoothing_factors(np.maximum(np.abs(sample.low), np.abs(sample.high)), largest, alpha)


def output_error(
    sample: ChannelSample,
    weights: Sequence[Floats],
    factors: Floats,
    per_channel: bool = True,
    limit: int = INT8_LIMIT,
) -> float:
    """Return the relative squared error of INT8 layer outputs on the sampled rows, summed over the layers.

    Activations use one range over all observed values; weights (channels, outputs) are rounded as they will be.
    """
    low, high = float((sample.low / factors).min()), float((sample.high / factors).max())
    rows = quantize_dequantize(sample.rows / factors, *activation_scale(low, high)).astype(np.float32)
    total = 0.0
    for weight in weights:
        expected = sample.rows @ weight
        rounded = quantize_columns(weight * factors[:, None], per_channel, limit)
        off = rows @ (rounded.values * rounded.scales) - expected
        total += float(np.square(off).sum() / max(np.square(expected).sum(), 1e-30))
    return total


def best_alpha(
    sample: ChannelSample,
    weights: Sequence[Floats],
    per_channel: bool = True,
    max_error_share: float = 1.0,
    limit: int = INT8_LIMIT,
) -> float | None:
    """Return the alpha with the smallest error; None if none brings it below `max_error_share` of the error without
    smoothing."""
    one = np.ones(sample.rows.shape[1], np.float32)
    max_error = max_error_share * output_error(sample, weights, one, per_channel, limit)
    errors = {
        alpha: output_error(sample, weights, factors_of(sample, weights, alpha), per_channel, limit)
        for alpha in ALPHAS
    }
    best = min(errors, key=lambda alpha: errors[alpha])
    return best if errors[best] < max_error else None
