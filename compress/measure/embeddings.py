"""From embeddings to their scores, with intervals, against given scores or the baseline's similarities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compress.core.records import Accuracy, Verdict
from compress.measure.accuracy import SPLIT, metric_record
from compress.measure.protocol import INTERVAL_PAIRS, SAME_ORDER, SIGNIFICANCE
from compress.measure.statistics import Interval, mean_interval, paired_correlations, spearman_interval
from compress.tasks.base import Task, Truth
from compress.tasks.similarity import (
    NEIGHBOURS,
    compared_pairs,
    pair_similarities,
    recall_shares,
    similarities,
)

RECALL = f"recall_at_{NEIGHBOURS}"


def embedding_record(
    task: Task,
    outputs: NDArray[np.float32],
    truth: Truth,
    distinct: NDArray[np.int64],
    is_baseline: bool,
    batch_size: int,
    seed: int,
    unknown_token_share: float | None = None,
    examples: str | None = None,
) -> Accuracy:
    """Scores of embeddings (n, width): the task's correlation, and recall of the baseline's ten nearest neighbours.

    Args:
        truth: with the baseline's embeddings of the same texts as its `reference`, and given scores where there are
            any.
        distinct: one index of each distinct text (m,): of pairs, a text may stand in several.
        is_baseline: the outputs are the baseline's own.
        batch_size: what the outputs were computed with.
        seed: of the bootstrap.
        examples: digest of what was scored, kept in the record.

    Raises:
        ValueError: there is no reference.
    """
    if truth.reference is None:
        raise ValueError("the baseline's embeddings are missing")
    value = task.score(outputs, truth).value
    p_value: float | None = None
    verdict: Verdict | None
    retention: float | None
    bounds: Interval | None
    if truth.scores is None:
        n = len(outputs)
        interval = _interval(outputs, truth.reference, value, seed)
        retention, bounds = value, interval
        verdict = "worse" if interval.high < 1 - SAME_ORDER else "no difference"
    else:
        n = len(truth.scores)
        own, theirs = (pair_similarities(each) for each in (outputs, truth.reference))
        paired = paired_correlations(own, theirs, truth.scores, seed)
        interval, bounds, p_value = paired.correlation, paired.ratio, paired.p_value
        retention = value / paired.baseline if paired.baseline > 0 else None
        better = value > paired.baseline
        verdict = "no difference" if p_value >= SIGNIFICANCE else "better" if better else "worse"
    if is_baseline:
        retention, bounds, p_value, verdict = 1.0, None, None, None
    shares = recall_shares(outputs[distinct], truth.reference[distinct])
    metrics = (
        metric_record(task.metric, interval, n),
        metric_record(RECALL, mean_interval(shares, seed), len(shares)),
    )
    return Accuracy(
        split=SPLIT,
        batch_size=batch_size,
        metrics=metrics,
        retention=retention,
        p_value=p_value,
        verdict=verdict,
        predictions=(),
        truth=(),
        unknown_token_share=unknown_token_share,
        against="baseline" if truth.scores is None else "scores",
        retention_low=None if bounds is None else bounds.low,
        retention_high=None if bounds is None else bounds.high,
        examples=examples,
    )


def _interval(
    outputs: NDArray[np.float32], reference: NDArray[np.float32], value: float, seed: int
) -> Interval:
    """The interval of the correlation over texts, from as many pairs as a bootstrap can rank again and again."""
    own, theirs = (similarities(each, INTERVAL_PAIRS) for each in (outputs, reference))
    return spearman_interval(value, own, theirs, compared_pairs(len(outputs), INTERVAL_PAIRS), seed)
