"""k-means of numbers. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 20


def clustered(weights: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """The weights, each with the mean of its cluster in its place (Lloyd 1982, from evenly spread centres)."""
    flat = weights.astype(np.float64).ravel()
    centres = np.linspace(flat.min(), flat.max(), count)
    for _ in range(ROUNDS):
        nearest = _nearest(flat, centres)
        sums, sizes = np.bincount(nearest, flat, count), np.bincount(nearest, minlength=count)
        centres = np.where(sizes > 0, sums / np.maximum(sizes, 1), centres)
    return centres[_nearest(flat, centres)].reshape(weights.shape).astype(np.float32)


def _nearest(values: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.int64]:
    # The centres stay in order, as each is the mean of what lies nearest to it.
    return np.searchsorted((centres[1:] + centres[:-1]) / 2, values).astype(np.int64)
