"""Torch counterpart of `decoding.Decoder`: batched generation with a key-value cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel


class TorchRows:
    """Left-padded rows, so that the next token of all rows has the same index.

    The cache grows with the longest row. Finished rows are replaced only when all have finished, since later rows would
    have to start at the current index of the others.
    """

    supports_refill = False

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.mask = torch.zeros((0, 0), dtype=torch.int64)
        self.cache = DynamicCache()

    def start(self, prompts: Sequence[Sequence[int]], max_rows: int = 0) -> NDArray[np.float32]:
        """Start with new prompts; return the logits of the next token of each, float32 (rows, vocabulary)."""
        longest = max(map(len, prompts))
        padding = [longest - len(prompt) for prompt in prompts]
        self.cache = DynamicCache()
        self.mask = self._tensor([[0] * pad + [1] * (longest - pad) for pad in padding])
        ids = [[0] * pad + list(prompt) for pad, prompt in zip(padding, prompts, strict=True)]
        return self._run(ids, (self.mask.cumsum(1) - 1).clamp(min=0))

    def append_tokens(self, tokens: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Append a token to each row; return the logits of the next token, float32 (rows, vocabulary)."""
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], 1)
        return self._run(tokens, self.mask.sum(1, keepdim=True) - 1)

    def select_rows(self, rows: Sequence[int]) -> None:
        """Keep only the given rows, in this order."""
        indices = self._tensor(rows)
        self.mask = self.mask[indices]
        self.cache.batch_select_indices(indices)

    def _run(self, ids: Sequence[Sequence[int]], positions: Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: Tensor = self.model(
                input_ids=self._tensor(ids),
                attention_mask=self.mask,
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits
        last_logits: NDArray[np.float32] = logits[:, -1].float().cpu().numpy()
        return last_logits

    def _tensor(self, values: Sequence[object]) -> Tensor:
        return torch.tensor(values, device=self.model.device)
