"""Losses as pure functions of tensors; each is a float32 scalar, the mean over its examples."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from compress.data.splits import UNLABELLED


def logits_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergence from the teacher's softened probabilities to the student's, times T^2.

    `T^2 * mean_n sum_c p_nc (log p_nc - log q_nc)` with `p = softmax(teacher / T)` and
    `q = softmax(student / T)`: never negative, 0 where the two softmaxes agree. T^2 keeps the size of the
    gradients the same for every T.
    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015 (arXiv:1503.02531).

    Args:
        student: logits (n, classes), any float type.
        teacher: logits (n, classes); no gradient reaches them.
        temperature: T > 0.
    """
    goal = functional.log_softmax(teacher.detach().float() / temperature, dim=-1)
    guess = functional.log_softmax(student.float() / temperature, dim=-1)
    return functional.kl_div(guess, goal, reduction="batchmean", log_target=True) * temperature**2


def label_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with the true labels, the mean over the labelled examples; 0 where there is none.

    Label smoothing: Szegedy et al., Rethinking the Inception Architecture, 2016 (arXiv:1512.00567).

    Args:
        logits: (n, classes), any float type.
        labels: int64 (n,); `UNLABELLED` takes no part.
        smoothing: share of the probability that is spread over all classes, in [0, 1).
    """
    total = functional.cross_entropy(
        logits.float(), labels, ignore_index=UNLABELLED, label_smoothing=smoothing, reduction="sum"
    )
    return total / (labels != UNLABELLED).sum().clamp(min=1).to(torch.float32)
