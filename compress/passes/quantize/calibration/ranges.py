"""Activation ranges computed from histograms, as pure functions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compress.passes.quantize.int8.affine import activation_scale, quantize_dequantize

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
    tail = (1 - percentile / 100) / 2
    low = int(np.searchsorted(cumulated, tail, side="right"))
    high = int(np.searchsorted(cumulated, 1 - tail, side="left"))
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
    max_magnitude = max(abs(edges[0]), abs(edges[-1]))
    best, best_range = np.inf, (float(edges[0]), float(edges[-1]))
    for limit in max_magnitude * np.linspace(1, 1 / _CANDIDATES, _CANDIDATES):
        inside = np.flatnonzero(np.abs(centres) <= limit)
        if len(inside) < 2:
            continue
        divergence = _divergence(counts, int(inside[0]), int(inside[-1]))
        if divergence < best - 1e-12:
            best, best_range = divergence, (float(edges[inside[0]]), float(edges[inside[-1] + 1]))
    return best_range


def mse_range(counts: Counts, edges: Edges) -> Range:
    """Return the range whose 256 levels have the smallest mean squared error.

    Searches the same 64 distances from 0 as `entropy_range`; values outside are clipped, values inside rounded. All
    values of a bin are taken at its centre.
    """
    centres = (edges[:-1] + edges[1:]) / 2
    filled = counts > 0
    values, weights = centres[filled], counts[filled].astype(np.float64)
    max_magnitude = max(abs(edges[0]), abs(edges[-1]))
    best, best_range = np.inf, (float(edges[0]), float(edges[-1]))
    for limit in max_magnitude * np.linspace(1, 1 / _CANDIDATES, _CANDIDATES):
        low, high = max(float(edges[0]), -float(limit)), min(float(edges[-1]), float(limit))
        error = float(weights @ (quantize_dequantize(values, *activation_scale(low, high)) - values) ** 2)
        if error < best * (1 - 1e-9):
            best, best_range = error, (low, high)
    return best_range


def symmetric_range(value_range: Range) -> Range:
    """Make a range that contains both signs symmetric; leave a range of one sign unchanged."""
    low, high = value_range
    furthest = max(-low, high)
    return (-furthest, furthest) if low < 0 < high else value_range


def _divergence(counts: Counts, first: int, last: int) -> float:
    """KL divergence between the histogram clipped to bins first..last and its quantization to 256 levels."""
    clipped = counts[first : last + 1].astype(np.float64)
    reference = clipped.copy()
    reference[0] += counts[:first].sum()
    reference[-1] += counts[last + 1 :].sum()
    level = np.arange(len(clipped)) * LEVELS // max(len(clipped), LEVELS)
    filled = clipped > 0
    total = np.bincount(level, weights=clipped, minlength=LEVELS)
    members = np.bincount(level[filled], minlength=LEVELS)
    candidate = np.where(filled, total[level] / np.maximum(members[level], 1), 0.0)
    if candidate.sum() == 0:
        return np.inf
    # An outermost bin that was empty itself has no candidate: it counts as if it held a single value.
    candidate = np.where((reference > 0) & (candidate == 0), 1.0, candidate)
    p, q = reference / reference.sum(), candidate / candidate.sum()
    used = p > 0
    return float(np.sum(p[used] * np.log(p[used] / q[used])))
