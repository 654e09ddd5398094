"""Which heads and feed-forward units matter least: pure functions of tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class LayerScores:
    """Importance of the parts of one layer, larger matters more: float (heads,) and float (width,)."""

    heads: Tensor
    feed_forward: Tensor

    def __add__(self, other: LayerScores) -> LayerScores:
        return LayerScores(self.heads + other.heads, self.feed_forward + other.feed_forward)


Scores = TypeVar("Scores", LayerScores, Tensor)


def sum_of_scores(batches: Iterable[Sequence[Scores]]) -> list[Scores]:
    """The scores of each layer, or of each group of channels, summed over batches.

    Magnitudes are summed, not gradients: gradients of opposite sign on two batches do not hide that a part
    matters on both (Molchanov et al., Importance Estimation for Neural Network Pruning, 2019, arXiv:1906.10771).
    """
    total: list[Scores] = []
    for scores in batches:
        total = (
            [first + second for first, second in zip(total, scores, strict=True)] if total else list(scores)
        )
    return total


def head_scores(channels: Tensor, head_size: int) -> Tensor:
    """Scores of channels (heads * head_size,) -> of heads (heads,): the mean of each head's channels."""
    return channels.reshape(-1, head_size).mean(dim=1)


def least_important(scores: Tensor, count: int) -> tuple[int, ...]:
    """The indices of the `count` lowest scores, ascending; of equal ones the first go first."""
    order = torch.argsort(scores, stable=True)[:count]
    return tuple(sorted(order.tolist()))


def channels_of_heads(heads: Sequence[int], head_size: int) -> list[int]:
    """The channels of the given heads: head h holds h * head_size to (h + 1) * head_size."""
    return [head * head_size + channel for head in heads for channel in range(head_size)]
