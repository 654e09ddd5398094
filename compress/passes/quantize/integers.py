"""Numbers as integers: the arithmetic of 8-bit quantization, on plain arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

INT8_LIMIT = 127
UINT8_LEVELS = 255
UINT8_ZERO = 128
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Quantized:
    """`values` times `scales` is close to what was quantized; `zero` is the integer that stands for 0."""

    values: NDArray[Any]
    scales: Floats
    zero: int = 0


def quantize_columns(weight: Floats, per_channel: bool = True) -> Quantized:
    """A weight (inputs, outputs) as int8 around zero, one scale a column (or one in all).

    The lowest integer is -127: the range is symmetric, so that no value saturates on one side.
    """
    largest = np.abs(weight).max(axis=0) if per_channel else np.abs(weight).max(keepdims=False)
    scales = np.maximum(largest / INT8_LIMIT, _SMALLEST_SCALE).astype(np.float32)
    values = np.clip(np.rint(weight / scales), -INT8_LIMIT, INT8_LIMIT).astype(np.int8)
    return Quantized(values, scales)


def quantize_table(table: Floats) -> Quantized:
    """A table (rows, width) as uint8 around 128 with one scale in all."""
    scale = np.float32(max(float(np.abs(table).max()) / INT8_LIMIT, _SMALLEST_SCALE))
    values = np.clip(np.rint(table / scale) + UINT8_ZERO, 0, UINT8_LEVELS).astype(np.uint8)
    return Quantized(values, np.asarray(scale), UINT8_ZERO)


def activation_scale(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of uint8 activations that cover [low, high] and represent 0 exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / UINT8_LEVELS, _SMALLEST_SCALE)
    return scale, int(np.clip(round(-low / scale), 0, UINT8_LEVELS))
