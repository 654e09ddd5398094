"""Streaming statistics of activations; each takes constant memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Edges = NDArray[np.float64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

BINS = 8192
_ZERO_BIN = BINS // 2
_FINEST_EXPONENT = -100
MOMENTUM = 0.01
"""Weight of a new example in the moving average, as usual in quantization-aware training."""


class Histogram:
    """Histogram with equal bins around zero, with the smallest and largest value.

    The bin width is a power of two that doubles when a value falls outside; pairs of bins then merge without error. The
    counts are therefore independent of the order of the values, and one pass suffices.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(BINS, np.int64)
        self._exponent = _FINEST_EXPONENT
        self.low, self.high = math.inf, -math.inf

    def add(self, values: Floats) -> None:
        """Count finite values of any shape."""
        flat = values.reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(max(-low, high))
        bins = np.floor(flat * np.float32(2.0**-self._exponent)).astype(np.int32) + _ZERO_BIN
        self._counts += np.bincount(bins, minlength=BINS)

    def _widen(self, max_magnitude: float) -> None:
        # frexp: furthest < 2^exponent, so that it falls into a bin.
        needed = (
            math.frexp(max_magnitude)[1] - int(math.log2(_ZERO_BIN))
            if max_magnitude > 0
            else _FINEST_EXPONENT
        )
        if not self._counts.any():
            self._exponent = max(needed, _FINEST_EXPONENT)
        while self._exponent < needed:
            merged = self._counts.reshape(-1, 2).sum(axis=1)
            self._counts = np.zeros(BINS, np.int64)
            self._counts[_ZERO_BIN // 2 : _ZERO_BIN // 2 + _ZERO_BIN] = merged
            self._exponent += 1

    def trimmed_histogram(self) -> tuple[Counts, Edges]:
        """Return counts (bins,) and edges (bins + 1,) from the smallest to the largest value."""
        width = 2.0**self._exponent
        first, last = (math.floor(end / width) + _ZERO_BIN for end in (self.low, self.high))
        edges: Edges = (np.arange(first, last + 2) - _ZERO_BIN).astype(np.float64) * width
        edges[0], edges[-1] = self.low, self.high
        return self._counts[first : last + 1], edges


@dataclass
class Extremes:
    """Smallest and largest value seen."""

    low: float = math.inf
    high: float = -math.inf

    def add(self, values: Floats) -> None:
        """Update with values of any shape."""
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))


@dataclass
class AverageExtremes:
    """Moving averages of the smallest and largest value of each example.

    A plain mean over the first hundred examples; after that, each example has a weight of 0.01. After Jacob et al.,
    "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference" (2018), section 3.1.
    """

    low: float = 0.0
    high: float = 0.0
    examples: int = 0

    def add(self, values: Floats) -> None:
        """Update with the values of one example."""
        self.examples += 1
        step = max(MOMENTUM, 1 / self.examples)
        self.low += step * (float(values.min()) - self.low)
        self.high += step * (float(values.max()) - self.high)


@dataclass
class ChannelMean:
    """Mean of each channel; `axis` is the channel axis."""

    axis: int
    _sum: Doubles | None = None
    _rows: int = 0

    def add(self, values: Floats) -> None:
        """Update with values (..., channels, ...)."""
        others = tuple(axis for axis in range(values.ndim) if axis != self.axis % values.ndim)
        total = values.sum(axis=others, dtype=np.float64)
        self._sum = total if self._sum is None else self._sum + total
        self._rows += values.size // len(total)

    @property
    def mean(self) -> Doubles:
        """Channel means, float64 (channels,)."""
        assert self._sum is not None
        return np.asarray(self._sum / self._rows)


@dataclass
class ChannelSample:
    """Per-channel minimum and maximum of values (..., channels), and a uniform random sample of rows.

    Rows are drawn by reservoir sampling (Vitter, "Random Sampling with a Reservoir", 1985).
    """

    size: int
    seed: int = 0
    _rows: Floats | None = None
    _seen: int = 0
    low: Floats = field(init=False)
    high: Floats = field(init=False)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)

    def add(self, values: Floats) -> None:
        """Update with values (..., channels)."""
        rows = values.reshape(-1, values.shape[-1])
        if self._rows is None:
            self._rows = np.empty((self.size, rows.shape[1]), np.float32)
            self.low, self.high = rows.min(axis=0), rows.max(axis=0)
        self.low, self.high = np.minimum(self.low, rows.min(axis=0)), np.maximum(self.high, rows.max(axis=0))
        slots = np.arange(self._seen, self._seen + len(rows))
        drawn = (self._random.random(len(rows)) * (slots + 1)).astype(np.int64)
        slots = np.where(slots < self.size, slots, drawn)
        mask = slots < self.size
        self._rows[slots[mask]] = rows[mask]
        self._seen += len(rows)

    @property
    def rows(self) -> Floats:
        """Sampled rows, float32 (at most `size`, channels)."""
        assert self._rows is not None
        return self._rows[: self._seen]
