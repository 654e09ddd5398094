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
    align_tokens,
    attention_items,
    check_queries,
    expand_groups,
    extra_tokens,
    layer_pairs,
    refuse,
)
from compress.training.signals.capture import Anatomy

_PROJECTIONS = {"q": "query", "k": "key", "v": "value"}


class RelationTerm(Term):
    """Self-attention relations: summed over the relations, as in MiniLM, averaged over the pairs of layers."""

    def __init__(self, spec: RelationLoss, models: ModelPair) -> None:
        check_queries("relation", models)
        student, teacher = models.student, models.teacher
        pairs = layer_pairs("relation", spec.layers, student.num_layers, teacher.num_layers)
        heads = [
            spec.heads
            or common_heads(
                teacher.head_counts[teacher_layer],
                _width(student, student_layer),
                _width(teacher, teacher_layer),
            )
            for student_layer, teacher_layer in pairs
        ]
        for (student_layer, teacher_layer), num_heads in zip(pairs, heads, strict=True):
            for width, role in (
                (_width(student, student_layer), "student"),
                (_width(teacher, teacher_layer), "teacher"),
            ):
                if width % num_heads:
                    refuse(
                        "relation",
                        f"{num_heads} relation heads do not divide the {role}'s attention width {width}",
                        "Set `heads` to a number that divides the widths of both models.",
                    )
        parts = sorted({_PROJECTIONS[letter] for relation in spec.relations for letter in relation})
        super().__init__(
            {f"{part}.{student_layer}" for student_layer, _ in pairs for part in parts},
            {f"{part}.{teacher_layer}" for _, teacher_layer in pairs for part in parts},
        )
        self.relations = [
            (_PROJECTIONS[relation[0]], _PROJECTIONS[relation[1]]) for relation in spec.relations
        ]
        self.models = student, teacher
        self.pairs = pairs
        self.heads = heads
        self.extra_tokens = extra_tokens(models)

    def forward(self, seen: LossInputs) -> Tensor:
        """Return the loss of one batch."""
        losses = []
        student, teacher = self.models
        mask = self._mask(seen)
        for (student_layer, teacher_layer), heads in zip(self.pairs, self.heads, strict=True):
            widths = [
                (_width(model, layer), model.head_size or 1)
                for model, layer in ((student, student_layer), (teacher, teacher_layer))
            ]
            for first, second in self.relations:
                first_pair, second_pair = (
                    align_tokens(
                        expand_groups(seen.student[f"{part}.{student_layer}"], *widths[0]),
                        expand_groups(seen.teacher[f"{part}.{teacher_layer}"], *widths[1]),
                        self.extra_tokens,
                    )
                    for part in (first, second)
                )
                losses.append(
                    relation_kl(first_pair[0], second_pair[0], first_pair[1], second_pair[1], heads, mask)
                )
        return torch.stack(losses).sum() / len(self.pairs)

    def counts(self, seen: LossInputs) -> Tensor:
        """Count query tokens."""
        return attention_items(seen, self._mask(seen), pairs=False)

    def _mask(self, seen: LossInputs) -> Tensor | None:
        """Return the attention mask."""
        return seen.causal_mask() if self.models[1].causal else seen.mask


def common_heads(max_heads: int, student: int, teacher: int) -> int:
    """Return the largest number of relation heads up to `max_heads` that divides the attention widths of both
    models."""
    return next(count for count in range(max_heads, 0, -1) if student % count == 0 and teacher % count == 0)


def _width(anatomy: Anatomy, layer: int) -> int:
    return anatomy.head_counts[layer] * (anatomy.head_size or 0)
