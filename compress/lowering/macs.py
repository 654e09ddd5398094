"""Multiply-adds of a torch model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compress.models.anatomy.factors import Factored
from compress.models.anatomy.observing import removing_hooks


def count_macs(model: nn.Module, example: Mapping[str, Tensor]) -> int:
    """Count multiply-adds of one example: linear layers, convolutions and both products of attention.

    `FlopCounterMode` counts matrix products and convolutions (two operations per multiply-add), so `model` must be
    loaded with eager attention. A first factor that several layers share counts once, as it is multiplied once in
    the graph.

    Args:
        example: the model's inputs, one row each.
    """
    calls: Counter[nn.Module] = Counter()
    repeated = 0

    def count(module: nn.Module, inputs: Any, outputs: Tensor) -> None:
        nonlocal repeated
        calls[module] += 1
        if calls[module] > 1:
            assert isinstance(module.weight, Tensor)
            repeated += outputs.numel() // module.weight.shape[0] * module.weight.numel()

    shared_factors = {module.first for module in model.modules() if isinstance(module, Factored)}
    hooks = (module.register_forward_hook(count) for module in shared_factors)
    with removing_hooks(hooks), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**example)
    return int(counter.get_total_flops()) // 2 - repeated
