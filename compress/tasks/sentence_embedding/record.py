"""Compute the scores of embeddings, with intervals, against given scores or the baseline's similarities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compress.core.records import Accuracy, Verdict
from compress.data.splits import Examples, item_content
from compress.measuring.accuracy import SPLIT, metric_record
from compress.measuring.protocol import MAX_INTERVAL_PAIRS, RANK_TOLERANCE, SIGNIFICANCE
from compress.measuring.statistics import Interval, mean_interval
from compress.tasks.base import Scored, Truth
from compress.tasks.sentence_embedding.correlation import paired_correlations, spearman_interval
from compress.tasks.sentence_embedding.kind import CORRELATION, RECALL
from compress.tasks.sentence_embedding.similarity import (
    compared_pairs,
    pair_similarities,
    recall_shares,
    similarities,
)


def embedding_record(scored: Scored) -> Accuracy:
    """Compute the task's correlation, and the recall of the baseline's ten nearest neighbours.

    Raises:
        ValueError: there is no reference.
    """
    if scored.reference is None:
        raise ValueError("the baseline's embeddings are missing")
    outputs, reference, seed = scored.answers["vector"], scored.reference["vector"], scored.seed
    is_baseline, distinct = scored.baseline is None, _distinct(scored.examples)
    truth = Truth.of(scored.examples, reference)
    value = scored.task.score(scored.answers, truth).value
    p_value: float | None = None
    verdict: Verdict | None
    retention: float | None
    bounds: Interval | None
    if truth.scores is None:
        n = len(outputs)
        interval = _interval(outputs, reference, value, seed)
        retention, bounds = value, interval
        verdict = "worse" if interval.high < 1 - RANK_TOLERANCE else "no difference"
    else:
        n = len(truth.scores)
        model_similarities, reference_similarities = (
            pair_similarities(vectors) for vectors in (outputs, reference)
        )
        paired = paired_correlations(model_similarities, reference_similarities, truth.scores, seed)
        interval, bounds, p_value = paired.correlation, paired.ratio, paired.p_value
        retention = value / paired.baseline if paired.baseline > 0 else None
        better = value > paired.baseline
        verdict = "no difference" if p_value >= SIGNIFICANCE else "better" if better else "worse"
    if is_baseline:
        retention, bounds, p_value, verdict = 1.0, None, None, None
    shares = recall_shares(outputs[distinct], reference[distinct])
    metrics = (
        metric_record(CORRELATION, interval, n),
        metric_record(RECALL, mean_interval(shares, seed), len(shares)),
    )
    return Accuracy(
        split=SPLIT,
        batch_size=scored.batch_size,
        metrics=metrics,
        retention=retention,
        p_value=p_value,
        verdict=verdict,
        predictions=(),
        truth=(),
        unknown_token_share=scored.unknown_token_share,
        against="baseline" if truth.scores is None else "scores",
        retention_low=None if bounds is None else bounds.low,
        retention_high=None if bounds is None else bounds.high,
        examples=scored.digest,
    )


def _interval(
    outputs: NDArray[np.float32], reference: NDArray[np.float32], value: float, seed: int
) -> Interval:
    """Return the bootstrap interval of the correlation over texts, from a limited number of pairs."""
    model_similarities, reference_similarities = (
        similarities(vectors, MAX_INTERVAL_PAIRS) for vectors in (outputs, reference)
    )
    return spearman_interval(
        value,
        model_similarities,
        reference_similarities,
        compared_pairs(len(outputs), MAX_INTERVAL_PAIRS),
        seed,
    )


def _distinct(examples: Examples) -> NDArray[np.int64]:
    """Return one index of each distinct text, in order: in pairs, a text may occur several times."""
    first: dict[bytes, int] = {}
    for index, item in enumerate(examples.items):
        first.setdefault(item_content(item), index)
    return np.fromiter(first.values(), np.int64, len(first))
