"""From a model's outputs to its scores, with intervals and the paired test against the baseline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from compress.core.records import Accuracy, Metric, Verdict
from compress.measure.protocol import SIGNIFICANCE
from compress.measure.statistics import Interval, macro_f1_interval, mcnemar_exact, wilson
from compress.tasks.base import Task, Truth

SPLIT = "test"
_DECIMALS = 4
_SUM_TOLERANCE = 1e-3


def accuracy_record(
    task: Task,
    outputs: NDArray[np.float32],
    truth: NDArray[np.int64],
    baseline: Accuracy | None,
    batch_size: int,
    seed: int,
    unknown_token_share: float | None = None,
) -> Accuracy:
    """Scores of outputs (n, labels) against truth (n,).

    Args:
        baseline: scores of the baseline on the same examples; None: this is the baseline.
        batch_size: what the outputs were computed with.
        seed: of the bootstrap.

    Raises:
        ValueError: the baseline was scored on other examples.
    """
    predictions = task.predictions(outputs)
    score = task.score(outputs, Truth(truth))
    correct = predictions == truth
    metrics = (
        metric_record(score.name, wilson(int(correct.sum()), len(truth)), len(truth)),
        metric_record("macro_f1", macro_f1_interval(predictions, truth, seed), len(truth)),
    )
    if not np.isclose(metrics[0].value, score.value):
        raise ValueError(
            f"{score.name} {score.value} is not the share of right predictions {metrics[0].value}"
        )
    retention: float | None = 1.0
    p_value: float | None = None
    verdict: Verdict | None = None
    if baseline is not None:
        if baseline.truth != tuple(truth.tolist()):
            raise ValueError("the baseline was scored on other examples")
        retention = score.value / baseline.metrics[0].value if baseline.metrics[0].value else None
        p_value, verdict = paired_verdict(predictions, np.asarray(baseline.predictions), truth)
    return Accuracy(
        split=SPLIT,
        batch_size=batch_size,
        metrics=metrics,
        retention=retention,
        p_value=p_value,
        verdict=verdict,
        predictions=tuple(predictions.tolist()),
        truth=tuple(truth.tolist()),
        unknown_token_share=unknown_token_share,
        confidence=tuple(np.round(probabilities(outputs).max(axis=1), _DECIMALS).tolist()),
    )


def probabilities(outputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """Outputs (n, labels) -> float64 probabilities: their softmax, or themselves where they are probabilities already.

    They are where no value is negative and every row sums to 1: a model may end in a Softmax of its own.
    """
    wide = outputs.astype(np.float64)
    if (wide >= 0).all() and np.allclose(wide.sum(axis=1), 1, atol=_SUM_TOLERANCE):
        return wide
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def paired_verdict(
    predictions: NDArray[np.int64] | Sequence[int],
    baseline: NDArray[np.int64] | Sequence[int],
    truth: NDArray[np.int64] | Sequence[int],
) -> tuple[float, Verdict]:
    """p value of the exact McNemar test against the baseline's predictions, and what it says; all (n,)."""
    right, baseline_right = np.equal(predictions, truth), np.equal(baseline, truth)
    won, lost = int((right & ~baseline_right).sum()), int((baseline_right & ~right).sum())
    p_value = mcnemar_exact(won, lost)
    if p_value >= SIGNIFICANCE:
        return p_value, "no difference"
    return p_value, "better" if won > lost else "worse"


def metric_record(name: str, interval: Interval, n: int) -> Metric:
    """A metric with its interval, over n examples."""
    return Metric(name=name, value=interval.value, low=interval.low, high=interval.high, n=n)
