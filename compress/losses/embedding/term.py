"""Term of `embedding`: the output of the embedding layer."""

from __future__ import annotations

from torch import Tensor

from compress.losses.embedding.spec import EmbeddingLoss
from compress.training.loss_functions.hidden import DISTANCES
from compress.training.objective.terms import (
    LossInputs,
    ModelPair,
    Term,
    align_tokens,
    check_tokens,
    extra_tokens,
    projection,
)


class EmbeddingTerm(Term):
    """The output of the embedding layer; the student's is projected if widths differ."""

    def __init__(self, spec: EmbeddingLoss, models: ModelPair) -> None:
        check_tokens("embedding", models)
        super().__init__({"embedding"}, {"embedding"})
        student, teacher = models.student.embedding_size, models.teacher.embedding_size
        assert student is not None
        assert teacher is not None
        self.extra_tokens = extra_tokens(models)
        self.distance = DISTANCES[spec.distance]
        self.projection = projection(student, teacher, models.generator)

    def forward(self, seen: LossInputs) -> Tensor:
        """Return the loss of one batch."""
        student, teacher = align_tokens(
            seen.student["embedding"], seen.teacher["embedding"], self.extra_tokens
        )
        return self.distance(self.projection(student.float()), teacher, seen.output_mask)

    def counts(self, seen: LossInputs) -> Tensor:
        """Count tokens."""
        return seen.tokens
