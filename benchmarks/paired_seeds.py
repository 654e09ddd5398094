"""Two ways of training, each with several seeds, on the same examples: which is better, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Right = NDArray[np.bool_] | NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """Mean difference of two accuracies with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Of the first against the second."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "no difference"


def paired_difference(first: Right, second: Right, *, seed: int = 0, resamples: int = 10_000) -> Difference:
    """The accuracy of the first way less that of the second, with a percentile interval of the paired bootstrap.

    A resample draws examples and, independently, seeds, the same ones for both ways: the interval holds for other
    examples of this kind and for other seeds (Owen, The pigeonhole bootstrap, 2007).

    Args:
        first: right answers, (seeds, examples); row i of both was trained with the same seed. Shares of them where a
            way stands for a mean of several.
        second: likewise, the same examples.
    """
    if first.shape != second.shape:
        raise ValueError(f"not paired: {first.shape} and {second.shape}")
    random = np.random.default_rng(seed)
    gains = first.astype(np.float64) - second.astype(np.float64)
    seeds, examples = gains.shape
    drawn = np.empty(resamples)
    for number in range(resamples):
        weights = np.bincount(random.integers(seeds, size=seeds), minlength=seeds) / seeds
        chosen = random.integers(examples, size=examples)
        drawn[number] = (weights @ gains)[chosen].mean()
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Difference(float(gains.mean()), float(low), float(high))
