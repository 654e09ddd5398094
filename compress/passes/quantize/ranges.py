"""The range of an activation from what was seen of it: pure functions of a histogram."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Edges = NDArray[np.float64]
Range = tuple[float, float]

PERCENTILE = 99.999
"""Share of the values that `percentile` keeps, the rest being cut from both ends alike."""
LEVELS = 256
_CANDIDATES = 64


def percentile_range(counts: Counts, edges: Edges, percentile: float = PERCENTILE) -> Range:
    """The range that holds `percentile` percent of the values; counts (bins,), edges (bins + 1,)."""
    cumulated = np.cumsum(counts) / max(int(counts.sum()), 1)
    outside = (1 - percentile / 100) / 2
    low = int(np.searchsorted(cumulated, outside, side="right"))
    high = int(np.searchsorted(cumulated, 1 - outside, side="left"))
    last = len(counts) - 1
    return float(edges[min(low, last)]), float(edges[min(high, last) + 1])


def entropy_range(counts: Counts, edges: Edges) -> Range:
    """The range around 0 that loses least information when cut to 256 levels.

    For each of 64 shares of the whole range the values outside are moved to its ends, the values inside are spread
    evenly over their level, and the share with the smallest KL divergence from the histogram wins. After Migacz,
    "8-bit inference with TensorRT" (2017), for ranges that need not be symmetric.
    """
    centres = (edges[:-1] + edges[1:]) / 2
    best, found = np.inf, (float(edges[0]), float(edges[-1]))
    for share in np.linspace(1 / _CANDIDATES, 1, _CANDIDATES):
        low, high = min(edges[0], 0.0) * share, max(edges[-1], 0.0) * share
        inside = (centres >= low) & (centres <= high)
        if not inside.any():
            continue
        divergence = _divergence(counts, np.clip(centres, low, high), low, high)
        if divergence < best - 1e-12:
            best, found = divergence, (float(low), float(high))
    return found


def _divergence(counts: Counts, values: Edges, low: float, high: float) -> float:
    """KL divergence of the histogram from itself after clipping to [low, high] and rounding to 256 levels."""
    level = np.minimum(((values - low) / max(high - low, 1e-30) * LEVELS).astype(np.int64), LEVELS - 1)
    filled = counts > 0
    total = np.bincount(level, weights=counts, minlength=LEVELS)
    # A clipped value weighs on the reference at its own bin, and on the last level of the rounded histogram.
    members = np.bincount(level[filled], minlength=LEVELS)
    reference = counts[filled] / counts.sum()
    rounded = total[level[filled]] / members[level[filled]] / counts.sum()
    inside = reference > 0
    return float(np.sum(reference[inside] * np.log(reference[inside] / rounded[inside])))
