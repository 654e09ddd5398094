"""The true labels as a goal."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from compress.data.splits import UNLABELLED
from compress.training.losses.precision import in_float32


@in_float32
def label_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with the true labels, the mean over the labelled examples; 0 where there is none.

    Label smoothing: Szegedy et al., Rethinking the Inception Architecture, 2016 (arXiv:1512.00567).

    Args:
        logits: (n, classes), any float type.
        labels: int64 (n,); `UNLABELLED` takes no part.
        smoothing: share of the probability that is spread over all classes, in [0, 1).
    """
    total = functional.cross_entropy(
        logits, labels, ignore_index=UNLABELLED, label_smoothing=smoothing, reduction="sum"
    )
    return total / (labels != UNLABELLED).sum().clamp(min=1).to(torch.float32)
