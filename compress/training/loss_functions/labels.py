"""Losses on ground-truth labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from compress.data.splits import UNLABELLED
from compress.training.loss_functions.precision import in_float32


@in_float32
def label_cross_entropy(
    logits: Tensor, labels: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy with the true labels, averaged over the labelled examples; 0 if there are none.

    Label smoothing: Szegedy et al., Rethinking the Inception Architecture, 2016 (arXiv:1512.00567).

    Args:
        logits: (n, classes), any float type.
        labels: int64 (n,); `UNLABELLED` is ignored.
        smoothing: share of the probability that is spread over all classes, in [0, 1).
        weights: class weights, float32 (classes,); the sum is still divided by the number of examples. None: all 1.
    """
    total = functional.cross_entropy(
        logits, labels, weights, ignore_index=UNLABELLED, label_smoothing=smoothing, reduction="sum"
    )
    return total / (labels != UNLABELLED).sum().clamp(min=1).to(torch.float32)


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Return class weights that give each class the same total weight, float32 (classes,).

    n / (number of classes that occur * number of the class's examples).

    As scikit-learn's `class_weight="balanced"` (King and Zeng 2001). Classes that do not occur get 1.

    Args:
        labels: int64 (n,); `UNLABELLED` is ignored.
    """
    counts = torch.bincount(labels[labels != UNLABELLED], minlength=classes).to(torch.float32)
    return torch.where(counts > 0, counts.sum() / (counts > 0).sum() / counts.clamp(min=1), 1.0)
