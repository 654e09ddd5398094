"""Term of `relation`: self-attention relations between tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.losses.relation.spec import RelationLoss
from compress.training.loss_functions.relation import relation_kl
from compress.training.objective.terms import (
    LossInputs,
    ModelPair,
    Term,
    aligned,
    attention_items,
    check_queries,
    extra_tokens,
    grouped,
    layer_pairs,
    refuse,
)
from compress.training.signals.capture import Anatomy

_PARTS = {"q": "query", "k": "key", "v": "value"}


class RelationTerm(Term):
    """Self-attention relations: summed over the relations, as in MiniLM, averaged over the pairs of layers."""

    def __init__(self, spec: RelationLoss, models: ModelPair) -> None:
        check_queries("relation", models)
        student, teacher = models.student, models.teacher
        pairs = layer_pairs("relation", spec.layers, student.layers, teacher.layers)
        heads = [
            spec.heads or common_heads(teacher.heads[theirs], _width(student, mine), _width(teacher, theirs))
            for mine, theirs in pairs
        ]
        for (mine, theirs), count in zip(pairs, heads, strict=True):
            for width, who in ((_width(student, mine), "student"), (_width(teacher, theirs), "teacher")):
                if width % count:
                    refuse(
                        "relation",
                        f"{count} relation heads do not divide the {who}'s attention width {width}",
                        "Set `heads` to a number that divides the widths of both models.",
                    )
        parts = sorted({_PARTS[letter] for relation in spec.relations for letter in relation})
        super().__init__(
            {f"{part}.{mine}" for mine, _ in pairs for part in parts},
            {f"{part}.{theirs}" for _, theirs in pairs for part in parts},
        )
        self.relations = [(_PARTS[relation[0]], _PARTS[relation[1]]) for relation in spec.relations]
        self.models = student, teacher
        self.pairs = pairs
        self.heads = heads
        self.extra = extra_tokens(models)

    def forward(self, seen: LossInputs) -> Tensor:
        """Return the loss of one batch."""
        losses = []
        student, teacher = self.models
        mask = self._mask(seen)
        for (mine, theirs), heads in zip(self.pairs, self.heads, strict=True):
            widths = [
                (_width(model, layer), model.head_size or 1)
                for model, layer in ((student, mine), (teacher, theirs))
            ]
            for first, second in self.relations:
                a, b = (
                    aligned(
                        grouped(seen.student[f"{part}.{mine}"], *widths[0]),
                        grouped(seen.teacher[f"{part}.{theirs}"], *widths[1]),
                        self.extra,
                    )
                    for part in (first, second)
                )
                losses.append(relation_kl(a[0], b[0], a[1], b[1], heads, mask))
        return torch.stack(losses).sum() / len(self.pairs)

    def counts(self, seen: LossInputs) -> Tensor:
        """Count query tokens."""
        return attention_items(seen, self._mask(seen), pairs=False)

    def _mask(self, seen: LossInputs) -> Tensor | None:
        """Return the attention mask."""
        return seen.looks() if self.models[1].causal else seen.mask


def common_heads(most: int, student: int, teacher: int) -> int:
    """Return the largest number of relation heads up to `most` that divides the attention widths of both models."""
    return next(count for count in range(most, 0, -1) if student % count == 0 and teacher % count == 0)


def _width(anatomy: Anatomy, layer: int) -> int:
    return anatomy.heads[layer] * (anatomy.head_size or 0)
