"""Clip search: block grids that clip outliers where finer steps reduce the total error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compress.passes.quantize.weight_only.blocks import (
    Blocks,
    Floats,
    fit_grid,
    map_row_chunks,
    round_to,
    split_into_blocks,
)

RANGE_FRACTIONS = tuple(1 - step / 40 for step in range(21))
"""Candidate fractions of the range that covers all values."""


def clipped_blocks(
    rows: Floats, weights: NDArray[np.float64], block_size: int, bits: int, symmetric: bool
) -> Blocks:
    """Quantize rows (rows, width) with the clipped range of each block that has the smallest weighted squared error.

    Args:
        weights: importance of errors by column (width,): the mean square of the matching input.
    """
    block_weights = split_into_blocks(weights[None].astype(np.float32), block_size)

    def clipped(chunk: Floats) -> Blocks:
        blocks = split_into_blocks(chunk, block_size)
        full_scales, zero_points = fit_grid(blocks, bits, symmetric)
        min_error, best = np.full(full_scales.shape, np.inf, np.float32), full_scales
        for share in RANGE_FRACTIONS:
            scales = full_scales * np.float32(share)
            found = Blocks(
                round_to(blocks, scales, zero_points, bits), scales, zero_points, bits, chunk.shape[1]
            )
            error = ((blocks - found.dequantized_blocks()) ** 2 * block_weights).sum(axis=2)
            best = np.where(error < min_error, scales, best)
            min_error = np.minimum(error, min_error)
        return Blocks(round_to(blocks, best, zero_points, bits), best, zero_points, bits, chunk.shape[1])

    return map_row_chunks(rows, clipped)
