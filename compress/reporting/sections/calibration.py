"""Calibration of a classifier's probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

from compress.core.records import Accuracy
from compress.reporting.data.paired import hits_of

BINS = 15


def calibration_error(confidence: Sequence[float], hits: Sequence[bool], bins: int = BINS) -> float:
    """Return the expected calibration error: Guo et al. (2017), "On Calibration of Modern Neural Networks", eq. 3.

    The examples are grouped by the probability of their prediction into `bins` intervals of equal width, open at the
    lower end and closed at the upper one. The error is the absolute difference between accuracy and mean probability in
    a bin, averaged over the examples.

    Args:
        confidence: the probability of each prediction (n,), 0..1.
        hits: whether each prediction is right (n,).

    Raises:
        ValueError: the lengths differ, there are no examples, or a probability is outside 0..1.
    """
    if len(confidence) != len(hits) or not hits:
        raise ValueError(f"{len(confidence)} probabilities of {len(hits)} predictions")
    if not all(0 <= probability <= 1 for probability in confidence):
        raise ValueError("a probability lies outside 0..1")
    gaps = [0.0] * bins
    for probability, hit in zip(confidence, hits, strict=True):
        gaps[max(0, math.ceil(probability * bins) - 1)] += hit - probability
    return sum(abs(gap) for gap in gaps) / len(hits)


def error_of(accuracy: Accuracy | None) -> float | None:
    """Return the calibration error of recorded predictions; None if their probabilities were not recorded."""
    hits = None if accuracy is None else hits_of(accuracy)
    if accuracy is None or not hits or len(accuracy.confidence) != len(hits):
        return None
    # Old records may contain a probability that rounding raised above 1.
    return calibration_error([min(probability, 1.0) for probability in accuracy.confidence], hits)
