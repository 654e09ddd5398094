"""Training of the block scales of a quantized model whose integers stay fixed.

Kim et al., "Memory-Efficient Fine-Tuning of Compressed Large Language Models via sub-4-bit Integer Quantization"
(PEQA), 2023, arXiv:2305.14152; Chen et al., "EfficientQAT", 2024, arXiv:2407.11062, its second phase.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from compress.training.rounding.substitution import run_with_weights


class ScaledWeight(NamedTuple):
    """A parameter, by name, whose rows are split into blocks of `block_size` values that share a scale.

    `transposed`: the parameter is stored as (inputs, outputs), while its rows are the outputs.
    """

    name: str
    block_size: int
    transposed: bool


class ScaledBlocks(nn.Module):
    """`model`, with the dequantized weights of a file, and a trainable factor for each block.

    The factors are 1 + `changes`, (rows, blocks) each; nothing else is trained.
    """

    def __init__(self, model: nn.Module, weights: Sequence[ScaledWeight]) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.weights = tuple(weights)
        self.changes = nn.ParameterList(self._zero_changes(weight) for weight in weights)

    def forward(self, **batch: Tensor) -> Any:
        """Return the model's result for a batch."""
        return run_with_weights(self.model, self.scaled_weights(), batch)

    def scaled_weights(self) -> dict[str, Tensor]:
        """Return the weights, by name, that the model runs on."""
        weights: dict[str, Tensor] = {}
        for weight, change in zip(self.weights, self.changes, strict=True):
            rows = self._rows(weight)
            # The last block may be partial.
            factors = (1 + change)[..., None].expand(-1, -1, weight.block_size).flatten(1)[:, : rows.shape[1]]
            weights[weight.name] = (rows * factors).T if weight.transposed else rows * factors
        return weights

    def factors(self) -> dict[str, Tensor]:
        """Return the factors on the scales of each weight, (rows, blocks), by its name."""
        return {
            weight.name: 1 + change.detach().cpu()
            for weight, change in zip(self.weights, self.changes, strict=True)
        }

    def _rows(self, weight: ScaledWeight) -> Tensor:
        parameter = self.model.get_parameter(weight.name)
        return parameter.T if weight.transposed else parameter

    def _zero_changes(self, weight: ScaledWeight) -> nn.Parameter:
        rows, width = self._rows(weight).shape
        return nn.Parameter(torch.zeros(rows, -(-width // weight.block_size)))
