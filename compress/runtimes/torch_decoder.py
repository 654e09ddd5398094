"""Torch counterpart of `runner.CachedSession`: the attention mask of a batch gives the number of cached tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from compress.runtimes.runner import LOGIT_POSITIONS


class TorchDecoder:
    """Runs a decoder on top of a key-value cache: logits (rows, wanted, vocabulary).

    The cache holds earlier tokens or, if there are too few, is filled from zero tokens, which take the same time. It is
    kept between runs and truncated to the past length of the next one.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._rows = 0
        self._cache: Any = DynamicCache()

    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the logits at `logit_positions` int64 (rows, wanted), which are the same in every row."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        past = mask.shape[1] - ids.shape[1]
        cache = self._cache_for(len(ids), past, ids.device)
        logits: Tensor = self.model(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=batch[LOGIT_POSITIONS][0],
        ).logits
        return logits

    def _cache_for(self, rows: int, past: int, device: torch.device) -> Any:
        surplus = self._cache.get_seq_length() - past
        if past and self._rows == rows and surplus >= 0:
            if surplus:
                self._cache.crop(-surplus)
        else:
            self._rows, self._cache = rows, DynamicCache()
            if past:
                ids = torch.zeros((rows, past), dtype=torch.int64, device=device)
                self.model(input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        return self._cache
