"""Ensembles of teachers: the mean of their outputs.

With the `forward` divergence, the mean of probabilities gives the same gradients as a weighted sum of the
divergences from each: the two differ by a constant. Ensembles as teachers: Hinton et al. 2015
(arXiv:1503.02531); You et al., Learning from Multiple Teacher Networks, 2017 (doi:10.1145/3097983.3098135).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from compress.core.errors import ModelError
from compress.models.io.outputs import outputs_of

Combine = Literal["probabilities", "logits"]
_AT_ONCE = 2**22
"""Number of values converted to float32 at a time."""


class MeanOfTeachers(nn.Module):
    """Models with the same inputs, run together; returns the weighted mean of their outputs, float32."""

    def __init__(self, members: Sequence[nn.Module], weights: Sequence[float], combine: Combine) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.weights, self.combine = tuple(weights), combine

    def forward(self, **inputs: Tensor) -> Tensor:
        """Map the inputs of the members to (n, ..., k)."""
        outputs = [outputs_of(member(**inputs)) for member in self.members]
        return mean_outputs(list(zip(outputs, self.weights, strict=True)), self.combine)


def normalized_weights(weights: Sequence[float]) -> list[float]:
    """Normalize weights to sum to 1."""
    return [weight / math.fsum(weights) for weight in weights]


def mean_outputs(outputs: Sequence[tuple[Tensor, float]], combine: Combine) -> Tensor:
    """Return the weighted mean of outputs (n, ..., k), float32; no gradient reaches them.

    `logits`: their mean; `probabilities`: the logarithm of the mean of their softmaxes, so that the softmax of
    the result is that mean.

    Raises:
        ModelError: their sizes differ.
    """
    shapes = {tensor.shape for tensor, _ in outputs}
    if len(shapes) > 1:
        sizes = " and ".join(str(shape[-1]) for shape in sorted(shapes))
        raise ModelError(
            f"teachers with {sizes} outputs cannot be averaged",
            where="teachers",
            hint="Use teachers with the same outputs; for language models, with equally many rows of words.",
        )
    weights = normalized_weights([weight for _, weight in outputs])
    shape = shapes.pop()
    rows = [tensor.detach().flatten(0, -2) for tensor, _ in outputs]
    result = torch.empty(rows[0].shape, dtype=torch.float32, device=rows[0].device)
    size = max(1, _AT_ONCE // shape[-1])
    for start in range(0, len(result), size):
        chunk = [tensor[start : start + size].float() for tensor in rows]
        if combine == "logits":
            mean = torch.stack([weight * tensor for tensor, weight in zip(chunk, weights, strict=True)]).sum(
                0
            )
        else:
            weighted_logs = [
                torch.log_softmax(tensor, -1) + math.log(weight)
                for tensor, weight in zip(chunk, weights, strict=True)
            ]
            mean = torch.logsumexp(torch.stack(weighted_logs), 0)
        result[start : start + size] = mean
    return result.reshape(shape)
