"""Importance scores of heads and feed-forward units: pure functions of tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class LayerScores:
    """Importance of the parts of a layer, larger matters more: float (heads,) and float (width,)."""

    heads: Tensor
    feed_forward: Tensor

    def __add__(self, other: LayerScores) -> LayerScores:
        return LayerScores(self.heads + other.heads, self.feed_forward + other.feed_forward)


Scores = TypeVar("Scores", LayerScores, Tensor)


def sum_of_scores(batches: Iterable[Sequence[Scores]]) -> list[Scores]:
    """Sum the scores of each layer, or of each channel group, over batches.

    Magnitudes are summed, not gradients, so that gradients of opposite sign on two batches do not hide that a part
    matters on both (Molchanov et al., Importance Estimation for Neural Network Pruning, 2019, arXiv:1906.10771).
    """
    total: list[Scores] = []
    for scores in batches:
        total = (
            [first + second for first, second in zip(total, scores, strict=True)] if total else list(scores)
        )
    return total


def head_scores(channels: Tensor, head_size: int) -> Tensor:
    """Average scores of channels (heads * head_size,) over each head: (heads,)."""
    return channels.reshape(-1, head_size).mean(dim=1)


def least_important(scores: Tensor, count: int) -> tuple[int, ...]:
    """Return the indices of the `count` lowest scores, ascending; among equal ones the first."""
    order = torch.argsort(scores, stable=True)[:count]
    return tuple(sorted(order.tolist()))


def channels_of_heads(heads: Sequence[int], head_size: int) -> list[int]:
    """Return the channels of the given heads: head h has channels h * head_size to (h + 1) * head_size - 1."""
    return [head * head_size + channel for head in heads for channel in range(head_size)]
