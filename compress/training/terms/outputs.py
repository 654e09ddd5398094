"""Terms that compare what the models put out."""

from __future__ import annotations

from torch import Tensor

from compress.profile.loss_specs import LabelsLoss, LogitsLoss, OutputLoss
from compress.training.losses.labels import label_cross_entropy
from compress.training.losses.logits import hard_label_cross_entropy, logits_kl
from compress.training.losses.output import output_cosine, output_mse
from compress.training.losses.vectors import standardized
from compress.training.terms.base import Models, Seen, Term, projection, refuse


class LogitsTerm(Term):
    """The teacher's predictions; where the student has a distillation head, that head learns them."""

    def __init__(self, spec: LogitsLoss, models: Models) -> None:
        super().__init__({"outputs.teacher"}, {"outputs"})
        self.spec = spec
        mine, theirs = models.student.outputs, models.teacher.outputs
        if mine != theirs:
            refuse("logits", f"the student has {mine} outputs, the teacher {theirs}")

    def forward(self, seen: Seen) -> Tensor:
        """The loss of one batch."""
        return compare_logits(self.spec, seen.student["outputs.teacher"], seen.teacher["outputs"])


def compare_logits(spec: LogitsLoss, student: Tensor, teacher: Tensor) -> Tensor:
    """The loss that a spec asks for between two logits (n, classes) of any float type: a float32 scalar, unweighted."""
    if spec.standardize:
        student, teacher = standardized(student.float()), standardized(teacher.float())
    if spec.hard:
        return hard_label_cross_entropy(student, teacher)
    return logits_kl(student, teacher, spec.temperature)


class LabelsTerm(Term):
    """The true labels; where the student has a class head and a distillation head, the class head learns them."""

    def __init__(self, spec: LabelsLoss) -> None:
        super().__init__({"outputs.labels"})
        self.smoothing = spec.smoothing

    def forward(self, seen: Seen) -> Tensor:
        """The loss of one batch."""
        return label_cross_entropy(seen.student["outputs.labels"], seen.labels, self.smoothing)


class OutputTerm(Term):
    """The outputs as vectors, the student's projected where widths differ."""

    def __init__(self, spec: OutputLoss, models: Models) -> None:
        super().__init__({"outputs.teacher"}, {"outputs"})
        self.distance = output_mse if spec.distance == "mse" else output_cosine
        self.projection = projection(models.student.outputs, models.teacher.outputs, models.generator)

    def forward(self, seen: Seen) -> Tensor:
        """The loss of one batch."""
        student = self.projection(seen.student["outputs.teacher"].float())
        return self.distance(student, seen.teacher["outputs"])
