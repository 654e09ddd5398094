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
from compress.training.signals.top_k import DEFAULT_K, MIN_VOCABULARY, TopK


class LogitsTerm(Term):
    """Loss on the teacher's predictions; if the student has a distillation head, on that head."""

    def __init__(self, spec: LogitsLoss, models: ModelPair) -> None:
        student_outputs, teacher_outputs = models.student.num_outputs, models.teacher.num_outputs
        if student_outputs != teacher_outputs:
            refuse("logits", f"the student has {student_outputs} outputs, the teacher {teacher_outputs}")
        self.top_k = _top_k_encoding(spec, models.teacher)
        super().__init__({"outputs.teacher"}, {"outputs" if self.top_k is None else self.top_k.name})
        self.spec = spec
        self.by_token = models.student.by_token

    def forward(self, seen: LossInputs) -> Tensor:
        """Return the loss of one batch."""
        (teacher_signal,) = self.teacher_needs
        student, teacher = (
            seen.student["outputs.teacher"],
            rows_of(seen.teacher[teacher_signal], seen.output_mask),
        )
        mask = seen.output_mask if student.ndim == 3 else None
        if self.top_k is None:
            return compare_logits(self.spec, student, teacher, mask)
        return compare_top_k(self.spec, self.top_k, student, teacher, mask)

    def counts(self, seen: LossInputs) -> Tensor:
        """Count rows of outputs."""
        return seen.tokens if self.by_token else seen.examples


def _top_k_encoding(spec: LogitsLoss, teacher: Anatomy) -> TopK | None:
    """Return the top-k encoding of the teacher's predictions; None: all logits are used."""
    if not teacher.by_token or spec.standardize or spec.top_k == "all":
        return None
    if spec.top_k is None and teacher.num_outputs <= MIN_VOCABULARY:
        return None
    k = min(spec.top_k or DEFAULT_K, teacher.num_outputs)
    return TopK(k, 1.0 if spec.hard else spec.temperature, teacher.num_outputs)


def compare_top_k(
    spec: LogitsLoss, top_k: TopK, student: Tensor, teacher: Tensor, mask: Tensor | None = None
) -> Tensor:
    """`compare_logits` on the teacher's top-k tokens, with all others together as one class.

    Args:
        student: logits (n, words) or (n, t, words), any float type.
        teacher: packed rows uint8 (m, bytes) of the compared rows.
        mask: bool (n, t); None: all.
    """

    def compare(student: Tensor, teacher: Tensor) -> Tensor:
        ids, target = top_k.unpack(teacher)
        if spec.hard:
            return functional.cross_entropy(student.float(), ids[:, 0])
        prediction = top_k.log_probabilities_of(student, ids)
        return divergence(prediction, target, 1.0, spec.divergence, spec.mix_weight) * top_k.temperature**2

    return in_chunks(compare, student, teacher, mask=mask)


def compare_logits(spec: LogitsLoss, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the loss of a spec between two logits of any float type: a float32 scalar, unweighted.

    Args:
        student: (n, classes) or (n, t, classes).
        teacher: (m, classes) of the compared rows.
        mask: bool (n, t); None: all.
    """

    def compare(student: Tensor, teacher: Tensor) -> Tensor:
        if spec.standardize:
            student, teacher = standardized(student.float()), standardized(teacher.float())
        if spec.hard:
            return hard_label_cross_entropy(student, teacher)
        return divergence(student, teacher, spec.temperature, spec.divergence, spec.mix_weight)

    return in_chunks(compare, student, teacher, mask=mask)
