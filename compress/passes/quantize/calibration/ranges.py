"""Activation ranges computed from histograms, as pure functions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compress.passes.quantize.int8.affine import activation_scale, rounded_activations

Counts = NDArray[np.int64]
Edges = NDArray[np.float64]
Range = tuple[float, float]

PERCENTILE = 99.999
"""Percentage of the values that `percentile` covers; the rest is clipped equally at both ends."""
LEVELS = 256
_CANDIDATES = 64


def percentile_range(counts: Counts, edges: Edges, percentile: float = PERCENTILE) -> Range:
    """Return the range that covers `percentile` percent of the values; counts (bins,), edges (bins + 1,)."""
    cumulated = np.cumsum(counts) / max(int(counts.sum()), 1)
    outside = (1 - percentile / 100) / 2
    low = int(np.searchsorted(cumulated, outside, side="right"))
    high = int(np.searchsorted(cumulated, 1 - outside, side="left"))
    last = len(counts) - 1
    return float(edges[min(low, last)]), float(edges[min(high, last) + 1])


def entropy_range(counts: Counts, edges: Edges) -> Range:
    """Return the range that loses least information when quantized to 256 levels.

    For each of 64 distances from 0, the reference distribution is the histogram with outlying counts moved to the
    outermost bins; the candidate is the inner histogram alone, with each level spread evenly over its non-empty bins.
    The distance with the smallest KL divergence is selected. After Migacz, "8-bit inference with TensorRT" (2017),
    extended to asymmetric ranges.
    """
    centres = (edges[:-1] + edges[1:]) / 2
    furthest = max(abs(edges[0]), abs(edges[-1]))
    best, found = np.inf, (float(edges[0]), float(edges[-1]))
    for limit in furthest * np.linspace(1, 1 / _CANDIDATES, _CANDIDATES):
        inside = np.flatnonzero(np.abs(centres) <= limit)
        if len(inside) < 2:
            continue
        divergence = _divergence(counts, int(inside[0]), int(inside[-1]))
        if divergence < best - 1e-12:
            best, found = divergence, (float(edges[inside[0]]), float(edges[inside[-1] + 1]))
    return found


def mse_range(counts: Counts, edges: Edges) -> Range:
    """Return the range whose 256 levels have the smallest mean squared error.

    Searches the same 64 distances from 0 as `entropy_range`; values outside are clipped, values inside rounded. All
    values of a bin are taken at its centre.
    """
    centres = (edges[:-1] + edges[1:]) / 2
    filled = counts > 0
    values, weights = centres[filled], counts[filled].astype(np.float64)
    furthest = max(abs(edges[0]), abs(edges[-1]))
    best, found = np.inf, (float(edges[0]), float(edges[-1]))
    for limit in furthest * np.linspace(1, 1 / _CANDIDATES, _CANDIDATES):
        low, high = max(float(edges[0]), -float(limit)), min(float(edges[-1]), float(limit))
        error = float(weights @ (rounded_activations(values, *activation_scale(low, high)) - values) ** 2)
        if error < best * (1 - 1e-9):
            best, found = error, (low, high)
    return found


def symmetric_range(found: Range) -> Range:
    """Make a range that contains both signs symmetric; leave a range of one sign unchanged."""
    low, high = found
    furthest = max(-low, high)
    return (-furthest, furthest) if low < 0 < high else found


def _divergence(counts: Counts, first: int, last: int) -> float:
    """KL divergence between the histogram clipped to bins first..last and its quantization to 256 levels."""
    kept = counts[first : last + 1].astype(np.float64)
    reference = kept.copy()
    reference[0] += counts[:first].sum()
    reference[-1] += counts[last + 1 :].sum()
    level = np.arange(len(kept)) * LEVELS // max(len(kept), LEVELS)
    filled = kept > 0
    total = np.bincount(level, weights=kept, minlength=LEVELS)
    members = np.bincount(level[filled], minlength=LEVELS)
    rival = np.where(filled, total[level] / np.maximum(members[level], 1), 0.0)
    if rival.sum() == 0:
        return np.inf
    # An outermost bin that was empty itself has no candidate: it counts as if it held a single value.
    rival = np.where((reference > 0) & (rival == 0), 1.0, rival)
    p, q = reference / reference.sum(), rival / rival.sum()
    used = p > 0
    return float(np.sum(p[used] * np.log(p[used] / q[used])))
