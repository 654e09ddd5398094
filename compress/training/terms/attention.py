"""Terms that compare attention: of tokens, of places, and relations cut from it."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.profile.loss_specs import AttentionLoss, RelationLoss
from compress.training.losses.attention import (
    attention_kl,
    attention_mse,
    attention_scores,
    averaged_log_attention,
    averaged_scores,
    log_attention,
    scores_mse,
    spatial_attention_distance,
)
from compress.training.losses.relation import relation_kl
from compress.training.signals import Anatomy
from compress.training.terms.base import (
    Models,
    Seen,
    Term,
    aligned,
    check_tokens,
    extra_tokens,
    pairs_of,
    refuse,
)

_PARTS = {"q": "query", "k": "key", "v": "value"}


def attention_term(spec: AttentionLoss, models: Models) -> Term:
    """The term of `attention`: of places for `spatial`, else of tokens."""
    return SpatialTerm(spec, models) if spec.of == "spatial" else AttentionTerm(spec, models)


class AttentionTerm(Term):
    """Token attention of pairs of layers, computed from queries and keys: the mean over the pairs."""

    def __init__(self, spec: AttentionLoss, models: Models) -> None:
        _check_queries("attention", models)
        student, teacher = models.student, models.teacher
        pairs = pairs_of("attention", spec.layers, student.layers, teacher.layers)
        unequal = [pair for pair in pairs if student.heads[pair[0]] != teacher.heads[pair[1]]]
        if spec.heads == "mapped" and unequal:
            mine, theirs = unequal[0]
            refuse(
                "attention",
                f"heads: mapped compares head by head, but layer {mine} of the student has "
                f"{student.heads[mine]} heads and layer {theirs} of the teacher {teacher.heads[theirs]}",
                "Use `heads: averaged`, or the loss `relation`.",
            )
        super().__init__(
            {f"{part}.{mine}" for mine, _ in pairs for part in ("query", "key")},
            {f"{part}.{theirs}" for _, theirs in pairs for part in ("query", "key")},
        )
        self.spec = spec
        self.pairs = pairs
        self.heads = [(student.heads[mine], teacher.heads[theirs]) for mine, theirs in pairs]
        self.extra = extra_tokens(models)

    def forward(self, seen: Seen) -> Tensor:
        """The loss of one batch."""
        losses = []
        for (mine, theirs), heads in zip(self.pairs, self.heads, strict=True):
            queries = aligned(seen.student[f"query.{mine}"], seen.teacher[f"query.{theirs}"], self.extra)
            keys = aligned(seen.student[f"key.{mine}"], seen.teacher[f"key.{theirs}"], self.extra)
            student, teacher = (attention_scores(*one) for one in zip(queries, keys, heads, strict=True))
            losses.append(self._compare(student, teacher.detach(), seen.mask))
        return torch.stack(losses).mean()

    def _compare(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        averaged = self.spec.heads == "averaged"
        if self.spec.of == "scores":
            if averaged:
                student, teacher = averaged_scores(student), averaged_scores(teacher)
            return scores_mse(student, teacher, mask)
        student, teacher = log_attention(student, mask), log_attention(teacher, mask)
        if averaged:
            student, teacher = averaged_log_attention(student), averaged_log_attention(teacher)
        distance = attention_kl if self.spec.distance == "kl" else attention_mse
        return distance(student, teacher, mask)


class SpatialTerm(Term):
    """Spatial attention maps of pairs of convolution stages: the mean over the pairs."""

    def __init__(self, spec: AttentionLoss, models: Models) -> None:
        for anatomy, who in ((models.student, "student"), (models.teacher, "teacher")):
            if not anatomy.features:
                refuse(
                    "attention",
                    f"of: spatial compares feature maps of convolutions, and the {who} has none",
                    "Use `of: scores` or `of: probabilities` between transformers.",
                )
        student, teacher = models.student.features, models.teacher.features
        pairs = pairs_of("attention", spec.layers, len(student), len(teacher))
        names = [
            (f"feature.{student[mine].name}", f"feature.{teacher[theirs].name}") for mine, theirs in pairs
        ]
        super().__init__({mine for mine, _ in names}, {theirs for _, theirs in names})
        self.names = names

    def forward(self, seen: Seen) -> Tensor:
        """The loss of one batch."""
        losses = [
            spatial_attention_distance(seen.student[mine], seen.teacher[theirs])
            for mine, theirs in self.names
        ]
        return torch.stack(losses).mean()


class RelationTerm(Term):
    """Self-attention relations of pairs of layers: summed over the relations, as in MiniLM, the mean over the pairs."""

    def __init__(self, spec: RelationLoss, models: Models) -> None:
        _check_queries("relation", models)
        student, teacher = models.student, models.teacher
        pairs = pairs_of("relation", spec.layers, student.layers, teacher.layers)
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
        self.pairs = pairs
        self.heads = heads
        self.extra = extra_tokens(models)

    def forward(self, seen: Seen) -> Tensor:
        """The loss of one batch."""
        losses = []
        for (mine, theirs), heads in zip(self.pairs, self.heads, strict=True):
            for first, second in self.relations:
                a, b = (
                    aligned(seen.student[f"{part}.{mine}"], seen.teacher[f"{part}.{theirs}"], self.extra)
                    for part in (first, second)
                )
                losses.append(relation_kl(a[0], b[0], a[1], b[1], heads, seen.mask))
        return torch.stack(losses).sum() / len(self.pairs)


def common_heads(most: int, student: int, teacher: int) -> int:
    """The largest number of relation heads up to `most` that divides the attention widths of both models."""
    return next(count for count in range(most, 0, -1) if student % count == 0 and teacher % count == 0)


def _check_queries(kind: str, models: Models) -> None:
    """Refuse models whose queries and keys cannot be captured."""
    check_tokens(kind, models)
    for anatomy, who in ((models.student, "student"), (models.teacher, "teacher")):
        if not anatomy.heads:
            refuse(
                kind,
                f"the {who} computes query, key and value in one map, so they cannot be told apart",
                "Compare `hidden` instead.",
            )


def _width(anatomy: Anatomy, layer: int) -> int:
    return anatomy.heads[layer] * (anatomy.head_size or 0)
