"""Pruning a model in memory, at once, without recovery."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from compress.encoding.inputs import Inputs
from compress.passes.prune.choosing.saliency import ImportanceData
from compress.passes.prune.removing.removal import pruner_of
from compress.passes.prune.spec import PruneSpec


def prune(
    model: nn.Module, inputs: Inputs, labels: Tensor | None, spec: PruneSpec, seed: int, device: str
) -> tuple[list[dict[str, Any]], int]:
    """What is left of each layer, or of each group of convolutions, and the parameters that were predicted."""
    pruner = pruner_of(model, ImportanceData(inputs, labels, spec, seed, device))
    pruner.advance(1.0)
    return pruner.describe_layers(), pruner.parameters
