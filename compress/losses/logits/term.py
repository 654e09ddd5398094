"""The term of `logits`: the teacher's predictions."""

from __future__ import annotations

from torch import Tensor

from compress.losses.logits.spec import LogitsLoss
from compress.training.losses.chunks import in_chunks
from compress.training.losses.logits import divergence, hard_label_cross_entropy
from compress.training.losses.vectors import standardized
from compress.training.terms import Models, Seen, Term, refuse, rows_of


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
        student, teacher = (
            rows_of(each, seen.compared)
            for each in (seen.student["outputs.teacher"], seen.teacher["outputs"])
        )
        return compare_logits(self.spec, student, teacher)


def compare_logits(spec: LogitsLoss, student: Tensor, teacher: Tensor) -> Tensor:
    """The loss that a spec asks for between two logits (n, classes) of any float type: a float32 scalar, unweighted."""

    def compare(student: Tensor, teacher: Tensor) -> Tensor:
        if spec.standardize:
            student, teacher = standardized(student.float()), standardized(teacher.float())
        if spec.hard:
            return hard_label_cross_entropy(student, teacher)
        return divergence(student, teacher, spec.temperature, spec.divergence, spec.mixed)

    return in_chunks(compare, student, teacher)
