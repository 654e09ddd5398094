"""GPTQ: round the weights of one input after another and compensate each error with the inputs still to be rounded.

Frantar, Ashkboos, Hoefler and Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", 2022. Minimizes the error of the layer's outputs on calibration inputs X, for which the second moments
X^T X are sufficient.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from compress.passes.quantize.weight_only.blocks import Blocks, Floats, map_row_chunks
from compress.passes.quantize.weight_only.clip import clipped_blocks

DAMPING = 0.01
"""Added to the diagonal of the second moments, as a fraction of its mean, for numerical stability."""
LAZY_BATCH_SIZE = 32
"""Number of inputs whose error feedback is accumulated before it is applied to the rest."""


def gptq_blocks(
    rows: Floats,
    moments: NDArray[np.float64],
    block_size: int,
    bits: int,
    symmetric: bool,
    *,
    activation_order: bool = True,
) -> Blocks:
    """Quantize rows (rows, width) such that their products with the calibration inputs stay close to the original ones.

    Args:
        rows: a weight, one row per output.
        moments: X^T X of the inputs (width, width), up to a factor.
        activation_order: process inputs in decreasing order of their second moment, while most others can still
            compensate. The grid of a block is fitted to the float weights beforehand.
    """
    order = np.argsort(-np.diag(moments), kind="stable") if activation_order else np.arange(rows.shape[1])
    factor = _inverse_factor(moments[np.ix_(order, order)])

    def fed_back(chunk: Floats) -> Blocks:
        grid = clipped_blocks(chunk, np.diag(moments), block_size, bits, symmetric)
        return _round_with_feedback(chunk, grid, order, factor)

    # Rows are independent, and a chunk of them stays in the processor's cache.
    return map_row_chunks(rows, fed_back)


def _round_with_feedback(
    rows: Floats, grid: Blocks, order: NDArray[np.intp], factor: NDArray[np.float64]
) -> Blocks:
    """Round rows on a grid column by column in `order`; `factor` belongs to the moments in the same order."""
    width = rows.shape[1]
    # Columns contiguous in memory.
    remaining = np.ascontiguousarray(rows.T[order], np.float64)
    scales = np.ascontiguousarray(grid.scales.T)
    middle = 2 ** (grid.bits - 1) if grid.zero_points is None else grid.zero_points.T.astype(np.int64)
    zero_points = np.broadcast_to(middle, scales.shape)
    integers = np.zeros(remaining.shape, np.uint8)
    for start in range(0, width, LAZY_BATCH_SIZE):
        stop = min(start + LAZY_BATCH_SIZE, width)
        errors = np.zeros((stop - start, len(rows)))
        for column in range(start, stop):
            block = order[column] // grid.block_size
            scale, zero_point = scales[block], zero_points[block]
            values = np.clip(np.rint(remaining[column] / scale) + zero_point, 0, 2**grid.bits - 1)
            error = (remaining[column] - scale * (values - zero_point)) / factor[column, column]
            remaining[column + 1 : stop] -= factor[column, column + 1 : stop, None] * error
            errors[column - start] = error
            integers[order[column]] = values
        remaining[stop:] -= factor[start:stop, stop:].T @ errors
    padded = grid.values.reshape(len(rows), -1).copy()
    padded[:, :width] = integers.T
    return replace(grid, values=padded.reshape(grid.values.shape))


def output_error(rows: Floats, dequantized: Floats, moments: NDArray[np.float64]) -> float:
    """Return the sum of |X (rows - restored)^T|^2 over the calibration inputs, up to the factor of the moments."""
    difference = rows.astype(np.float64) - dequantized
    return float(((difference @ moments) * difference).sum())


def relative_error(rows: Floats, dequantized: Floats, moments: NDArray[np.float64] | None) -> float:
    """Return the relative root-mean-square error of rounding.

    That of the outputs on the calibration inputs, or without moments of the rows themselves.
    """
    difference = rows - dequantized
    if moments is None:
        error_energy, total_energy = (
            float(np.square(one, dtype=np.float64).sum()) for one in (difference, rows)
        )
    else:
        seen = moments.astype(np.float32)
        error_energy, total_energy = (
            float(((one @ seen) * one).sum(dtype=np.float64)) for one in (difference, rows)
        )
    return float(np.sqrt(max(error_energy, 0.0) / total_energy)) if total_energy > 0 else 0.0


def _inverse_factor(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the upper triangular U for which U^T U is the inverse of the damped moments."""
    diagonal = np.diag(moments)
    damped = moments + np.eye(len(moments)) * max(DAMPING * float(diagonal.mean()), 1e-12)
    return np.ascontiguousarray(np.linalg.cholesky(np.linalg.inv(damped)).T)
