"""The loss of one batch: the student's signals compared with the teacher's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.data.splits import UNLABELLED
from compress.encoding.inputs import SELF_GENERATED
from compress.encoding.tokens import ATTENTION_MASK
from compress.training.loss_functions.labels import label_cross_entropy
from compress.training.loss_functions.logits import divergence
from compress.training.objective.means import SumOfMeans
from compress.training.objective.training_module import TrainingModule
from compress.training.signals.answers import SignalSource


def batch_loss(
    module: TrainingModule,
    signal_source: SignalSource,
    labels: NDArray[np.int64],
    *,
    example_indices: NDArray[np.int64] | None = None,
    mutual_weight: float | None = None,
) -> SumOfMeans:
    """Return the objective of a training module as a loss of the batch that it has just run on.

    Args:
        module: has just run on the batch.
        signal_source: source of the teacher's signals.
        labels: int64 (n,) of all examples, `UNLABELLED` where only the teacher labels.
        example_indices: int64 (m,), maps the indices of a batch to examples; None: they are example indices. Does not
            apply to on-policy batches.
        mutual_weight: weight of the teacher's divergence from the student, for a teacher that is trained too (mutual
            learning);
            its loss is added to the student's.
    """
    return _BatchLoss(
        module, signal_source, torch.from_numpy(np.ascontiguousarray(labels)), example_indices, mutual_weight
    )


@dataclass(frozen=True)
class _BatchLoss(SumOfMeans):
    """The means of the objective, followed by the two means of `mutual_loss`."""

    module: TrainingModule
    signal_source: SignalSource
    labels: Tensor
    example_indices: NDArray[np.int64] | None
    mutual_weight: float | None

    def counts(self, batch: dict[str, Tensor], indices: Tensor) -> Tensor:
        """Return the number of items in each mean; labels are counted even if augmentation later invalidates them."""
        objective, examples = self.module.objective, self._examples_of(batch, indices)
        labels = self._labels_of(batch, examples, valid=True)
        teacher = {} if objective.trusted is None else self.signal_source(examples, batch)
        totals = objective.counts(teacher, labels, batch.get(ATTENTION_MASK), batch)
        if self.mutual_weight is None:
            return totals
        return torch.cat([totals, torch.tensor([int((labels != UNLABELLED).sum()), len(labels)])])

    def __call__(
        self, outputs: Tensor, batch: dict[str, Tensor], indices: Tensor, factors: Tensor | None = None
    ) -> Tensor:
        """Return the loss of the batch that the module has just run on."""
        augmented, student = self.module.last_batch, self.module.take()
        examples = self._examples_of(augmented, indices)
        labels = self._labels_of(augmented, examples, valid=self.module.labels_valid).to(outputs.device)
        teacher = self.signal_source(examples, augmented)
        mask, objective_factors = augmented.get(ATTENTION_MASK), factors
        if self.mutual_weight is not None and factors is not None:
            objective_factors = factors[:-2]
        loss: Tensor = self.module.objective(student, teacher, labels, mask, augmented, objective_factors)
        if self.mutual_weight is not None:
            mutual_factors = None if factors is None else factors[-2:]
            loss = loss + mutual_loss(teacher["outputs"], outputs, labels, self.mutual_weight, mutual_factors)
        return loss

    def _examples_of(self, batch: dict[str, Tensor], indices: Tensor) -> NDArray[np.int64]:
        """Return the example indices of a batch."""
        batch_indices = indices.numpy()
        return (
            batch_indices
            if self.example_indices is None or SELF_GENERATED in batch
            else self.example_indices[batch_indices]
        )

    def _labels_of(self, batch: dict[str, Tensor], examples: NDArray[np.int64], *, valid: bool) -> Tensor:
        """Return the labels of these examples, `UNLABELLED` where they do not hold."""
        if valid and SELF_GENERATED not in batch:
            return self.labels[torch.from_numpy(examples)]
        return torch.full((len(examples),), UNLABELLED)


def mutual_loss(
    teacher: Tensor, student: Tensor, labels: Tensor, weight: float, factors: Tensor | None = None
) -> Tensor:
    """Return the loss of a teacher in mutual learning: cross-entropy with its labels and divergence from the student.

    Zhang et al.: Deep Mutual Learning, 2018 (arXiv:1706.00384).

    Args:
        teacher: logits (n, classes); student: logits (n, classes), no gradient reaches them.
        labels: int64 (n,), `UNLABELLED` where there is none.
        weight: factor of the divergence.
        factors: of the mean over labelled examples and of that over all, (2,); None: 1 each.
    """
    means = label_cross_entropy(teacher, labels), divergence(teacher, student, 1.0)
    labelled, overall = means if factors is None else (factors[0] * means[0], factors[1] * means[1])
    return labelled + weight * overall
