"""Terms that compare examples with each other, by one vector an example."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.profile.loss_specs import ContrastiveLoss, SimilarityLoss
from compress.training.losses.contrastive import differ, info_nce
from compress.training.losses.similarity import (
    angle_relation,
    cosine_matrix_distance,
    distance_relation,
    similarity_matrix_distance,
)
from compress.training.losses.vectors import token_mean
from compress.training.signals import Anatomy, Signals
from compress.training.terms.base import Models, Seen, Term, linear, refuse

_RELATIONS = {
    "distance": distance_relation,
    "angle": angle_relation,
    "matrix": similarity_matrix_distance,
    "cosines": cosine_matrix_distance,
}


class Pooled:
    """The representation of an example: the mean of its last hidden state over the real tokens (of an image: over the
    patches), or of its last feature map over the places."""

    def __init__(self, kind: str, anatomy: Anatomy, who: str) -> None:
        self.extra = anatomy.extra_tokens
        if anatomy.layers and anatomy.hidden is not None:
            self.name, self.width = f"hidden.{anatomy.layers - 1}", anatomy.hidden
        elif anatomy.features:
            self.name, self.width = f"feature.{anatomy.features[-1].name}", anatomy.features[-1].channels
        else:
            hint = "Set `representation: outputs`." if kind == "similarity" else None
            refuse(kind, f"the {who} has no layers and no feature maps to take a mean of", hint)

    def __call__(self, signals: Signals, mask: Tensor | None) -> Tensor:
        """float32 (n, width)."""
        signal = signals[self.name].float()
        return signal.mean((2, 3)) if signal.ndim == 4 else token_mean(signal[:, self.extra :], mask)


class SimilarityTerm(Term):
    """Relations between the examples of a batch."""

    def __init__(self, spec: SimilarityLoss, models: Models) -> None:
        pooled = spec.representation == "pooled"
        student = Pooled("similarity", models.student, "student") if pooled else None
        teacher = Pooled("similarity", models.teacher, "teacher") if pooled else None
        super().__init__(
            {student.name if student else "outputs.teacher"}, {teacher.name if teacher else "outputs"}
        )
        self.student, self.teacher = student, teacher
        self.relation = _RELATIONS[spec.of]

    def forward(self, seen: Seen) -> Tensor:
        """The loss of one batch."""
        mine = self.student(seen.student, seen.mask) if self.student else seen.student["outputs.teacher"]
        theirs = self.teacher(seen.teacher, seen.mask) if self.teacher else seen.teacher["outputs"]
        return self.relation(mine, theirs)


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

    def _remember(self, rows: Tensor) -> None:
        """Write the rows over the oldest ones."""
        size = len(self.memory)
        if size == 0:
            return
        rows = rows[-size:]
        places = (self.written + torch.arange(len(rows), device=rows.device)) % size
        self.memory.index_copy_(0, places, rows)
        self.written.add_(len(rows))
