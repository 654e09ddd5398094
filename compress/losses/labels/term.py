"""Term of `labels`: the true labels."""

from __future__ import annotations

from torch import Tensor

from compress.data.splits import UNLABELLED
from compress.losses.labels.spec import LabelsLoss
from compress.training.loss_functions.labels import label_cross_entropy
from compress.training.objective.terms import LossInputs, ModelPair, Term


class LabelsTerm(Term):
    """Cross-entropy with the true labels, on the class head of a student with a distillation head."""

    def __init__(self, spec: LabelsLoss, models: ModelPair) -> None:
        super().__init__({"outputs.labels"})
        self.smoothing = spec.smoothing

    def forward(self, seen: LossInputs) -> Tensor:
        """Return the loss of one batch."""
        return label_cross_entropy(seen.student["outputs.labels"], seen.labels, self.smoothing)

    def counts(self, seen: LossInputs) -> Tensor:
        """Count labelled examples."""
        return (seen.labels != UNLABELLED).sum()
