"""Multiply-adds of a torch model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel


def count_macs(model: PreTrainedModel, input_names: Sequence[str], length: int) -> int:
    """Multiply-adds of one example of `length` tokens: linear layers and both products of attention.

    The counter sees matrix products (two operations a multiply-add), so `model` must be loaded with eager attention.
    """
    example = {name: torch.ones((1, length), dtype=torch.int64) for name in input_names}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**example)
    return int(counter.get_total_flops()) // 2
