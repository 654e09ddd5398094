"""The loss of one batch: the student's signals compared with the teacher's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.data.splits import UNLABELLED
from compress.encoding.inputs import WRITTEN
from compress.encoding.tokens import ATTENTION_MASK
from compress.training.loss_functions.labels import label_cross_entropy
from compress.training.loss_functions.logits import divergence
from compress.training.objective.means import SumOfMeans
from compress.training.objective.training_module import TrainingModule
from compress.training.signals.answers import SignalSource


def batch_loss(
    module: TrainingModule,
    answers: SignalSource,
    labels: NDArray[np.int64],
    *,
    chosen: NDArray[np.int64] | None = None,
    mutual: float | None = None,
) -> SumOfMeans:
    """Return the objective of a training module as a loss of the batch that it has just run on.

    Args:
        module: has just run on the batch.
        answers: source of the teacher's signals.
        labels: int64 (n,) of all examples, `UNLABELLED` where only the teacher labels.
        chosen: int64 (m,), maps the indices of a batch to examples; None: they are example indices. Does not apply to
            on-policy batches.
        mutual: weight of the teacher's divergence from the student, for a teacher that is trained too (mutual
            learning);
            its loss is added to the student's.
    """
    return _BatchLoss(module, answers, torch.from_numpy(np.ascontiguousarray(labels)), chosen, mutual)


@dataclass(frozen=True)
class _BatchLoss(SumOfMeans):
    """The means of the objective, followed by the two means of `mutual_loss`."""

    module: TrainingModule
    answers: SignalSource
    labels: Tensor
    chosen: NDArray[np.int64] | None
    mutual: float | None

    def counts(self, batch: dict[str, Tensor], indices: Tensor) -> Tensor:
        """Return the number of items in each mean; labels are counted even if augmentation later invalidates them."""
        objective, numbers = self.module.objective, self._numbers(batch, indices)
        own = self._own(batch, numbers, known=True)
        teacher = {} if objective.trusted is None else self.answers(numbers, batch)
        counted = objective.counts(teacher, own, batch.get(ATTENTION_MASK), batch)
        if self.mutual is None:
            return counted
        return torch.cat([counted, torch.tensor([int((own != UNLABELLED).sum()), len(own)])])

    def __call__(
        self, outputs: Tensor, batch: dict[str, Tensor], indices: Tensor, factors: Tensor | None = None
    ) -> Tensor:
        """Return the loss of the batch that the module has just run on."""
        shown, student = self.module.seen, self.module.take()
        numbers = self._numbers(shown, indices)
        own = self._own(shown, numbers, known=self.module.labels_hold).to(outputs.device)
        teacher = self.answers(numbers, shown)
        mask, own_factors = shown.get(ATTENTION_MASK), factors
        if self.mutual is not None and factors is not None:
            own_factors = factors[:-2]
        value: Tensor = self.module.objective(student, teacher, own, mask, shown, own_factors)
        if self.mutual is not None:
            last = None if factors is None else factors[-2:]
            value = value + mutual_loss(teacher["outputs"], outputs, own, self.mutual, last)
        return value

    def _numbers(self, shown: dict[str, Tensor], indices: Tensor) -> NDArray[np.int64]:
        """Return the example indices of a batch."""
        mine = indices.numpy()
        return mine if self.chosen is None or WRITTEN in shown else self.chosen[mine]

    def _own(self, shown: dict[str, Tensor], numbers: NDArray[np.int64], *, known: bool) -> Tensor:
        """Return the labels of these examples, `UNLABELLED` where they do not hold."""
        if known and WRITTEN not in shown:
            return self.labels[torch.from_numpy(numbers)]
        return torch.full((len(numbers),), UNLABELLED)


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
    labelled, every = means if factors is None else (factors[0] * means[0], factors[1] * means[1])
    return labelled + weight * every
