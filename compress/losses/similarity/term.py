"""Term of `similarity`: relations between the examples of a batch."""

from __future__ import annotations

from torch import Tensor

from compress.losses.similarity.spec import SimilarityLoss
from compress.training.loss_functions.similarity import (
    angle_relation,
    cosine_matrix_distance,
    distance_relation,
    similarity_matrix_distance,
)
from compress.training.objective.terms import LossInputs, ModelPair, Pooled, Term

_RELATIONS = {
    "distance": distance_relation,
    "angle": angle_relation,
    "matrix": similarity_matrix_distance,
    "cosines": cosine_matrix_distance,
}


class SimilarityTerm(Term):
    """Relations between the examples of a batch."""

    def __init__(self, spec: SimilarityLoss, models: ModelPair) -> None:
        pooled = spec.representation == "pooled"
        student = Pooled("similarity", models.student, "student") if pooled else None
        teacher = Pooled("similarity", models.teacher, "teacher") if pooled else None
        super().__init__(
            {student.name if student else "outputs.teacher"}, {teacher.name if teacher else "outputs"}
        )
        self.student, self.teacher = student, teacher
        self.relation = _RELATIONS[spec.of]

    def forward(self, seen: LossInputs) -> Tensor:
        """Return the loss of one batch."""
        student = self.student(seen.student, seen.mask) if self.student else seen.student["outputs.teacher"]
        teacher = self.teacher(seen.teacher, seen.mask) if self.teacher else seen.teacher["outputs"]
        return self.relation(student, teacher)

    def counts(self, seen: LossInputs) -> Tensor:
        """Count examples, although only those of the same part are compared with each other."""
        return seen.examples
