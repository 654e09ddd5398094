"""Terms of `attention`: token attention of transformers, spatial attention of convolutions."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.losses.attention.spec import AttentionLoss
from compress.training.loss_functions.attention import (
    attention_kl,
    attention_mse,
    attention_scores,
    averaged_log_attention,
    averaged_scores,
    log_attention,
    scores_mse,
    spatial_attention_distance,
)
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


def attention_term(spec: AttentionLoss, models: ModelPair) -> Term:
    """Build the term of `attention`: spatial for `spatial`, else over tokens."""
    return SpatialTerm(spec, models) if spec.of == "spatial" else AttentionTerm(spec, models)


class AttentionTerm(Term):
    """Token attention of pairs of layers, computed from queries and keys: the mean over the pairs."""

    def __init__(self, spec: AttentionLoss, models: ModelPair) -> None:
        check_queries("attention", models)
        student, teacher = models.student, models.teacher
        pairs = layer_pairs("attention", spec.layers, student.layers, teacher.layers)
        unequal = [pair for pair in pairs if student.heads[pair[0]] != teacher.heads[pair[1]]]
        if spec.heads == "mapped" and unequal:
            mine, theirs = unequal[0]
            refuse(
                "attention",
                f"heads: mapped compares head by head, but layer {mine} of the student has "
                f"{student.heads[mine]} heads and layer {theirs} of the teacher {teacher.heads[theirs]}",
                "Use `heads: averaged`, or the loss `relation`.",
            )
        names = [(_names(student, mine), _names(teacher, theirs)) for mine, theirs in pairs]
        super().__init__(
            {one for mine, _ in names for one in mine}, {one for _, theirs in names for one in theirs}
        )
        self.names = names
        self.models = student, teacher
        self.spec = spec
        self.pairs = pairs
        self.means = len(pairs)
        self.heads = [(student.heads[mine], teacher.heads[theirs]) for mine, theirs in pairs]
        self.extra = extra_tokens(models)

    def forward(self, seen: LossInputs) -> Tensor:
        """Return the losses of the pairs of layers."""
        losses = []
        for pair, names, heads in zip(self.pairs, self.names, self.heads, strict=True):
            queries, keys = (
                aligned(seen.student[mine], seen.teacher[theirs], self.extra)
                for mine, theirs in zip(*names, strict=True)
            )
            student, teacher = (
                scores_of(model, *one)
                for model, one in zip(self.models, zip(queries, keys, heads, strict=True), strict=True)
            )
            losses.append(self._compare(student, teacher.detach(), self._mask(seen, pair)))
        return torch.stack(losses)

    def counts(self, seen: LossInputs) -> Tensor:
        """Count for each pair of layers the pairs of tokens, or for `kl` the query tokens."""
        of_pairs = self.spec.distance != "kl"
        return torch.stack(
            [attention_items(seen, self._mask(seen, pair), pairs=of_pairs) for pair in self.pairs]
        )

    def _mask(self, seen: LossInputs, pair: tuple[int, int]) -> Tensor | None:
        """Return the attention mask; if the windows of two decoders differ, that of the narrower one."""
        student, teacher = self.models
        if not teacher.causal:
            return seen.mask
        windows = (student.windows[pair[0]], teacher.windows[pair[1]])
        return seen.looks(min((one for one in windows if one is not None), default=None))

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


def _names(model: Anatomy, layer: int) -> tuple[str, str]:
    """Return the signals of the queries and keys of a layer: after position embedding for decoders."""
    turned = "turned_" if model.causal else ""
    return f"{turned}query.{layer}", f"{turned}key.{layer}"


def scores_of(model: Anatomy, query: Tensor, key: Tensor, heads: int) -> Tensor:
    """Return the attention scores (n, heads, t, t) of queries (n, t, heads * size) and keys, which may be grouped."""
    scores = attention_scores(query, grouped(key, query.shape[-1], model.head_size or 1), heads)
    return scores if model.cap is None else model.cap * torch.tanh(scores / model.cap)


class SpatialTerm(Term):
    """Spatial attention maps of pairs of convolution stages: the mean over the pairs."""

    def __init__(self, spec: AttentionLoss, models: ModelPair) -> None:
        for anatomy, who in ((models.student, "student"), (models.teacher, "teacher")):
            if not anatomy.features:
                refuse(
                    "attention",
                    f"of: spatial compares feature maps of convolutions, and the {who} has none",
                    "Use `of: scores` or `of: probabilities` between transformers.",
                )
        student, teacher = models.student.features, models.teacher.features
        pairs = layer_pairs("attention", spec.layers, len(student), len(teacher))
        names = [
            (f"feature.{student[mine].name}", f"feature.{teacher[theirs].name}") for mine, theirs in pairs
        ]
        super().__init__({mine for mine, _ in names}, {theirs for _, theirs in names})
        self.names = names

    def forward(self, seen: LossInputs) -> Tensor:
        """Return the loss of one batch."""
        losses = [
            spatial_attention_distance(seen.student[mine], seen.teacher[theirs])
            for mine, theirs in self.names
        ]
        return torch.stack(losses).mean()
