"""Term of `output`: the outputs as vectors."""

from __future__ import annotations

from torch import Tensor

from compress.losses.output.spec import OutputLoss
from compress.training.loss_functions.output import output_cosine, output_mse
from compress.training.objective.terms import LossInputs, ModelPair, Term, projection, rows_of


class OutputTerm(Term):
    """Distance of the outputs as vectors; the student's are projected if widths differ."""

    def __init__(self, spec: OutputLoss, models: ModelPair) -> None:
        super().__init__({"outputs.teacher"}, {"outputs"})
        self.distance = output_mse if spec.distance == "mse" else output_cosine
        self.by_token = models.student.by_token
        self.projection = projection(models.student.num_outputs, models.teacher.num_outputs, models.generator)

    def forward(self, seen: LossInputs) -> Tensor:
        """Return the loss of one batch."""
        student = self.projection(rows_of(seen.student["outputs.teacher"].float(), seen.output_mask))
        return self.distance(student, rows_of(seen.teacher["outputs"], seen.output_mask))

    def counts(self, seen: LossInputs) -> Tensor:
        """Count rows of outputs."""
        return seen.tokens if self.by_token else seen.examples
