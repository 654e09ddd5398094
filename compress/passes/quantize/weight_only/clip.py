"""Clip search: block grids that clip outliers where finer steps reduce the total error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compress.passes.quantize.weight_only.blocks import (
    Blocks,
    Floats,
    cut_into_blocks,
    grid_of,
    in_parts,
    round_to,
)

SHARES = tuple(1 - step / 40 for step in range(21))
"""Candidate fractions of the range that covers all values."""


def clipped_blocks(
    rows: Floats, weights: NDArray[np.float64], block_size: int, bits: int, symmetric: bool
) -> Blocks:
    """Quantize rows (rows, width) with the clipped range of each block that has the smallest weighted squared error.

    Args:
        weights: importance of errors by column (width,): the mean square of the matching input.
    """
    counted = cut_into_blocks(weights[None].astype(np.float32), block_size)

    def clipped(part: Floats) -> Blocks:
        cut = cut_into_blocks(part, block_size)
        whole, zeros = grid_of(cut, bits, symmetric)
        least, best = np.full(whole.shape, np.inf, np.float32), whole
        for share in SHARES:
            scales = whole * np.float32(share)
            found = Blocks(round_to(cut, scales, zeros, bits), scales, zeros, bits, part.shape[1])
            error = ((cut - found.restored()) ** 2 * counted).sum(axis=2)
            best = np.where(error < least, scales, best)
            least = np.minimum(error, least)
        return Blocks(round_to(cut, best, zeros, bits), best, zeros, bits, part.shape[1])

    return in_parts(rows, clipped)
