"""Fake quantization to 8-bit integers with straight-through gradients: pure functions of tensors.

The forward value is exactly what a quantized file will multiply; the gradient is that of the identity, the
straight-through estimator (Bengio, Leonard and Courville 2013, arXiv:1308.3432; Jacob et al. 2018,
arXiv:1712.05877).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LEVELS = 255
_OFFSET = 128
_SMALLEST_SCALE = float(torch.finfo(torch.float32).tiny)
_SMALLEST_RANGE = 1e-20


def straight_through(values: Tensor, rounded: Tensor) -> Tensor:
    """Straight-through estimator: return exactly `rounded`, with the gradient of `values`."""
    # The added difference is exactly 0; `values + (rounded - values)` would have a rounding error.
    return rounded.detach() + (values - values.detach())


@torch.no_grad()
def fake_quantize_weights(weights: Sequence[Tensor], *, per_channel: bool, limit: int) -> list[Tensor]:
    """Quantize and dequantize weights (outputs, ...) to integers in -`limit`..`limit`, one scale per output.

    Args:
        weights: those that form one weight in the file: without `per_channel` they all share one scale.
    """
    magnitudes = [weight.flatten(1).abs().amax(dim=1) for weight in weights]
    if not per_channel:
        overall = torch.cat(magnitudes).amax()
        magnitudes = [torch.full_like(magnitude, float(overall)) for magnitude in magnitudes]
    rounded = []
    for weight, magnitude in zip(weights, magnitudes, strict=True):
        scales = (magnitude / limit).clamp_min(_SMALLEST_SCALE).view(-1, *[1] * (weight.ndim - 1))
        rounded.append((weight / scales).round().clamp(-limit, limit) * scales)
    return rounded


@torch.no_grad()
def fake_quantize_blocks(rows: Tensor, *, bits: int, block: int) -> Tensor:
    """Quantize and dequantize rows (rows, width) blockwise; a block's largest magnitude gets the lowest integer."""
    offset = 2 ** (bits - 1)
    count = -(-rows.shape[1] // block)
    blocks = torch.nn.functional.pad(rows, (0, count * block - rows.shape[1])).view(len(rows), count, block)
    magnitudes = blocks.abs()
    # The first of equal magnitudes: its sign decides on which side the extra integer is.
    indices = torch.arange(block, device=rows.device).where(
        magnitudes == magnitudes.amax(dim=2, keepdim=True), block
    )
    extremes = blocks.gather(2, indices.amin(dim=2, keepdim=True))
    scales = torch.where(extremes.abs() < _SMALLEST_SCALE * offset, 1.0, extremes / -offset)
    integers: Tensor = ((blocks / scales).round() + offset).clamp(0, 2 * offset - 1)
    restored: Tensor = (integers - offset) * scales
    return restored.flatten(1)[:, : rows.shape[1]]


@torch.no_grad()
def fake_quantize_table(rows: Tensor) -> Tensor:
    """Quantize and dequantize rows (rows, width) to 8-bit integers with a single scale."""
    scale = (rows.abs().amax().double() / (_OFFSET - 1)).clamp_min(_SMALLEST_SCALE).float()
    integers = ((rows / scale).round() + _OFFSET).clamp(0, LEVELS)
    return (integers - _OFFSET) * scale


@torch.no_grad()
def scale_and_zero_point(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale and zero point, scalars, of 256 integers that cover [low, high] and represent 0 exactly."""
    low, high = low.double().clamp_max(0), high.double().clamp_min(0)
    span = high - low
    empty = span < _SMALLEST_RANGE  # all values are zero
    scale = torch.where(empty, 1.0, span / LEVELS)
    zero_point = (-low / scale).round().clamp(0, LEVELS).where(~empty, 0.0)
    return scale.float(), zero_point.float()


def fake_quantize_activations(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Quantize and dequantize values to 256 integers over [low, high]; clipped values get no gradient."""
    scale, zero_point = scale_and_zero_point(low, high)
    integers = (values.detach() / scale).round() + zero_point
    clipped = integers.clamp(0, LEVELS)
    return straight_through(
        torch.where(integers == clipped, values, values.detach()), (clipped - zero_point) * scale
    )
