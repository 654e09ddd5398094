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
    align_tokens,
    attention_items,
    check_queries,
    expand_groups,
    extra_tokens,
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
        pairs = layer_pairs("attention", spec.layers, student.num_layers, teacher.num_layers)
        unequal = [pair for pair in pairs if student.head_counts[pair[0]] != teacher.head_counts[pair[1]]]
        if spec.heads == "mapped" and unequal:
            of_student, of_teacher = unequal[0]
            refuse(
                "attention",
                f"heads: mapped compares head by head, but layer {of_student} of the student has "
                f"{student.head_counts[of_student]} heads and layer {of_teacher} of the teacher "
                f"{teacher.head_counts[of_teacher]}",
                "Use `heads: averaged`, or the loss `relation`.",
            )
        names = [
            (_query_key_signals(student, of_student), _query_key_signals(teacher, of_teacher))
            for of_student, of_teacher in pairs
        ]
        super().__init__(
            {one for of_student, _ in names for one in of_student},
            {one for _, of_teacher in names for one in of_teacher},
        )
        self.names = names
        self.models = student, teacher
        self.spec = spec
        self.pairs = pairs
        self.num_means = len(pairs)
        self.heads = [
            (student.head_counts[of_student], teacher.head_counts[of_teacher])
            for of_student, of_teacher in pairs
        ]
        self.extra_tokens = extra_tokens(models)

    def forward(self, seen: LossInputs) -> Tensor:
        """Return the losses of the pairs of layers."""
        losses = []
        for pair, names, heads in zip(self.pairs, self.names, self.heads, strict=True):
            queries, keys = (
                align_tokens(seen.student[student_name], seen.teacher[teacher_name], self.extra_tokens)
                for student_name, teacher_name in zip(*names, strict=True)
            )
            student, teacher = (
                scores_of(model, *arguments)
                for model, arguments in zip(self.models, zip(queries, keys, heads, strict=True), strict=True)
            )
            losses.append(self._compare(student, teacher.detach(), self._mask(seen, pair)))
        return torch.stack(losses)

    def counts(self, seen: LossInputs) -> Tensor:
        """Count for each pair of layers the pairs of tokens, or for `kl` the query tokens."""
        count_pairs = self.spec.distance != "kl"
        return torch.stack(
            [attention_items(seen, self._mask(seen, pair), pairs=count_pairs) for pair in self.pairs]
        )

    def _mask(self, seen: LossInputs, pair: tuple[int, int]) -> Tensor | None:
        """Return the attention mask; if the windows of two decoders differ, that of the narrower one."""
        student, teacher = self.models
        if not teacher.causal:
            return seen.mask
        windows = (student.attention_windows[pair[0]], teacher.attention_windows[pair[1]])
        return seen.causal_mask(min((window for window in windows if window is not None), default=None))

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


def _query_key_signals(model: Anatomy, layer: int) -> tuple[str, str]:
    """Return the signals of the queries and keys of a layer: after position embedding for decoders."""
    prefix = "turned_" if model.causal else ""
    return f"{prefix}query.{layer}", f"{prefix}key.{layer}"


def scores_of(model: Anatomy, query: Tensor, key: Tensor, heads: int) -> Tensor:
    """Return the attention scores (n, heads, t, t) of queries (n, t, heads * size) and keys, which may be grouped."""
    scores = attention_scores(query, expand_groups(key, query.shape[-1], model.head_size or 1), heads)
    return scores if model.score_cap is None else model.score_cap * torch.tanh(scores / model.score_cap)


class SpatialTerm(Term):
    """Spatial attention maps of pairs of convolution stages: the mean over the pairs."""

    def __init__(self, spec: AttentionLoss, models: ModelPair) -> None:
        for anatomy, role in ((models.student, "student"), (models.teacher, "teacher")):
            if not anatomy.features:
                refuse(
                    "attention",
                    f"of: spatial compares feature maps of convolutions, and the {role} has none",
                    "Use `of: scores` or `of: probabilities` between transformers.",
                )
        student, teacher = models.student.features, models.teacher.features
        pairs = layer_pairs("attention", spec.layers, len(student), len(teacher))
        names = [
            (f"feature.{student[of_student].name}", f"feature.{teacher[of_teacher].name}")
            for of_student, of_teacher in pairs
        ]
        super().__init__({of_student for of_student, _ in names}, {of_teacher for _, of_teacher in names})
        self.names = names

    def forward(self, seen: LossInputs) -> Tensor:
        """Return the loss of one batch."""
        losses = [
            spatial_attention_distance(seen.student[student_name], seen.teacher[teacher_name])
            for student_name, teacher_name in self.names
        ]
        return torch.stack(losses).mean()
