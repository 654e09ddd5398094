"""Masked language modelling loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from compress.training.loss_functions.precision import in_float32

_MASKED, _RANDOM = 0.8, 0.1


def mask_tokens(
    ids: Tensor, may_change: Tensor, share: float, mask_id: int, vocabulary: int
) -> tuple[Tensor, Tensor]:
    """Mask a random share of the tokens: 80 % become the mask token, 10 % a random token, 10 % stay.

    Devlin et al., BERT, 2019 (arXiv:1810.04805). Drawn from torch's global CPU generator.

    Args:
        ids: int64 (n, t).
        may_change: bool (n, t), false for padding and special tokens.
        share: of the tokens that may change, in (0, 1).
        mask_id: id of the mask token.
        vocabulary: random tokens are drawn from ids below it.

    Returns:
        The masked ids (n, t), and which tokens are to be predicted: bool (n, t).
    """
    chance, fate = torch.rand(2, *ids.shape).to(ids.device)
    random = torch.randint(vocabulary, ids.shape).to(ids.device)
    chosen = (chance < share) & may_change
    changed = torch.where(chosen & (fate < _MASKED), mask_id, ids)
    changed = torch.where(chosen & (fate >= 1 - _RANDOM), random, changed)
    return changed, chosen


@in_float32
def masked_lm_cross_entropy(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy of the masked tokens, averaged; 0 if none was masked.

    Args:
        logits: (masked tokens, vocabulary), any float type.
        ids: int64 (masked tokens,), the original tokens.
    """
    return functional.cross_entropy(logits, ids, reduction="sum") / max(len(ids), 1)
