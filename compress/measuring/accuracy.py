"""Scores of classifiers, with confidence intervals and the paired test against the baseline."""

from __future__ import annotations

import numpy as np

from compress.core.records import Accuracy, Metric, Verdict
from compress.core.task_kind import ACCURACY, MACRO_F1, MetricKind
from compress.measuring.statistics import Interval, macro_f1_interval, paired_verdict, wilson_interval
from compress.tasks.base import Scored, Truth
from compress.tasks.labels import confidence

SPLIT = "test"
_CONFIDENCE_DECIMALS = 4


def accuracy_record(scored: Scored) -> Accuracy:
    """Compute the scores of a model that predicts one label per example.

    Raises:
        ModelError: an output is not a finite number.
        ValueError: the baseline was scored on different examples.
    """
    predictions, truth, baseline = scored.answers["label"], scored.examples.labels, scored.baseline
    score = scored.task.score(scored.answers, Truth.of(scored.examples))
    correct = predictions == truth
    metrics = (
        metric_record(ACCURACY, wilson_interval(int(correct.sum()), len(truth)), len(truth)),
        metric_record(MACRO_F1, macro_f1_interval(predictions, truth, scored.seed), len(truth)),
    )
    retention: float | None = 1.0
    p_value: float | None = None
    verdict: Verdict | None = None
    if baseline is not None:
        if baseline.truth != tuple(truth.tolist()):
            raise ValueError("the baseline was scored on other examples")
        retention = ACCURACY.retention(score.value, baseline.metrics[0].value)
        baseline_correct = np.asarray(baseline.predictions) == truth
        p_value, verdict = paired_verdict(
            int((baseline_correct & ~correct).sum()), int((correct & ~baseline_correct).sum())
        )
    return Accuracy(
        split=SPLIT,
        batch_size=scored.batch_size,
        metrics=metrics,
        retention=retention,
        p_value=p_value,
        verdict=verdict,
        predictions=tuple(predictions.tolist()),
        truth=tuple(truth.tolist()),
        unknown_token_share=scored.unknown_token_share,
        examples=scored.digest,
        confidence=tuple(np.round(confidence(scored.answers), _CONFIDENCE_DECIMALS).tolist()),
    )


def metric_record(kind: MetricKind, interval: Interval, n: int) -> Metric:
    """Build the record of a metric with its interval over n examples."""
    return Metric(
        name=kind.name,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        n=n,
        smaller_is_better=kind.smaller_is_better,
    )
