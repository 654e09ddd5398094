"""Confidence intervals and significance tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from compress.core.records import Verdict
from compress.measuring.protocol import CONFIDENCE, RESAMPLES, SIGNIFICANCE

_MAX_RESAMPLED_VALUES = 2_000_000
"""Maximum numbers resampled at once, which limits the memory of a bootstrap."""


@dataclass(frozen=True)
class Interval:
    """A value with the bounds of its confidence interval."""

    value: float
    low: float
    high: float


def wilson_interval(successes: int, n: int) -> Interval:
    """Return the share of successes with its score interval (Wilson 1927), which stays within 0..1.

    Raises:
        ValueError: `n` is 0, or `successes` is not in 0..n.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n}")
    return Interval(successes / n, *wilson_bounds(successes, n, normal_quantile()))


def wilson_bounds(successes: int, n: int, z: float) -> tuple[float, float]:
    """Return the bounds of the score interval at `z` standard deviations."""
    share = successes / n
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # For 0 or n successes a bound is exactly 0 or 1, which rounding may miss.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def normal_quantile() -> float:
    """Return the two-sided normal quantile for `CONFIDENCE`."""
    return NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Return the two-sided p value of the exact (binomial) McNemar test for equal accuracy of two models.

    Args:
        only_first: number of examples that only the first model gets right.
        only_second: number of examples that only the second one gets right.
    """
    n = only_first + only_second
    # Integer arithmetic, since the powers overflow floats for n > 1023; the quotient is a float again.
    tail = ways = 1
    for k in range(min(only_first, only_second)):
        ways = ways * (n - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / (1 << n))


def paired_verdict(only_first: int, only_second: int) -> tuple[float, Verdict]:
    """Return the p value of `mcnemar_exact` and the verdict on the second model."""
    p_value = mcnemar_exact(only_first, only_second)
    if p_value >= SIGNIFICANCE:
        return p_value, "no difference"
    return p_value, "better" if only_second > only_first else "worse"


def percentile(samples: Sequence[float] | NDArray[np.float64], q: float) -> float:
    """Return the q-th percentile (0..100), interpolated linearly."""
    return float(np.percentile(np.asarray(samples), q))


def bootstrap_medians(
    first: Sequence[NDArray[np.float64]],
    second: Sequence[NDArray[np.float64]],
    seed: int,
    resamples: int = RESAMPLES,
) -> tuple[Interval, Interval]:
    """Return the median of the second series and the ratio of medians first / second, with percentile intervals.

    The series are paired by round and grouped by process. Rounds of one process are not independent, so a resample
    draws processes with replacement, in proportion to their rounds, and then rounds within each (Davison and Hinkley
    1997, 3.8), the same ones for both series.

    Args:
        first, second: for each process the times of its rounds (rounds,); equal shapes.
        seed: seed of the resampling.
        resamples: number of resamples.

    Raises:
        ValueError: the series do not pair up, or a process has no rounds.
    """
    sizes = np.array([len(group) for group in first])
    if [len(group) for group in second] != sizes.tolist() or sizes.size == 0 or sizes.min() == 0:
        raise ValueError("the two series do not pair up")
    # Single precision is far finer than the clock, and sorts several times faster.
    first_times, second_times = (
        np.concatenate(list(series)).astype(np.float32) for series in (first, second)
    )
    starts = np.cumsum(sizes) - sizes
    draws = max(1, round(float(sizes.mean())))
    bounds = np.cumsum(sizes)[:-1] / sizes.sum()

    def resample_medians(generator: np.random.Generator, count: int) -> NDArray[np.float64]:
        # Processes are weighted by their rounds, as in the medians over all rounds that the interval is for.
        groups = np.searchsorted(bounds, generator.random((count, sizes.size, 1)), side="right")
        within = generator.random((count, sizes.size, draws), dtype=np.float32)
        within *= sizes[groups].astype(np.float32)
        # float32 rounding may give an index equal to the size.
        index = np.minimum(within.astype(np.int32), (sizes[groups] - 1).astype(np.int32))
        index += starts[groups].astype(np.int32)
        medians = [
            _row_medians(series.take(index).reshape(count, -1)) for series in (first_times, second_times)
        ]
        return np.stack([medians[1], medians[0] / medians[1]]).astype(np.float64)

    medians, ratios = bootstrap(resample_medians, draws * sizes.size, seed, resamples)
    # Medians of the same float32 times, so that they lie within the interval even if all times are equal.
    first_median, second_median = (float(np.median(series)) for series in (first_times, second_times))
    return percentile_interval(second_median, medians), percentile_interval(
        first_median / second_median, ratios
    )


def _row_medians(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the median of each row of `values` (m, n), which is sorted in place."""
    values.sort(axis=1)
    n = values.shape[1]
    middle: NDArray[np.float32] = (values[:, (n - 1) // 2] + values[:, n // 2]) / np.float32(2)
    return middle


def macro_f1_interval(
    predicted: NDArray[np.int64],
    truth: NDArray[np.int64],
    seed: int,
    resamples: int = RESAMPLES,
) -> Interval:
    """Return the mean F1 over the occurring classes, with a percentile bootstrap interval over the examples.

    If all or no predictions are correct, every resample is the same; F1 then equals the accuracy, whose Wilson interval
    is used.

    Args:
        predicted, truth: label indices, int64 (n,), n > 0.
        seed: seed of the resampling.
        resamples: number of resamples.
    """
    hits = int((predicted == truth).sum())
    if hits in (0, len(truth)):
        return wilson_interval(hits, len(truth))
    classes, flat = np.unique(np.concatenate([predicted, truth]), return_inverse=True)
    one_hot = np.eye(len(classes), dtype=np.float32)
    predicted_one_hot, truth_one_hot = one_hot[flat[: len(predicted)]], one_hot[flat[len(predicted) :]]
    class_counts = np.concatenate(
        [predicted_one_hot * truth_one_hot, predicted_one_hot + truth_one_hot], axis=1
    )
    n = len(truth)

    def resample_f1(generator: np.random.Generator, count: int) -> NDArray[np.float64]:
        # (count, n): how often each resample contains each example.
        cells = generator.integers(n, size=(count, n)) + np.arange(count)[:, None] * n
        weights = np.bincount(cells.ravel(), minlength=count * n).reshape(count, n).astype(np.float32)
        return _macro_f1(weights @ class_counts)

    value = float(_macro_f1(class_counts.sum(axis=0, keepdims=True))[0])
    return percentile_interval(value, bootstrap(resample_f1, n, seed, resamples))


def _macro_f1(counts: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return macro F1 (m,) from counts (m, 2 * classes): the hits, then predictions + truth, of each class."""
    hits, predicted_plus_true = np.split(counts.astype(np.float64), 2, axis=1)
    scores = np.divide(2 * hits, predicted_plus_true, out=np.zeros_like(hits), where=predicted_plus_true > 0)
    result: NDArray[np.float64] = scores.sum(axis=1) / (predicted_plus_true > 0).sum(axis=1)
    return result


def mean_interval(values: NDArray[np.float64], seed: int) -> Interval:
    """Return the mean of values (n,), n > 0, with a percentile bootstrap interval, widened for small n."""
    n = len(values)
    draws = bootstrap(
        lambda generator, count: values[generator.integers(n, size=(count, n))].mean(axis=1),
        n,
        seed,
        RESAMPLES,
    )
    return percentile_interval(float(values.mean()), draws, n)


def bootstrap(
    resample: Callable[[np.random.Generator, int], NDArray[np.float64]], size: int, seed: int, resamples: int
) -> NDArray[np.float64]:
    """Return the bootstrap distribution of statistics, (..., resamples).

    Args:
        resample: draws `count` resamples and returns their statistics (..., count).
        size: numbers per resample; decides how many resamples are drawn at once.
        seed: seed of the resampling.
        resamples: number of resamples.
    """
    generator, resamples_per_block = np.random.default_rng(seed), max(1, _MAX_RESAMPLED_VALUES // size)
    counts = [
        min(resamples_per_block, resamples - begin) for begin in range(0, resamples, resamples_per_block)
    ]
    return np.concatenate([resample(generator, count) for count in counts], axis=-1)


def bootstrap_ratios(
    ratios: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], seed: int
) -> tuple[NDArray[np.float64], int]:
    """Bootstrap ratios of sums over documents: return (quotients, resamples) and the number of documents drawn from.

    Each quotient is a pair of numerators and denominators (n,). Documents with a denominator that is not positive are
    left out, since a resample could consist of them alone.
    """
    positive = np.all([denominator > 0 for _, denominator in ratios], axis=0)
    ratios = [(numerator[positive], denominator[positive]) for numerator, denominator in ratios]
    documents = int(positive.sum())

    def resample_ratios(generator: np.random.Generator, count: int) -> NDArray[np.float64]:
        # (count, documents): how often each resample contains each document.
        drawn = generator.multinomial(documents, np.full(documents, 1 / documents), size=count)
        return np.stack([(drawn @ above) / (drawn @ below) for above, below in ratios])

    return bootstrap(resample_ratios, documents, seed, RESAMPLES), documents


def percentile_interval(value: float, draws: NDArray[np.float64], units: int | None = None) -> Interval:
    """Return the percentile interval of bootstrap draws, extended to include the value.

    The median of two clusters, such as processes at two speeds, may lie where hardly any draw does. Draws from few
    units vary too little, so the percentiles are expanded to match a t interval (Hesterberg 2015, "What Teachers Should
    Know About the Bootstrap", 5.3).

    Args:
        value: the statistic of the sample.
        draws: its bootstrap distribution.
        units: number of independent units drawn from, if it may be small; with a single unit, whose draws are all
            equal, the interval is the value itself.

    Raises:
        ValueError: a draw is NaN.
    """
    if np.isnan(draws).any():
        raise ValueError("a resample is not a number")
    tail = (1 - CONFIDENCE) / 2
    if units is not None and units > 1:
        from scipy.special import stdtrit  # imported here, since reports only read intervals

        tail = NormalDist().cdf(float(stdtrit(units - 1, tail)) * math.sqrt(units / (units - 1)))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(value, min(value, float(low)), max(value, float(high)))


def bootstrap_p_value(share: float, resamples: int, units: int) -> float:
    """Return the two-sided p value of a bootstrap whose smaller tail contains a `share` of the resamples.

    For few units it is larger than twice that share, consistent with the wider interval of
    `percentile_interval`; 1 for a single unit.
    """
    if units < 2:
        return 1.0
    # A finite number of resamples cannot support a smaller tail probability.
    tail = (share * resamples + 1) / (resamples + 1)
    if tail >= 0.5:
        return 1.0
    from scipy.special import stdtr

    z = NormalDist().inv_cdf(tail) * math.sqrt((units - 1) / units)
    return min(1.0, 2 * float(stdtr(units - 1, z)))
