"""Contrastive loss between representations."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.training.loss_functions.precision import in_float32
from compress.training.loss_functions.vectors import unit


@in_float32
def info_nce(student: Tensor, teacher: Tensor, negative: Tensor, temperature: float) -> Tensor:
    """InfoNCE: cross-entropy of identifying the teacher's representation of the same example, the mean over examples.

    `-log(exp(s_i t_i / T) / sum_k exp(s_i t_k / T))` over k = i and the negatives of i, with unit vectors.
    Tian, Krishnan, Isola: Contrastive Representation Distillation, 2020 (arXiv:1910.10699), for the memory of
    negatives; the estimator is that of van den Oord et al., 2018 (arXiv:1807.03748), which does not depend on the
    number of examples.

    Args:
        student: (n, d), any length and any float type.
        teacher: (m, d), m >= n; row i < n belongs to the example of student row i. Gradients reach it, for the
            learned projection that produced it.
        negative: bool (n, m), true where row k of `teacher` is a different example than student row i.
        temperature: T > 0, divides the cosines.
    """
    cosines = unit(student) @ unit(teacher).T / temperature
    positive = torch.eye(*cosines.shape, dtype=torch.bool, device=cosines.device)
    candidates = cosines.masked_fill(~(positive | negative), -torch.inf)
    return (candidates.logsumexp(1) - cosines.diagonal()).mean()


@in_float32
def different_examples(first: Tensor, second: Tensor) -> Tensor:
    """Return which rows represent different examples: bool (n, m).

    A frozen teacher maps equal inputs to equal representations, so a cosine above 0.9999 means the same example
    (or one that the teacher cannot distinguish from it).

    Args:
        first: (n, d). second: (m, d).
    """
    return unit(first) @ unit(second).T < 0.9999
