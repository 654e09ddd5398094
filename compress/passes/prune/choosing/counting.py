"""Count the parameters that remain after removal of groups of coupled channels, from shapes alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def count_remaining(model: nn.Module, graph: Any, groups: Iterable[Any]) -> int:
    """Return the number of parameters of a model without the channels of torch-pruning's groups; nothing is changed.

    Args:
        graph: the dependency graph of the groups.
    """
    outputs: Counter[Any] = Counter()
    inputs: Counter[Any] = Counter()
    for group in groups:
        for dependency, channels in group:
            side = outputs if graph.is_out_channel_pruning_fn(dependency.handler) else inputs
            side[dependency.target.module] += len(set(channels))
    total = 0
    counted: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in counted:
                counted.add(id(parameter))
                owner = parameter if parameter in outputs else module
                total += _remaining_values(owner, name, parameter, outputs[owner], inputs[owner])
    return total


def _remaining_values(owner: Any, name: str, parameter: Tensor, outputs: int, inputs: int) -> int:
    """Return how many values of a parameter remain when its layer loses these numbers of outputs and inputs."""
    if isinstance(owner, CONVOLUTIONS):
        if name == "bias":
            return parameter.numel() - outputs
        depthwise = owner.groups == owner.in_channels == owner.out_channels and owner.groups > 1
        kernel = math.prod(owner.kernel_size)
        columns = 1 if depthwise else (owner.in_channels - inputs) // owner.groups
        return (owner.out_channels - outputs) * columns * kernel
    if isinstance(owner, nn.Linear):
        rows = owner.out_features - outputs
        return rows if name == "bias" else rows * (owner.in_features - inputs)
    removed = max(outputs, inputs)
    widths = [size for size in parameter.shape if size > 1]
    # Norms, tables and scales have values per channel along one axis.
    return (
        parameter.numel()
        if not removed or not widths
        else parameter.numel() // widths[-1] * (widths[-1] - removed)
    )
