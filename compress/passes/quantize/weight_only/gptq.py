"""Weights in blocks, rounded one input after the other, each error made good by the inputs still to come: GPTQ.

Frantar, Ashkboos, Hoefler and Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", 2022. What is made small is the error of the layer's outputs on calibration inputs X, for which the
second moments X^T X say all that is needed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from compress.passes.quantize.weight_only.blocks import Blocks, Floats, in_parts
from compress.passes.quantize.weight_only.clip import clipped_blocks

DAMPING = 0.01
"""Added to the diagonal of the second moments, as a share of its mean: inputs never seen together stay stable."""
LAZY = 32
"""Inputs whose feedback to those behind them is summed up before it is applied."""


def feedback_blocks(
    rows: Floats,
    moments: NDArray[np.float64],
    block_size: int,
    bits: int,
    symmetric: bool,
    *,
    activation_order: bool = True,
) -> Blocks:
    """Rows (rows, width) -> blocks whose products with the calibration inputs are close to those of the rows.

    Args:
        rows: a weight, one row an output.
        moments: X^T X of the inputs (width, width), up to a factor.
        activation_order: take the inputs with the largest second moment first, while all others can still make up for
            them. The grid of a block is fitted before, to the float weights.
    """
    order = np.argsort(-np.diag(moments), kind="stable") if activation_order else np.arange(rows.shape[1])
    factor = _inverse_factor(moments[np.ix_(order, order)])

    def fed_back(part: Floats) -> Blocks:
        grid = clipped_blocks(part, np.diag(moments), block_size, bits, symmetric)
        return _feed_back(part, grid, order, factor)

    # Rows do not depend on one another, and so few at once stay in the processor's cache.
    return in_parts(rows, fed_back)


def _feed_back(rows: Floats, grid: Blocks, order: NDArray[np.intp], factor: NDArray[np.float64]) -> Blocks:
    """Rows on a grid, column after column in this order; `factor` is of the moments in the same order."""
    width = rows.shape[1]
    # One column after the other in memory.
    left = np.ascontiguousarray(rows.T[order], np.float64)
    scales = np.ascontiguousarray(grid.scales.T)
    middle = 2 ** (grid.bits - 1) if grid.zeros is None else grid.zeros.T.astype(np.int64)
    middles = np.broadcast_to(middle, scales.shape)
    chosen = np.zeros(left.shape, np.uint8)
    for start in range(0, width, LAZY):
        stop = min(start + LAZY, width)
        errors = np.zeros((stop - start, len(rows)))
        for place in range(start, stop):
            block = order[place] // grid.block_size
            scale, zero = scales[block], middles[block]
            values = np.clip(np.rint(left[place] / scale) + zero, 0, 2**grid.bits - 1)
            error = (left[place] - scale * (values - zero)) / factor[place, place]
            left[place + 1 : stop] -= factor[place, place + 1 : stop, None] * error
            errors[place - start] = error
            chosen[order[place]] = values
        left[stop:] -= factor[start:stop, stop:].T @ errors
    filled = grid.values.reshape(len(rows), -1).copy()
    filled[:, :width] = chosen.T
    return replace(grid, values=filled.reshape(grid.values.shape))


def output_error(rows: Floats, restored: Floats, moments: NDArray[np.float64]) -> float:
    """sum of |X (rows - restored)^T|^2 over the calibration inputs, up to the factor of the moments."""
    difference = rows.astype(np.float64) - restored
    return float(((difference @ moments) * difference).sum())


def relative_error(rows: Floats, restored: Floats, moments: NDArray[np.float64] | None) -> float:
    """Root mean square of what rounding changes, over that of what was there: of the outputs on the calibration inputs,
    or without moments of the rows themselves."""
    difference = rows - restored
    if moments is None:
        changed, whole = (float(np.square(one, dtype=np.float64).sum()) for one in (difference, rows))
    else:
        seen = moments.astype(np.float32)
        changed, whole = (float(((one @ seen) * one).sum(dtype=np.float64)) for one in (difference, rows))
    return float(np.sqrt(max(changed, 0.0) / whole)) if whole > 0 else 0.0


def _inverse_factor(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Upper triangular U with U^T U the inverse of the damped moments."""
    diagonal = np.diag(moments)
    damped = moments + np.eye(len(moments)) * max(DAMPING * float(diagonal.mean()), 1e-12)
    return np.ascontiguousarray(np.linalg.cholesky(np.linalg.inv(damped)).T)
