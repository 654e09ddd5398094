"""8-bit quantization arithmetic on plain arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

INT8_LIMIT = 127
REDUCED_LIMIT = 64
"""Two products of a uint8 and such a weight fit into 16 bits, in which processors without VNNI accumulate them."""
UINT8_LEVELS = 255
UINT8_ZERO = 128
MIN_SCALE = float(np.finfo(np.float32).tiny)
_MIN_KERNEL_SCALE = 1e-20
_MIN_RANGE = 1e-20
_BIAS_LIMIT = 2.0**30


def weight_limit(reduced: bool) -> int:
    """Return the largest integer of an 8-bit weight."""
    return REDUCED_LIMIT if reduced else INT8_LIMIT


@dataclass(frozen=True)
class QuantizedArray:
    """Quantized array: `(values - zero) * scales` approximates the original; the integer `zero_point` represents 0."""

    values: NDArray[Any]
    scales: Floats
    zero_point: int = 0


def quantize_columns(weight: Floats, per_channel: bool = True, limit: int = INT8_LIMIT) -> QuantizedArray:
    """Quantize a weight (inputs, outputs) symmetrically to int8, with one scale per column or a single scale.

    The integers range from -`limit` to `limit`, so that neither sign saturates.
    """
    largest = np.abs(weight).max(axis=0) if per_channel else np.abs(weight).max(keepdims=False)
    scales = np.maximum(largest / limit, MIN_SCALE).astype(np.float32)
    values = np.clip(np.rint(weight / scales), -limit, limit).astype(np.int8)
    return QuantizedArray(values, scales)


def quantize_kernel(
    kernel: Floats, per_channel: bool, bias: Floats | None, input_scale: float, limit: int = INT8_LIMIT
) -> QuantizedArray:
    """Quantize a convolution kernel (outputs, inputs, ...) symmetrically to int8, per output channel or with one scale.

    Scales are large enough for the bias to fit into 32 bits, see `scales_for_bias`.
    """
    rows = np.abs(kernel.reshape(len(kernel), -1))
    largest = rows.max(axis=1) if per_channel else rows.max()
    scales = np.maximum(largest / limit, _MIN_KERNEL_SCALE)
    if bias is not None:
        scales = np.maximum(scales, scales_for_bias(bias, input_scale, per_channel))
    scales = scales.astype(np.float32)
    across = scales.reshape(-1, *[1] * (kernel.ndim - 1)) if per_channel else scales
    values = np.clip(np.rint(kernel / across), -limit, limit).astype(np.int8)
    return QuantizedArray(values, scales)


def scales_for_bias(bias: Floats, input_scale: float, per_channel: bool) -> NDArray[np.float64]:
    """Return the smallest weight scales with which a bias fits into 32 bits: per output channel, or a single one.

    The bias is stored in units of input scale times weight scale; output channels with near-zero weights would overflow
    it otherwise.
    """
    needed = np.abs(bias.astype(np.float64)) / (input_scale * _BIAS_LIMIT)
    return needed if per_channel else np.asarray(needed.max())


def quantize_bias(bias: Floats, scales: Floats, input_scale: float) -> NDArray[np.int32]:
    """Quantize a bias (outputs,) to int32 in units of input scale times kernel scales."""
    return np.rint(bias.astype(np.float64) / (input_scale * scales.astype(np.float64))).astype(np.int32)


def quantize_table(table: Floats) -> QuantizedArray:
    """Quantize a table (rows, width) to uint8 with zero point 128 and a single scale."""
    scale = np.float32(max(float(np.abs(table).max()) / INT8_LIMIT, MIN_SCALE))
    values = np.clip(np.rint(table / scale) + UINT8_ZERO, 0, UINT8_LEVELS).astype(np.uint8)
    return QuantizedArray(values, np.asarray(scale), UINT8_ZERO)


def activation_scale(low: float, high: float) -> tuple[float, int]:
    """Return scale and zero point of uint8 activations that cover [low, high] and represent 0 exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    if high - low < _MIN_RANGE:
        return 1.0, 0  # only zeros were seen
    scale = (high - low) / UINT8_LEVELS
    return scale, int(np.clip(round(-low / scale), 0, UINT8_LEVELS))


def quantize_dequantize(values: NDArray[Any], scale: float, zero_point: int) -> NDArray[Any]:
    """Quantize to uint8 with a scale and zero point and dequantize; same shape and dtype as `values`."""
    return np.asarray((np.clip(np.rint(values / scale) + zero_point, 0, UINT8_LEVELS) - zero_point) * scale)
