"""Attention losses: attention matrices of transformers, spatial attention of convolutions.

Token attention is computed from captured queries and keys, so no model has to run the slow attention
implementation that returns its matrices.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from compress.training.loss_functions.precision import in_float32
from compress.training.loss_functions.vectors import masked_mean, unit

# Finite, unlike -inf, so that the softmax of a fully masked row and its gradient stay finite.
_MASKED_SCORE = -1e9


@in_float32
def attention_scores(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """Return scaled dot products of queries and keys, before the softmax: (n, heads, t, t).

    Vaswani et al., Attention Is All You Need, 2017 (arXiv:1706.03762).

    Args:
        query, key: (n, t, heads * size), heads concatenated, any float type.
    """
    query_heads, key_heads = (
        part.reshape(*part.shape[:2], heads, -1).transpose(1, 2) for part in (query, key)
    )
    scores: Tensor = query_heads @ key_heads.transpose(2, 3) / math.sqrt(query_heads.shape[-1])
    return scores


@in_float32
def log_attention(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the logarithms of the attention probabilities (n, heads, t, t), over real tokens only.

    Args:
        scores: (n, heads, t, t).
        mask: bool (n, t), true for real tokens, or (n, t, t), true where the first attends to the second; None:
            no mask.
    """
    if mask is not None:
        scores = scores.masked_fill(
            ~(mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]), _MASKED_SCORE
        )
    return functional.log_softmax(scores, dim=-1)


def averaged_scores(scores: Tensor) -> Tensor:
    """Return the mean score over the heads: (n, heads, t, t) -> (n, 1, t, t)."""
    return scores.mean(1, keepdim=True)


def averaged_log_attention(logs: Tensor) -> Tensor:
    """Return the logarithms of the mean probabilities over the heads: (n, heads, t, t) -> (n, 1, t, t)."""
    return logs.logsumexp(1, keepdim=True) - math.log(logs.shape[1])


@in_float32
def scores_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of attention scores over heads and pairs of real tokens.

    Jiao et al., TinyBERT, 2020 (arXiv:1909.10351), which compares scores instead of probabilities.

    Args:
        student, teacher: (n, heads, t, t); no gradient reaches the teacher's.
        mask: as in `log_attention`.
    """
    return masked_mean((student - teacher.detach()).square(), pair_mask(mask))


@in_float32
def attention_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of attention probabilities over heads and pairs of real tokens.

    Args:
        student, teacher: log-probabilities (n, heads, t, t); no gradient reaches the teacher's.
        mask: as in `log_attention`.
    """
    return masked_mean((student.exp() - teacher.detach().exp()).square(), pair_mask(mask))


@in_float32
def attention_kl(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """KL divergence from the teacher's attention to the student's, averaged over heads and unmasked query tokens.

    Wang et al., MiniLM, 2020 (arXiv:2002.10957).

    Args:
        student, teacher: log-probabilities (n, heads, t, t); no gradient reaches the teacher's.
        mask: as in `log_attention`.
    """
    target = teacher.detach()
    terms = target.exp() * (target - student)
    pairs = pair_mask(mask)
    rows = (terms if pairs is None else torch.where(pairs, terms, 0.0)).sum(-1)
    return masked_mean(rows, None if pairs is None else pairs.any(-1))


@in_float32
def spatial_attention(feature: Tensor, height: int, width: int) -> Tensor:
    """Return the spatial attention of a feature map, as unit vectors (n, height * width).

    Sums of squares over the channels.

    Zagoruyko and Komodakis, Paying More Attention to Attention, 2017 (arXiv:1612.03928).

    Args:
        feature: (n, c, h, w), any float type.
        height, width: resolution of the result; a finer map is average-pooled to it.
    """
    energy = feature.square().sum(1, keepdim=True)
    if energy.shape[2:] != (height, width):
        energy = functional.adaptive_avg_pool2d(energy, (height, width))
    return unit(energy.flatten(1))


@in_float32
def spatial_attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of two spatial attention maps, averaged over the examples; at most 2.

    Args:
        student, teacher: feature maps (n, c, h, w); channels and resolutions may differ, and are compared at the
            coarser resolution; no gradient reaches the teacher's.
    """
    height, width = (min(sides) for sides in zip(student.shape[2:], teacher.shape[2:], strict=True))
    student_map, teacher_map = (
        spatial_attention(feature, height, width) for feature in (student, teacher.detach())
    )
    return (student_map - teacher_map).square().sum(-1).mean()


def pair_mask(mask: Tensor | None) -> Tensor | None:
    """Return the mask of token pairs, (n, 1, t, t), of a bool mask (n, t), true for real tokens, or (n, t, t)."""
    if mask is None or mask.ndim == 3:
        return None if mask is None else mask[:, None]
    return mask[:, None, :, None] & mask[:, None, None, :]
