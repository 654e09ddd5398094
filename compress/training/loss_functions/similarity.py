"""Losses on relations between the examples of a batch; widths of the two models may differ."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from compress.training.loss_functions.precision import in_float32
from compress.training.loss_functions.vectors import TINY, masked_mean, unit


@in_float32
def distance_relation(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss of the distances between two examples, averaged over all pairs; 0 for a single example.

    The distances of each model are divided by their mean, so that scale does not matter.
    Park et al., Relational Knowledge Distillation, 2019 (arXiv:1904.05068), "RKD-D".

    Args:
        student: (n, d), any float type. teacher: (n, d'); no gradient reaches it.
    """
    student_distances, teacher_distances = _relative_distances(student), _relative_distances(teacher.detach())
    return (
        functional.smooth_l1_loss(student_distances, teacher_distances)
        if len(student_distances)
        else student.sum() * 0.0
    )


@in_float32
def angle_relation(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss of the cosines of the angles in triples of examples, averaged over all distinct triples.

    0 for fewer than three examples. Needs memory for n^2 * (n + d) numbers.
    Park et al., Relational Knowledge Distillation, 2019 (arXiv:1904.05068), "RKD-A".

    Args:
        student: (n, d), any float type. teacher: (n, d'); no gradient reaches it.
    """
    distinct = ~torch.eye(len(student), dtype=torch.bool, device=student.device)
    # [j, i, k]: the angle at j between i and k.
    triples = distinct[:, :, None] & distinct[:, None, :] & distinct[None, :, :]
    losses = functional.smooth_l1_loss(_cosines(student), _cosines(teacher.detach()), reduction="none")
    return masked_mean(losses, triples)


@in_float32
def similarity_matrix_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of the two similarity matrices between examples, over their n^2 entries.

    A matrix is `X X^T` with its rows scaled to length 1.
    Tung and Mori, Similarity-Preserving Knowledge Distillation, 2019 (arXiv:1907.09682).

    Args:
        student: (n, d), any float type. teacher: (n, d'); no gradient reaches it.
    """
    student_matrix, teacher_matrix = (unit(rows @ rows.T) for rows in (student, teacher.detach()))
    return (student_matrix - teacher_matrix).square().mean()


@in_float32
def cosine_matrix_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error of the similarity matrices of unit vectors, summed over a row and averaged over the rows.

    Unlike `similarity_matrix_distance`, it does not shrink as the batch grows.

    Args:
        student: (n, d), any length and any float type. teacher: (n, d'); no gradient reaches it.
    """
    return similarity_matrix_distance(unit(student), unit(teacher)) * len(student)


def _relative_distances(rows: Tensor) -> Tensor:
    """Return the Euclidean distances of all pairs divided by their mean: (n, d) -> (n (n - 1) / 2,)."""
    distances = functional.pdist(rows)
    return distances / distances.mean().clamp(min=TINY) if len(distances) else distances


def _cosines(rows: Tensor) -> Tensor:
    """Return the cosine of the angle at row j between rows i and k, at [j, i, k]: (n, d) -> (n, n, n)."""
    directions = unit(rows[None, :, :] - rows[:, None, :])
    return directions @ directions.transpose(1, 2)
