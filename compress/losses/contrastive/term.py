"""The term of `contrastive`: the teacher's representation of an example told from those of others."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.losses.contrastive.spec import ContrastiveLoss
from compress.training.loss_functions.contrastive import differ, info_nce
from compress.training.objective.terms import Models, Pooled, Seen, Term, linear


class ContrastiveTerm(Term):
    """The teacher's representation of an example told from those of others: of the batch, and of the last steps.

    The memory holds the teacher's representations as it gave them and projects them anew each time, so that they do
    not age while the projection learns. It is a buffer: a checkpoint holds it.
    """

    memory: Tensor
    written: Tensor

    def __init__(self, spec: ContrastiveLoss, models: Models) -> None:
        student = Pooled("contrastive", models.student, "student")
        teacher = Pooled("contrastive", models.teacher, "teacher")
        super().__init__({student.name}, {teacher.name})
        self.student, self.teacher = student, teacher
        self.temperature = spec.temperature
        self.project_student = linear(student.width, spec.dimensions, models.generator)
        self.project_teacher = linear(teacher.width, spec.dimensions, models.generator)
        self.register_buffer("memory", torch.zeros(spec.negatives, teacher.width))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))

    def forward(self, seen: Seen) -> Tensor:
        """The loss of one batch; in training mode the batch is remembered then."""
        mine = self.student(seen.student, seen.mask)
        theirs = self.teacher(seen.teacher, seen.mask).detach()
        goals = torch.cat([theirs, self.memory])
        places = torch.arange(len(goals), device=goals.device)
        known = places < len(theirs) + self.written
        loss = info_nce(
            self.project_student(mine),
            self.project_teacher(goals),
            known & differ(theirs, goals),
            self.temperature,
        )
        if self.training:
            self._remember(theirs)
        return loss

    def counts(self, seen: Seen) -> Tensor:
        """Examples."""
        return seen.examples

    def _remember(self, rows: Tensor) -> None:
        """Write the rows over the oldest ones."""
        size = len(self.memory)
        if size == 0:
            return
        rows = rows[-size:]
        places = (self.written + torch.arange(len(rows), device=rows.device)) % size
        self.memory.index_copy_(0, places, rows)
        self.written.add_(len(rows))
