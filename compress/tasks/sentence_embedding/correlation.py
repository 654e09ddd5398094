"""Bootstraps of rank correlations, over texts and over given pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.measuring.protocol import PAIR_RESAMPLES, RESAMPLES
from compress.measuring.statistics import Interval, percentile_interval
from compress.tasks.sentence_embedding.similarity import rank_groups, spearman, weighted_spearman


def spearman_interval(
    value: float,
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    texts: tuple[NDArray[np.int64], NDArray[np.int64]],
    seed: int,
) -> Interval:
    """Return the bootstrap interval over texts of a rank correlation of their similarities.

    A pair counts as often as both of its texts were drawn, and all pairs are ranked again in every draw. If the
    correlation itself was computed on more pairs than these, the percentiles are shifted by the difference of the two.

    Args:
        value: the correlation.
        first, second: two models' similarities of pairs of texts (p,).
        texts: the two texts of each pair, as indices starting at 0, (p,) each.
        seed: of the draws.
    """
    first_groups, second_groups = rank_groups(first), rank_groups(second)
    num_texts = int(max(side.max() for side in texts)) + 1
    draws = np.array(
        [
            weighted_spearman(first_groups, second_groups, counts[texts[0]] * counts[texts[1]])
            for counts in _resample_counts(num_texts, PAIR_RESAMPLES, seed)
        ]
    )
    interval = percentile_interval(value, draws + (value - spearman(first, second)))
    return Interval(value, max(-1.0, min(interval.low, value)), min(1.0, max(interval.high, value)))


@dataclass(frozen=True)
class PairedCorrelation:
    """Rank correlations of two models' similarities with given scores.

    The model's correlation with its interval, the baseline's correlation, the interval of their ratio (None if a draw
    of the baseline's is not positive), and the two-sided bootstrap p-value of the hypothesis that the two are equal.
    """

    correlation: Interval
    baseline: float
    ratio: Interval | None
    p_value: float


def paired_correlations(
    model: NDArray[np.float32],
    baseline: NDArray[np.float32],
    scores: NDArray[np.float32],
    seed: int,
) -> PairedCorrelation:
    """Bootstrap over given pairs: both models are ranked against the scores of the same drawn pairs.

    Args:
        model, baseline: similarities of the pairs (m,).
        scores: their given scores (m,).
        seed: of the draws.
    """
    groups = [rank_groups(series) for series in (model, baseline, scores)]
    draws = np.array(
        [
            [weighted_spearman(model_side, groups[2], counts) for model_side in groups[:2]]
            for counts in _resample_counts(len(scores), RESAMPLES, seed)
        ]
    )
    values = [spearman(model_side, scores) for model_side in (model, baseline)]
    difference = draws[:, 0] - draws[:, 1]
    smaller_tail = min(int((difference <= 0).sum()), int((difference >= 0).sum()))
    ratio = None
    if values[1] > 0 and (draws[:, 1] > 0).all():
        ratio = percentile_interval(values[0] / values[1], draws[:, 0] / draws[:, 1])
    p_value = min(1.0, 2 * (smaller_tail + 1) / (RESAMPLES + 1))
    return PairedCorrelation(percentile_interval(values[0], draws[:, 0]), values[1], ratio, p_value)


def _resample_counts(n: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield for each resample how often each of n items is drawn (n,)."""
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(generator.integers(n, size=n), minlength=n).astype(np.float64)
