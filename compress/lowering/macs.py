"""Multiply-adds of a torch model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def count_macs(model: nn.Module, example: Mapping[str, Tensor]) -> int:
    """Multiply-adds of one example: linear layers, convolutions and both products of attention.

    The counter sees matrix products and convolutions (two operations a multiply-add), so `model` must be loaded with
    eager attention.

    Args:
        example: the model's inputs, one row each.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**example)
    return int(counter.get_total_flops()) // 2
