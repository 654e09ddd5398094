"""The loss of one batch: what the student computed, compared with what its teacher says."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.data.splits import UNLABELLED
from compress.encoding.inputs import WRITTEN
from compress.encoding.tokens import ATTENTION_MASK
from compress.training.loop import Loss
from compress.training.losses.labels import label_cross_entropy
from compress.training.losses.logits import divergence
from compress.training.objective.training_module import TrainingModule
from compress.training.signals.answers import Answers


def batch_loss(
    module: TrainingModule,
    answers: Answers,
    labels: NDArray[np.int64],
    *,
    chosen: NDArray[np.int64] | None = None,
    mutual: float | None = None,
) -> Loss:
    """The objective of a training module on the batch that it has just run on.

    Args:
        module: has just run on the batch.
        answers: who teaches.
        labels: int64 (n,) of all examples, `UNLABELLED` where only the teacher labels.
        chosen: the examples that the indices of a batch count, int64 (m,); None: all. What the student wrote is none
            of them.
        mutual: factor of the teacher's own divergence from the student, for a teacher that learns too; its loss is
            added to the student's.
    """

    every = torch.from_numpy(np.ascontiguousarray(labels))

    def loss(outputs: Tensor, batch: dict[str, Tensor], indices: Tensor) -> Tensor:
        shown, student = module.seen, module.take()
        numbers = indices.numpy() if chosen is None or WRITTEN in shown else chosen[indices.numpy()]
        known = module.labels_hold and WRITTEN not in shown
        own = every[torch.from_numpy(numbers)] if known else torch.full((len(numbers),), UNLABELLED)
        own = own.to(outputs.device)
        teacher = answers(numbers, shown)
        value: Tensor = module.objective(student, teacher, own, shown.get(ATTENTION_MASK), shown)
        if mutual is not None:
            value = value + mutual_loss(teacher["outputs"], outputs, own, mutual)
        return value

    return loss


def mutual_loss(teacher: Tensor, student: Tensor, labels: Tensor, weight: float) -> Tensor:
    """What a teacher learns while it teaches: its labels, and the student's answers.

    Zhang et al.: Deep Mutual Learning, 2018 (arXiv:1706.00384).

    Args:
        teacher: logits (n, classes); student: logits (n, classes), no gradient reaches them.
        labels: int64 (n,), `UNLABELLED` where there is none.
        weight: factor of the divergence.
    """
    return label_cross_entropy(teacher, labels) + weight * divergence(teacher, student, 1.0)
