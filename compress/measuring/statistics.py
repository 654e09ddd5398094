"""Intervals and tests, as pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from compress.core.records import Verdict
from compress.measuring.protocol import CONFIDENCE, RESAMPLES, SIGNIFICANCE

_CELLS = 2_000_000
"""Numbers resampled at once, so that a bootstrap needs little memory."""


@dataclass(frozen=True)
class Interval:
    """A value with the bounds of its confidence interval."""

    value: float
    low: float
    high: float


def wilson(successes: int, n: int) -> Interval:
    """Share of successes with its score interval (Wilson 1927), which stays inside 0..1 also at the ends.

    Raises:
        ValueError: `n` is 0, or `successes` is not in 0..n.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n}")
    return Interval(successes / n, *wilson_bounds(successes, n, normal_quantile()))


def wilson_bounds(successes: int, n: int, z: float) -> tuple[float, float]:
    """The bounds of the score interval at `z` standard deviations."""
    share = successes / n
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the bound is 0 or 1, which rounding may miss.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def normal_quantile() -> float:
    """The standard deviations that hold as large a share of a normal distribution as intervals do."""
    return NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact McNemar test (the binomial one): the p value that two models are right equally often.

    Args:
        only_first: examples that only the first model gets right.
        only_second: examples that only the second one gets right.
    """
    n = only_first + only_second
    # Whole numbers all the way, for the powers overflow floats for n > 1023; their quotient is a float again.
    tail = ways = 1
    for k in range(min(only_first, only_second)):
        ways = ways * (n - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / (1 << n))


def paired_verdict(only_first: int, only_second: int) -> tuple[float, Verdict]:
    """The p value of `mcnemar_exact`, and what it says of the second model."""
    p_value = mcnemar_exact(only_first, only_second)
    if p_value >= SIGNIFICANCE:
        return p_value, "no difference"
    return p_value, "better" if only_second > only_first else "worse"


def percentile(samples: Sequence[float] | NDArray[np.float64], q: float) -> float:
    """The q-th percentile (0..100), interpolated linearly."""
    return float(np.percentile(np.asarray(samples), q))


def bootstrap_medians(
    first: Sequence[NDArray[np.float64]],
    second: Sequence[NDArray[np.float64]],
    seed: int,
    resamples: int = RESAMPLES,
) -> tuple[Interval, Interval]:
    """Median of the second series, and the ratio of medians first / second, with percentile intervals.

    The series are paired by round and grouped by process. A resample draws processes with replacement, each
    as often as it has rounds, and then rounds within each (Davison and Hinkley 1997, 3.8), the same ones for both
    series: rounds of one process are not independent of each other.

    Args:
        first, second: for each process the times of its rounds (rounds,); equal shapes.
        seed: of the draws.

    Raises:
        ValueError: the series do not pair up, or a process has no round.
    """
    sizes = np.array([len(group) for group in first])
    if [len(group) for group in second] != sizes.tolist() or sizes.size == 0 or sizes.min() == 0:
        raise ValueError("the two series do not pair up")
    # Single precision is far finer than the clock, and sorts several times faster.
    one, two = (np.concatenate(list(series)).astype(np.float32) for series in (first, second))
    starts = np.cumsum(sizes) - sizes
    draws = max(1, round(float(sizes.mean())))
    bounds = np.cumsum(sizes)[:-1] / sizes.sum()

    def resampled(generator: np.random.Generator, count: int) -> NDArray[np.float64]:
        # In proportion to its rounds: so the medians of all rounds count it, which the interval is about.
        groups = np.searchsorted(bounds, generator.random((count, sizes.size, 1)), side="right")
        within = generator.random((count, sizes.size, draws), dtype=np.float32)
        within *= sizes[groups].astype(np.float32)
        # float32 may round a draw up to the size itself.
        index = np.minimum(within.astype(np.int32), (sizes[groups] - 1).astype(np.int32))
        index += starts[groups].astype(np.int32)
        medians = [_row_medians(series.take(index).reshape(count, -1)) for series in (one, two)]
        return np.stack([medians[1], medians[0] / medians[1]]).astype(np.float64)

    medians, ratios = bootstrap(resampled, draws * sizes.size, seed, resamples)
    # Of the same single-precision times, so that the middle of all lies between the ends also where times are equal.
    middle_one, middle_two = (float(np.median(series)) for series in (one, two))
    return around(middle_two, medians), around(middle_one / middle_two, ratios)


def _row_medians(table: NDArray[np.float32]) -> NDArray[np.float32]:
    """(m, n) -> the median of each row (m,); sorts `table` in place."""
    table.sort(axis=1)
    n = table.shape[1]
    middle: NDArray[np.float32] = (table[:, (n - 1) // 2] + table[:, n // 2]) / np.float32(2)
    return middle


def macro_f1_interval(
    predicted: NDArray[np.int64],
    truth: NDArray[np.int64],
    seed: int,
    resamples: int = RESAMPLES,
) -> Interval:
    """Mean F1 over the classes that occur, with a percentile bootstrap interval over the examples.

    Where all or none are right, a resample is too, and tells nothing: there F1 is the accuracy, and so is its interval.

    Args:
        predicted, truth: label indices, int64 (n,), n > 0.
        seed: of the draws.
    """
    hits = int((predicted == truth).sum())
    if hits in (0, len(truth)):
        return wilson(hits, len(truth))
    classes, flat = np.unique(np.concatenate([predicted, truth]), return_inverse=True)
    one_hot = np.eye(len(classes), dtype=np.float32)
    guesses, support = one_hot[flat[: len(predicted)]], one_hot[flat[len(predicted) :]]
    table = np.concatenate([guesses * support, guesses + support], axis=1)
    n = len(truth)

    def resampled(generator: np.random.Generator, count: int) -> NDArray[np.float64]:
        # How often each example is drawn, for `count` resamples.
        cells = generator.integers(n, size=(count, n)) + np.arange(count)[:, None] * n
        weights = np.bincount(cells.ravel(), minlength=count * n).reshape(count, n).astype(np.float32)
        return _macro_f1(weights @ table)

    value = float(_macro_f1(table.sum(axis=0, keepdims=True))[0])
    return around(value, bootstrap(resampled, n, seed, resamples))


def _macro_f1(counts: NDArray[np.float32]) -> NDArray[np.float64]:
    """(m, 2 classes): hits, then guesses + truth of each class -> macro F1 (m,)."""
    hits, both = np.split(counts.astype(np.float64), 2, axis=1)
    scores = np.divide(2 * hits, both, out=np.zeros_like(hits), where=both > 0)
    result: NDArray[np.float64] = scores.sum(axis=1) / (both > 0).sum(axis=1)
    return result


def mean_interval(values: NDArray[np.float64], seed: int) -> Interval:
    """Mean of numbers (n,), n > 0, with a percentile bootstrap interval over them, widened where they are few."""
    n = len(values)
    draws = bootstrap(
        lambda generator, count: values[generator.integers(n, size=(count, n))].mean(axis=1),
        n,
        seed,
        RESAMPLES,
    )
    return around(float(values.mean()), draws, n)


def bootstrap(
    resampled: Callable[[np.random.Generator, int], NDArray[np.float64]], size: int, seed: int, resamples: int
) -> NDArray[np.float64]:
    """What a bootstrap finds in all its resamples (..., resamples).

    Args:
        resampled: draws so many resamples, and gives what it finds in them (..., count).
        size: numbers of one resample; as many are drawn at once as need little memory.
    """
    generator, rows = np.random.default_rng(seed), max(1, _CELLS // size)
    counts = [min(rows, resamples - begin) for begin in range(0, resamples, rows)]
    return np.concatenate([resampled(generator, count) for count in counts], axis=-1)


def quotients_drawn(
    quotients: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], seed: int
) -> tuple[NDArray[np.float64], int]:
    """Quotients of sums over documents (n,) each, in every resample of the documents: (quotients, resamples); and how
    many documents were drawn from.

    A document that one of them has nothing to divide by of is left out: a resample may be of such ones alone.
    """
    counted = np.all([below > 0 for _, below in quotients], axis=0)
    quotients = [(above[counted], below[counted]) for above, below in quotients]
    documents = int(counted.sum())

    def resampled(generator: np.random.Generator, count: int) -> NDArray[np.float64]:
        # How often each document is drawn.
        drawn = generator.multinomial(documents, np.full(documents, 1 / documents), size=count)
        return np.stack([(drawn @ above) / (drawn @ below) for above, below in quotients])

    return bootstrap(resampled, documents, seed, RESAMPLES), documents


def around(value: float, draws: NDArray[np.float64], units: int | None = None) -> Interval:
    """The percentile interval of bootstrap draws, made to hold the value.

    A median of two clusters, as of processes at two speeds, may lie where hardly any draw does. Draws of few units
    spread too little: their percentiles are moved outwards, to where a t interval would have its ends (Hesterberg 2015,
    "What Teachers Should Know About the Bootstrap", 5.3).

    Args:
        units: how many independent ones were drawn from, where they may be few; a single one tells nothing of others,
            and its interval is the value alone.

    Raises:
        ValueError: a draw is no number.
    """
    if np.isnan(draws).any():
        raise ValueError("a resample is not a number")
    tail = (1 - CONFIDENCE) / 2
    if units is not None and units > 1:
        from scipy.special import stdtrit  # imported here: reports read intervals, and draw none

        tail = NormalDist().cdf(float(stdtrit(units - 1, tail)) * math.sqrt(units / (units - 1)))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(value, min(value, float(low)), max(value, float(high)))


def p_value_of_draws(share: float, resamples: int, units: int) -> float:
    """The two-sided p value of a bootstrap in which the smaller tail holds a `share` of the resamples: of few units it
    is larger than twice that share, as the interval of `around` is wider. 1 of a single one."""
    if units < 2:
        return 1.0
    # No share of so many resamples proves a smaller one than this.
    tail = (share * resamples + 1) / (resamples + 1)
    if tail >= 0.5:
        return 1.0
    from scipy.special import stdtr

    score = NormalDist().inv_cdf(tail) * math.sqrt((units - 1) / units)
    return min(1.0, 2 * float(stdtr(units - 1, score)))
