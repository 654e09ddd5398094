"""Term of `logits`: the teacher's predictions."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from compress.losses.logits.spec import LogitsLoss
from compress.training.loss_functions.chunks import in_chunks
from compress.training.loss_functions.logits import divergence, hard_label_cross_entropy
from compress.training.loss_functions.vectors import standardized
from compress.training.objective.terms import LossInputs, ModelPair, Term, refuse, rows_of
from compress.training.signals.capture import Anatomy
from compress.training.signals.top_k import FEW, KEPT, TopK


class LogitsTerm(Term):
    """Loss on the teacher's predictions; if the student has a distillation head, on that head."""

    def __init__(self, spec: LogitsLoss, models: ModelPair) -> None:
        mine, theirs = models.student.outputs, models.teacher.outputs
        if mine != theirs:
            refuse("logits", f"the student has {mine} outputs, the teacher {theirs}")
        self.top = _kept(spec, models.teacher)
        super().__init__({"outputs.teacher"}, {"outputs" if self.top is None else self.top.name})
        self.spec = spec
        self.by_token = models.student.by_token

    def forward(self, seen: LossInputs) -> Tensor:
        """Return the loss of one batch."""
        (goal,) = self.teacher_needs
        student, teacher = seen.student["outputs.teacher"], rows_of(seen.teacher[goal], seen.compared)
        compared = seen.compared if student.ndim == 3 else None
        if self.top is None:
            return compare_logits(self.spec, student, teacher, compared)
        return compare_kept(self.spec, self.top, student, teacher, compared)

    def counts(self, seen: LossInputs) -> Tensor:
        """Count rows of outputs."""
        return seen.tokens if self.by_token else seen.examples


def _kept(spec: LogitsLoss, teacher: Anatomy) -> TopK | None:
    """Return the top-k encoding of the teacher's predictions; None: all logits are used."""
    if not teacher.by_token or spec.standardize or spec.top_k == "all":
        return None
    if spec.top_k is None and teacher.outputs <= FEW:
        return None
    k = min(spec.top_k or KEPT, teacher.outputs)
    return TopK(k, 1.0 if spec.hard else spec.temperature, teacher.outputs)


def compare_kept(
    spec: LogitsLoss, top: TopK, student: Tensor, teacher: Tensor, compared: Tensor | None = None
) -> Tensor:
    """`compare_logits` on the teacher's top-k tokens, with all others together as one class.

    Args:
        student: logits (n, words) or (n, t, words), any float type.
        teacher: packed rows uint8 (m, bytes) of the compared rows.
        compared: bool (n, t); None: all.
    """

    def compare(student: Tensor, teacher: Tensor) -> Tensor:
        ids, goal = top.unpack(teacher)
        if spec.hard:
            return functional.cross_entropy(student.float(), ids[:, 0])
        guess = top.kept_of(student, ids)
        return divergence(guess, goal, 1.0, spec.divergence, spec.mixed) * top.temperature**2

    return in_chunks(compare, student, teacher, compared=compared)


def compare_logits(
    spec: LogitsLoss, student: Tensor, teacher: Tensor, compared: Tensor | None = None
) -> Tensor:
    """Return the loss of a spec between two logits of any float type: a float32 scalar, unweighted.

    Args:
        student: (n, classes) or (n, t, classes).
        teacher: (m, classes) of the compared rows.
        compared: bool (n, t); None: all.
    """

    def compare(student: Tensor, teacher: Tensor) -> Tensor:
        if spec.standardize:
            student, teacher = standardized(student.float()), standardized(teacher.float())
        if spec.hard:
            return hard_label_cross_entropy(student, teacher)
        return divergence(student, teacher, spec.temperature, spec.divergence, spec.mixed)

    return in_chunks(compare, student, teacher, compared=compared)
