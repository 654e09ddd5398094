"""Terms of `hidden`: hidden states of transformers, feature maps of convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.losses.hidden.spec import HiddenLoss
from compress.training.loss_functions.hidden import DISTANCES, map_tokens
from compress.training.objective.terms import (
    LossInputs,
    ModelPair,
    Term,
    align_tokens,
    check_tokens,
    extra_tokens,
    layer_pairs,
    projection,
)


def hidden_term(spec: HiddenLoss, models: ModelPair) -> Term:
    """Build the term of `hidden`: over feature maps if both models are convolutional, else over hidden states."""
    convolutional = models.student.features and models.teacher.features
    return FeatureTerm(spec, models) if convolutional else HiddenTerm(spec, models)


class HiddenTerm(Term):
    """Hidden states of pairs of layers, each pair with its own projection: the mean over the pairs."""

    def __init__(self, spec: HiddenLoss, models: ModelPair) -> None:
        check_tokens("hidden", models)
        student, teacher = models.student, models.teacher
        pairs = layer_pairs("hidden", spec.layers, student.num_layers, teacher.num_layers)
        super().__init__(
            {f"hidden.{student_layer}" for student_layer, _ in pairs},
            {f"hidden.{teacher_layer}" for _, teacher_layer in pairs},
        )
        assert student.hidden_size is not None
        assert teacher.hidden_size is not None
        self.pairs = pairs
        self.extra_tokens = extra_tokens(models)
        self.distance = DISTANCES[spec.distance]
        self.projections = nn.ModuleList(
            projection(student.hidden_size, teacher.hidden_size, models.generator) for _ in pairs
        )

    def forward(self, seen: LossInputs) -> Tensor:
        """Return the loss of one batch."""
        losses = []
        for (student_layer, teacher_layer), project in zip(self.pairs, self.projections, strict=True):
            student, teacher = align_tokens(
                seen.student[f"hidden.{student_layer}"],
                seen.teacher[f"hidden.{teacher_layer}"],
                self.extra_tokens,
            )
            losses.append(self.distance(project(student.float()), teacher, seen.output_mask))
        return torch.stack(losses).mean()

    def counts(self, seen: LossInputs) -> Tensor:
        """Count tokens."""
        return seen.tokens


class FeatureTerm(Term):
    """Feature maps of pairs of convolution stages, per position at the coarser resolution: the mean over the pairs.

    Each pair has its own projection, a 1 x 1 convolution (FitNets).
    """

    def __init__(self, spec: HiddenLoss, models: ModelPair) -> None:
        student, teacher = models.student.features, models.teacher.features
        pairs = layer_pairs("hidden", spec.layers, len(student), len(teacher))
        stages = [(student[of_student], teacher[of_teacher]) for of_student, of_teacher in pairs]
        names = [
            (f"feature.{of_student.name}", f"feature.{of_teacher.name}") for of_student, of_teacher in stages
        ]
        super().__init__({of_student for of_student, _ in names}, {of_teacher for _, of_teacher in names})
        self.names = names
        self.distance = DISTANCES[spec.distance]
        self.projections = nn.ModuleList(
            projection(of_student.channels, of_teacher.channels, models.generator)
            for of_student, of_teacher in stages
        )

    def forward(self, seen: LossInputs) -> Tensor:
        """Return the loss of one batch."""
        losses = []
        for (student_name, teacher_name), project in zip(self.names, self.projections, strict=True):
            maps = seen.student[student_name].float(), seen.teacher[teacher_name].float()
            height, width = (
                min(sides) for sides in zip(*(feature.shape[2:] for feature in maps), strict=True)
            )
            student, teacher = (map_tokens(feature, height, width) for feature in maps)
            losses.append(self.distance(project(student), teacher))
        return torch.stack(losses).mean()
