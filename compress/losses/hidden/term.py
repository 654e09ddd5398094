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
    aligned,
    check_tokens,
    extra_tokens,
    layer_pairs,
    projection,
)


def hidden_term(spec: HiddenLoss, models: ModelPair) -> Term:
    """Build the term of `hidden`: over feature maps if both models are convolutional, else over hidden states."""
    both = models.student.features and models.teacher.features
    return FeatureTerm(spec, models) if both else HiddenTerm(spec, models)


class HiddenTerm(Term):
    """Hidden states of pairs of layers, each pair with its own projection: the mean over the pairs."""

    def __init__(self, spec: HiddenLoss, models: ModelPair) -> None:
        check_tokens("hidden", models)
        student, teacher = models.student, models.teacher
        pairs = layer_pairs("hidden", spec.layers, student.layers, teacher.layers)
        super().__init__({f"hidden.{mine}" for mine, _ in pairs}, {f"hidden.{theirs}" for _, theirs in pairs})
        assert student.hidden is not None
        assert teacher.hidden is not None
        self.pairs = pairs
        self.extra = extra_tokens(models)
        self.distance = DISTANCES[spec.distance]
        self.projections = nn.ModuleList(
            projection(student.hidden, teacher.hidden, models.generator) for _ in pairs
        )

    def forward(self, seen: LossInputs) -> Tensor:
        """Return the loss of one batch."""
        losses = []
        for (mine, theirs), project in zip(self.pairs, self.projections, strict=True):
            student, teacher = aligned(
                seen.student[f"hidden.{mine}"], seen.teacher[f"hidden.{theirs}"], self.extra
            )
            losses.append(self.distance(project(student.float()), teacher, seen.compared))
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
        stages = [(student[mine], teacher[theirs]) for mine, theirs in pairs]
        names = [(f"feature.{mine.name}", f"feature.{theirs.name}") for mine, theirs in stages]
        super().__init__({mine for mine, _ in names}, {theirs for _, theirs in names})
        self.names = names
        self.distance = DISTANCES[spec.distance]
        self.projections = nn.ModuleList(
            projection(mine.channels, theirs.channels, models.generator) for mine, theirs in stages
        )

    def forward(self, seen: LossInputs) -> Tensor:
        """Return the loss of one batch."""
        losses = []
        for (mine, theirs), project in zip(self.names, self.projections, strict=True):
            maps = seen.student[mine].float(), seen.teacher[theirs].float()
            height, width = (min(sides) for sides in zip(*(one.shape[2:] for one in maps), strict=True))
            student, teacher = (map_tokens(one, height, width) for one in maps)
            losses.append(self.distance(project(student), teacher))
        return torch.stack(losses).mean()
