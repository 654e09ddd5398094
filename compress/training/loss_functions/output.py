"""Losses on model outputs compared as vectors, for sentence embeddings."""

from __future__ import annotations

from torch import Tensor

from compress.training.loss_functions.precision import in_float32
from compress.training.loss_functions.vectors import unit


@in_float32
def output_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of two outputs over examples and dimensions.

    Reimers and Gurevych, Making Monolingual Sentence Embeddings Multilingual, 2020 (arXiv:2004.09813).

    Args:
        student, teacher: (n, d), any float type; no gradient reaches the teacher's.
    """
    return (student - teacher.detach()).square().mean()


@in_float32
def output_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine of two outputs, averaged over the examples; for uses that depend only on directions.

    Args:
        student, teacher: (n, d), any float type; no gradient reaches the teacher's.
    """
    return (1 - (unit(student) * unit(teacher.detach())).sum(-1)).mean()
