"""HQQ: half-quadratic quantization, which fits the grid of a block to all of its weights instead of just the extremes.

Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models", 2023. Uses the weights alone and
minimizes an lp norm (p < 1) of the errors, to which a few large errors contribute little.

The paper optimizes a floating-point zero point with a fixed scale. onnxruntime is fast only with integer zero points,
so here the zero point stays an integer and the scale is optimized too, by the same half-quadratic steps. Each block
keeps the grid with the smallest squared error met during the iterations: selected by the norm itself, weights without
outliers (as after `rotate`) would become worse than rounded to nearest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compress.passes.quantize.weight_only.blocks import (
    Blocks,
    Bytes,
    Floats,
    fit_grid,
    map_row_chunks,
    round_to,
    split_into_blocks,
)

NORM = 0.7
STIFFNESS = 10.0
STIFFNESS_GROWTH = 1.01
ITERATIONS = 20


def fit_blocks(rows: Floats, block_size: int, bits: int, symmetric: bool) -> Blocks:
    """Return the best blocks over all iterations, none worse than rounding to nearest; rows (rows, width).

    Symmetric blocks keep their zero point in the middle; only their scales are optimized.
    """
    return map_row_chunks(rows, lambda part: _fit(part, block_size, bits, symmetric))


def _fit(rows: Floats, block_size: int, bits: int, symmetric: bool) -> Blocks:
    blocks = split_into_blocks(rows, block_size)
    is_value = split_into_blocks(np.ones_like(rows[:1]), block_size).astype(bool)
    scales, zero_points = fit_grid(blocks, bits, symmetric)
    best_scales, best_zero_points = scales, zero_points
    best_values = round_to(blocks, scales, zero_points, bits)
    best_error = block_errors(blocks, best_values, scales, zero_points, bits)
    values, stiffness = best_values, STIFFNESS
    for _ in range(ITERATIONS):
        scales, zero_points = _step(blocks, values, scales, zero_points, bits, stiffness, is_value)
        values = round_to(blocks, scales, zero_points, bits)
        error = block_errors(blocks, values, scales, zero_points, bits)
        better = error < best_error
        if not better.any():
            break
        best_error = np.where(better, error, best_error)
        best_scales = np.where(better, scales, best_scales)
        best_values = np.where(better[..., None], values, best_values)
        if zero_points is not None and best_zero_points is not None:
            best_zero_points = np.where(better, zero_points, best_zero_points)
        stiffness *= STIFFNESS_GROWTH
    return Blocks(best_values, best_scales, best_zero_points, bits, rows.shape[1])


def block_errors(
    blocks: Floats, values: Bytes, scales: Floats, zero_points: Bytes | None, bits: int
) -> NDArray[np.float64]:
    """Return the squared error of each block: float64 (rows, blocks)."""
    restored = scales[..., None] * _centered_integers(values, zero_points, bits)
    return np.asarray(((blocks - restored) ** 2).sum(axis=2, dtype=np.float64))


def _step(
    blocks: Floats,
    values: Bytes,
    scales: Floats,
    zero_points: Bytes | None,
    bits: int,
    stiffness: float,
    is_value: NDArray[np.bool_],
) -> tuple[Floats, Bytes | None]:
    """Run one half-quadratic step: separate the large errors, then fit zero point and scale to the rest."""
    steps = _centered_integers(values, zero_points, bits)
    # In units of grid steps, so that the stiffness is independent of the magnitude of the weights.
    in_steps = blocks / scales[..., None]
    target = in_steps - _shrink(in_steps - steps, stiffness)
    if zero_points is not None:
        moved = ((values - target) * is_value).sum(axis=2) / is_value.sum(axis=2)
        zero_points = np.clip(np.rint(moved), 0, 2**bits - 1).astype(np.uint8)
        steps = _centered_integers(values, zero_points, bits) * is_value
    squares = (steps**2).sum(axis=2)
    factor = np.where(squares > 0, (target * steps).sum(axis=2) / np.maximum(squares, 1), 1.0)
    new_scales = np.asarray(scales * factor, np.float32)
    usable = np.isfinite(new_scales) & (np.abs(new_scales) >= np.finfo(np.float32).tiny)
    return np.where(usable, new_scales, scales), zero_points


def _shrink(error: Floats, stiffness: float) -> Floats:
    """Return the part of each error that the norm accepts as an outlier (generalized soft thresholding)."""
    size = np.abs(error)
    left = size - (size + 1e-8) ** (NORM - 1) / stiffness
    return np.asarray(np.sign(error) * np.maximum(left, 0), np.float32)


def _centered_integers(values: Bytes, zero_points: Bytes | None, bits: int) -> Floats:
    middle = np.float32(2 ** (bits - 1)) if zero_points is None else zero_points[..., None].astype(np.float32)
    return np.asarray(values.astype(np.float32) - middle, np.float32)
