"""Losses between hidden states, embeddings and feature maps: one vector per position."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from compress.training.loss_functions.precision import in_float32
from compress.training.loss_functions.vectors import masked_mean, unit


@in_float32
def hidden_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of hidden states over real tokens and dimensions.

    Romero et al., FitNets, 2015 (arXiv:1412.6550); Jiao et al., TinyBERT, 2020 (arXiv:1909.10351).

    Args:
        student, teacher: (n, t, d), any float type; no gradient reaches the teacher's.
        mask: bool (n, t), true for real tokens; None: all are.
    """
    squares = (student - teacher.detach()).square()
    return masked_mean(squares, None if mask is None else mask[..., None])


@in_float32
def hidden_cosine(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """1 - cosine of hidden states, averaged over real tokens: compares directions only.

    Sanh et al., DistilBERT, 2019 (arXiv:1910.01108).

    Args:
        student, teacher: (n, t, d), any float type; no gradient reaches the teacher's.
        mask: bool (n, t), true for real tokens; None: all are.
    """
    return masked_mean(1 - (unit(student) * unit(teacher.detach())).sum(-1), mask)


DISTANCES = {"mse": hidden_mse, "cosine": hidden_cosine}
"""Distances by their names in profiles."""


def map_tokens(feature: Tensor, height: int, width: int) -> Tensor:
    """Flatten a feature map to one vector per position, pooled down: (n, c, h, w) -> (n, height * width, c)."""
    if feature.shape[2:] != (height, width):
        feature = functional.adaptive_avg_pool2d(feature, (height, width))
    return feature.flatten(2).transpose(1, 2)
