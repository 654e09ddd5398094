"""Masked language modelling loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from compress.training.loss_functions.precision import in_float32

_MASK_SHARE, _RANDOM_SHARE = 0.8, 0.1


def mask_tokens(
    ids: Tensor, maskable: Tensor, share: float, mask_id: int, vocabulary_size: int
) -> tuple[Tensor, Tensor]:
    """Mask a random share of the tokens: 80 % become the mask token, 10 % a random token, 10 % stay.

    Devlin et al., BERT, 2019 (arXiv:1810.04805). Drawn from torch's global CPU generator.

    Args:
        ids: int64 (n, t).
        maskable: bool (n, t), false for padding and special tokens.
        share: of the tokens that may change, in (0, 1).
        mask_id: id of the mask token.
        vocabulary_size: random tokens are drawn from ids below it.

    Returns:
        The masked ids (n, t), and which tokens are to be predicted: bool (n, t).
    """
    selection, action = torch.rand(2, *ids.shape).to(ids.device)
    random_ids = torch.randint(vocabulary_size, ids.shape).to(ids.device)
    selected = (selection < share) & maskable
    masked = torch.where(selected & (action < _MASK_SHARE), mask_id, ids)
    masked = torch.where(selected & (action >= 1 - _RANDOM_SHARE), random_ids, masked)
    return masked, selected


@in_float32
def masked_lm_cross_entropy(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy of the masked tokens, averaged; 0 if none was masked.

    Args:
        logits: (masked tokens, vocabulary), any float type.
        ids: int64 (masked tokens,), the original tokens.
    """
    return functional.cross_entropy(logits, ids, reduction="sum") / max(len(ids), 1)
