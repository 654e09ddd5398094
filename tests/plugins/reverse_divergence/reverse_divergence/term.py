"""The term of `reverse`."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from compress.training.objective.terms import LossInputs, ModelPair, Term, rows_of
from reverse_divergence.spec import ReverseLoss


class ReverseTerm(Term):
    """KL(student || teacher) along the last axis, the mean over examples, or over the tokens that are there."""

    def __init__(self, spec: ReverseLoss, models: ModelPair) -> None:
        super().__init__({"outputs.teacher"}, {"outputs"})
        self.temperature = spec.temperature

    def forward(self, seen: LossInputs) -> Tensor:
        """The loss of one batch."""
        student, teacher = (
            functional.log_softmax(rows_of(each, seen.mask).float() / self.temperature, dim=-1)
            for each in (seen.student["outputs.teacher"], seen.teacher["outputs"])
        )
        return (student.exp() * (student - teacher)).sum(-1).mean()
