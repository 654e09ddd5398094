"""The term of `labels`: the true labels."""

from __future__ import annotations

from torch import Tensor

from compress.data.splits import UNLABELLED
from compress.losses.labels.spec import LabelsLoss
from compress.training.loss_functions.labels import label_cross_entropy
from compress.training.objective.terms import Models, Seen, Term


class LabelsTerm(Term):
    """The true labels; where the student has a class head and a distillation head, the class head learns them."""

    def __init__(self, spec: LabelsLoss, models: Models) -> None:
        super().__init__({"outputs.labels"})
        self.smoothing = spec.smoothing

    def forward(self, seen: Seen) -> Tensor:
        """The loss of one batch."""
        return label_cross_entropy(seen.student["outputs.labels"], seen.labels, self.smoothing)

    def counts(self, seen: Seen) -> Tensor:
        """Labelled examples."""
        return (seen.labels != UNLABELLED).sum()
