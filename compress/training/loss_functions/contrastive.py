"""Contrast between representations as a goal."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.training.loss_functions.precision import in_float32
from compress.training.loss_functions.vectors import unit


@in_float32
def info_nce(student: Tensor, teacher: Tensor, negative: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding the teacher's representation of the same example, the mean over the examples.

    `-log(exp(s_i t_i / T) / sum_k exp(s_i t_k / T))` over k = i and the negatives of i, with unit vectors.
    Tian, Krishnan, Isola: Contrastive Representation Distillation, 2020 (arXiv:1910.10699), whose memory of
    negatives it takes; the estimator is that of van den Oord et al., 2018 (arXiv:1807.03748), which needs no count
    of the examples.

    Args:
        student: (n, d), any length and any float type.
        teacher: (m, d), m >= n; row i < n stands for the example of student row i. Gradients reach it: a learned
            projection stands behind it.
        negative: bool (n, m), true where row k of `teacher` is another example than student row i.
        temperature: T > 0, divides the cosines.
    """
    cosines = unit(student) @ unit(teacher).T / temperature
    own = torch.eye(*cosines.shape, dtype=torch.bool, device=cosines.device)
    counted = cosines.masked_fill(~(own | negative), -torch.inf)
    return (counted.logsumexp(1) - cosines.diagonal()).mean()


@in_float32
def differ(first: Tensor, second: Tensor) -> Tensor:
    """Which rows are representations of different examples: bool (n, m).

    A frozen teacher represents equal inputs equally, so a cosine above 0.9999 means the same example (or one that the
    teacher cannot tell from it).

    Args:
        first: (n, d). second: (m, d).
    """
    return unit(first) @ unit(second).T < 0.9999
