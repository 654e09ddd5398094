"""The true labels as a goal."""

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
    """Cross-entropy with the true labels, the mean over the labelled examples; 0 where there is none.

    Label smoothing: Szegedy et al., Rethinking the Inception Architecture, 2016 (arXiv:1512.00567).

    Args:
        logits: (n, classes), any float type.
        labels: int64 (n,); `UNLABELLED` takes no part.
        smoothing: share of the probability that is spread over all classes, in [0, 1).
        weights: of the classes, float32 (classes,); the mean stays one over the examples. None: all weigh 1.
    """
    total = functional.cross_entropy(
        logits, labels, weights, ignore_index=UNLABELLED, label_smoothing=smoothing, reduction="sum"
    )
    return total / (labels != UNLABELLED).sum().clamp(min=1).to(torch.float32)


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Weights by which each class weighs the same in all, float32 (classes,): n / (classes that occur * its examples).

    As scikit-learn's `class_weight="balanced"` (King and Zeng 2001). Classes that do not occur weigh 1.

    Args:
        labels: int64 (n,); `UNLABELLED` does not count.
    """
    counts = torch.bincount(labels[labels != UNLABELLED], minlength=classes).to(torch.float32)
    return torch.where(counts > 0, counts.sum() / (counts > 0).sum() / counts.clamp(min=1), 1.0)
