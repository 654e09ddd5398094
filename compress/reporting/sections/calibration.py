"""Whether a classifier is as sure as it is right."""

from __future__ import annotations

import math
from collections.abc import Sequence

from compress.core.records import Accuracy
from compress.reporting.data.paired import hits_of

BINS = 15


def calibration_error(confidence: Sequence[float], hits: Sequence[bool], bins: int = BINS) -> float:
    """The expected calibration error: Guo et al. (2017), "On Calibration of Modern Neural Networks", eq. 3.

    The examples are sorted by the probability of their prediction into `bins` intervals of equal width, each without
    its lower and with its upper end. The error is the mean over the examples of the difference between the share of
    right predictions in their bin and the mean probability there.

    Args:
        confidence: the probability of each prediction (n,), 0..1.
        hits: whether it is right (n,).

    Raises:
        ValueError: the series differ in length, are empty, or a probability is none.
    """
    if len(confidence) != len(hits) or not hits:
        raise ValueError(f"{len(confidence)} probabilities of {len(hits)} predictions")
    if not all(0 <= one <= 1 for one in confidence):
        raise ValueError("a probability lies outside 0..1")
    gaps = [0.0] * bins
    for one, hit in zip(confidence, hits, strict=True):
        gaps[max(0, math.ceil(one * bins) - 1)] += hit - one
    return sum(abs(gap) for gap in gaps) / len(hits)


def error_of(accuracy: Accuracy | None) -> float | None:
    """The calibration error of recorded predictions; None where their probabilities were not recorded."""
    hits = None if accuracy is None else hits_of(accuracy)
    if accuracy is None or not hits or len(accuracy.confidence) != len(hits):
        return None
    # Records of before may hold a probability that rounding left above 1.
    return calibration_error([min(one, 1.0) for one in accuracy.confidence], hits)
