"""Term of `contrastive`: identify the teacher's representation of the same example among those of others."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.losses.contrastive.spec import ContrastiveLoss
from compress.training.loss_functions.contrastive import different_examples, info_nce
from compress.training.objective.terms import LossInputs, ModelPair, Pooled, Term, orthogonal_linear


class ContrastiveTerm(Term):
    """InfoNCE against the teacher's representations of the batch and of earlier steps.

    The memory stores the teacher's unprojected representations and projects them anew in each step, so that
    they do not become stale while the projection is trained. It is a buffer, so checkpoints include it.
    """

    memory: Tensor
    written: Tensor

    def __init__(self, spec: ContrastiveLoss, models: ModelPair) -> None:
        student = Pooled("contrastive", models.student, "student")
        teacher = Pooled("contrastive", models.teacher, "teacher")
        super().__init__({student.name}, {teacher.name})
        self.student, self.teacher = student, teacher
        self.temperature = spec.temperature
        self.project_student = orthogonal_linear(student.width, spec.dimensions, models.generator)
        self.project_teacher = orthogonal_linear(teacher.width, spec.dimensions, models.generator)
        self.register_buffer("memory", torch.zeros(spec.negatives, teacher.width))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))

    def forward(self, seen: LossInputs) -> Tensor:
        """Return the loss of one batch; in training mode the batch is then added to the memory."""
        student = self.student(seen.student, seen.mask)
        teacher = self.teacher(seen.teacher, seen.mask).detach()
        candidates = torch.cat([teacher, self.memory])
        positions = torch.arange(len(candidates), device=candidates.device)
        filled = positions < len(teacher) + self.written
        loss = info_nce(
            self.project_student(student),
            self.project_teacher(candidates),
            filled & different_examples(teacher, candidates),
            self.temperature,
        )
        if self.training:
            self._remember(teacher)
        return loss

    def counts(self, seen: LossInputs) -> Tensor:
        """Count examples."""
        return seen.examples

    def _remember(self, vectors: Tensor) -> None:
        """Overwrite the oldest rows of the memory."""
        size = len(self.memory)
        if size == 0:
            return
        vectors = vectors[-size:]
        positions = (self.written + torch.arange(len(vectors), device=vectors.device)) % size
        self.memory.index_copy_(0, positions, vectors)
        self.written.add_(len(vectors))
