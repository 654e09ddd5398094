"""Check that a baseline is better than chance; otherwise comparisons with it are meaningless."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compress.core.records import Accuracy, StepRecord
from compress.measuring.protocol import SIGNIFICANCE

VALIDATION_FACT = "validation_against_most_frequent"
"""Fact in which fine-tuning records the comparison on the validation split: `gained` and `lost`."""


@dataclass(frozen=True)
class PairedComparison:
    """Paired comparison of a model with always predicting the most frequent label.

    `gained`: number of examples that only the model predicts correctly; `lost`: only the constant prediction.
    """

    gained: int
    lost: int

    def __add__(self, other: PairedComparison) -> PairedComparison:
        return PairedComparison(self.gained + other.gained, self.lost + other.lost)

    @property
    def p_value(self) -> float:
        """One-sided p value of the exact McNemar test: the probability of at least this gain by chance."""
        n = self.gained + self.lost
        # Integer arithmetic, since the powers overflow floats for n > 1023.
        ways = sum(math.comb(n, k) for k in range(self.gained, n + 1))
        return float(ways * 10**18 // 2**n) / 10**18

    def as_fact(self) -> dict[str, int]:
        """Return the comparison as JSON values."""
        return {"gained": self.gained, "lost": self.lost}


def most_frequent_label(truth: Sequence[int]) -> int:
    """Return the most frequent label, the smallest in case of a tie; `truth` must not be empty."""
    counts = Counter(truth)
    return min(counts, key=lambda label: (-counts[label], label))


def compare_with_most_frequent(predictions: Sequence[int], truth: Sequence[int]) -> PairedComparison:
    """Compare predictions (n,) with the most frequent label of the same examples (n,)."""
    if not truth:
        return PairedComparison(0, 0)
    constant = most_frequent_label(truth)
    pairs = list(zip(predictions, truth, strict=True))
    return PairedComparison(
        sum(given == true != constant for given, true in pairs),
        sum(given != true == constant for given, true in pairs),
    )


def no_better_than_chance(baseline: StepRecord | None, labels: Sequence[str] = ()) -> str | None:
    """Explain why a measured baseline is no better than chance; None if it is better or this cannot be decided.

    Classifiers are compared with the most frequent label, on the test split and, if they were fine-tuned here, also on
    the validation split; embeddings that are scored against given similarities with a correlation of zero.

    Args:
        baseline: record of the baseline step.
        labels: the names of the label indices.
    """
    if baseline is None or not baseline.measurements:
        return None
    accuracy = baseline.measurements[0].accuracy
    if accuracy.against == "scores":
        return _correlation_fault(accuracy)
    if accuracy.against != "labels" or not accuracy.truth:
        return None
    on_test = compare_with_most_frequent(accuracy.predictions, accuracy.truth)
    pooled = on_test + _validation_comparison(baseline.facts)
    if pooled.p_value < SIGNIFICANCE:
        return None
    constant, n = most_frequent_label(accuracy.truth), len(accuracy.truth)
    num_correct = sum(given == true for given, true in zip(accuracy.predictions, accuracy.truth, strict=True))
    name = repr(labels[constant]) if constant < len(labels) else "the most frequent label"
    example_words = "test examples" if pooled == on_test else "test examples (and is no better on validation)"
    return (
        f"The baseline is no better than always answering {name}: it gets {num_correct} of {n} "
        f"{example_words} right, that answer "
        f"gets {accuracy.truth.count(constant)} (exact test, p = {pooled.p_value:.2g})"
    )


def _validation_comparison(facts: dict[str, Any]) -> PairedComparison:
    fact = facts.get(VALIDATION_FACT)
    return (
        PairedComparison(int(fact["gained"]), int(fact["lost"]))
        if isinstance(fact, dict)
        else PairedComparison(0, 0)
    )


def _correlation_fault(accuracy: Accuracy) -> str | None:
    metric = accuracy.metrics[0]
    if metric.low > 0:
        return None
    return (
        f"The baseline is no better than chance: its {metric.name} correlation with the given scores is "
        f"{metric.value:.3f}, with a 95 % interval of {metric.low:.3f} to {metric.high:.3f}"
    )
