"""Helpers of several losses: unit vectors, z-scores, masked means."""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-6


def unit(vectors: Tensor) -> Tensor:
    """Normalize vectors (..., d) to length 1; shorter than 1e-6 they are unchanged, for a finite gradient."""
    lengths = vectors.square().sum(-1, keepdim=True).clamp(min=TINY**2).sqrt()
    return vectors / torch.where(lengths > TINY, lengths, 1.0)


def standardized(logits: Tensor) -> Tensor:
    """Return the z-scores of each row (n, classes): mean 0 and standard deviation 1; a constant row becomes 0.

    Sun et al., Logit Standardization in Knowledge Distillation, 2024 (arXiv:2403.01427).
    """
    centred = logits - logits.mean(-1, keepdim=True)
    deviation = centred.square().mean(-1, keepdim=True).clamp(min=TINY**2).sqrt()
    return centred / torch.where(deviation > TINY, deviation, 1.0)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean of the values where `mask` is true; 0 if it is true nowhere.

    Args:
        values: any shape.
        mask: bool, broadcastable to that shape; None: everywhere. Masked values, even NaN, have no effect.
    """
    if mask is None:
        return values.mean()
    mask = mask.expand_as(values)
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def token_mean(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean over real tokens: (n, t, d) -> (n, d); mask bool (n, t), None: all are real."""
    if mask is None:
        return hidden.mean(1)
    real = mask[..., None]
    return torch.where(real, hidden, 0.0).sum(1) / real.sum(1).clamp(min=1)
