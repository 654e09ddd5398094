"""How classifications are scored: what text-classification and its siblings share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ModelError
from compress.data.splits import UNLABELLED


@dataclass(frozen=True)
class ClassScore:
    """One class: precision, recall and F1 are fractions, 0 where undefined; `support` counts its truth."""

    precision: float
    recall: float
    f1: float
    support: int


def predicted_classes(outputs: NDArray[np.float32]) -> NDArray[np.int64]:
    """Outputs (n, labels) -> the index of the highest one (n,).

    Raises:
        ModelError: an output is not a finite number, so no class is the highest.
    """
    if not np.isfinite(outputs).all():
        raise ModelError("the model's outputs are not finite numbers", hint="Did its training diverge?")
    return np.asarray(outputs.argmax(axis=1), np.int64)


def accuracy(predicted: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Share of the labelled examples whose prediction is right; both int64 (n,).

    Raises:
        ValueError: the shapes differ, or no example has a label.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"predictions of shape {predicted.shape} against truth of shape {truth.shape}")
    labelled = truth != UNLABELLED
    if not labelled.any():
        raise ValueError("no example has a label")
    return float((predicted[labelled] == truth[labelled]).mean())


def confusion(predicted: NDArray[np.int64], truth: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Counts (classes, classes): row = truth, column = prediction; unlabelled examples are left out."""
    labelled = truth != UNLABELLED
    cells = truth[labelled] * classes + predicted[labelled]
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def class_scores(
    predicted: NDArray[np.int64], truth: NDArray[np.int64], classes: int
) -> tuple[ClassScore, ...]:
    """Precision, recall and F1 of each class, in the order of the label indices."""
    counts = confusion(predicted, truth, classes)
    hits = counts.diagonal().astype(float)
    support, guesses = counts.sum(axis=1), counts.sum(axis=0)
    precision = hits / np.maximum(guesses, 1)
    recall = hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(support + guesses, 1)
    columns = zip(precision.tolist(), recall.tolist(), f1.tolist(), support.tolist(), strict=True)
    return tuple(ClassScore(*column) for column in columns)


def macro_f1(predicted: NDArray[np.int64], truth: NDArray[np.int64], classes: int) -> float:
    """Mean F1 over the classes that occur, in the truth or in the predictions."""
    scores = class_scores(predicted, truth, classes)
    counts = confusion(predicted, truth, classes)
    occurs = (counts.sum(axis=0) + counts.sum(axis=1)) > 0
    return float(np.mean([score.f1 for score, there in zip(scores, occurs, strict=True) if there]))
