"""Select the units to remove by importance, per layer or over all layers. Pure functions."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from compress.passes.prune.choosing.importance import least_important


def removal_schedule(steps: int) -> tuple[float, ...]:
    """Return the fraction of the total removal that is done after each step: 1 - (1 - i / n)^3, most of it early.

    The schedule of Zhu and Gupta, To Prune or Not to Prune, 2017 (arXiv:1710.01878).
    """
    return tuple(1 - (1 - step / steps) ** 3 for step in range(1, steps + 1))


def remaining_count(total: int, final: int, share: float, multiple: int = 1) -> int:
    """Return how many of `total` remain after a `share` of the way to `final`: `final` + k * `multiple`, or all."""
    exact = (total - final) * (1 - share)
    return min(total, final + multiple * math.ceil(exact / multiple - 1e-9))


def comparable_scores(scores: Sequence[Tensor], *, loss: bool) -> list[Tensor]:
    """Return scores that can be ranked across layers.

    Scores in units of the loss already can (Molchanov et al. 2019); others are divided by the mean of their layer.
    """
    if loss:
        return list(scores)
    return [each / each.mean().clamp_min(torch.finfo(each.dtype).tiny) for each in scores]


def least_important_globally(
    scores: Sequence[Tensor], count: int, block: int, min_units: int
) -> list[tuple[int, ...]]:
    """Return the indices that each layer loses when the `count` least important units of all layers are removed.

    Units are removed in blocks ranked within their layer, so that each layer keeps a multiple of `block`. A layer keeps
    at least `min_units` units, or all if it has no more. At most `count` units are removed.

    Args:
        scores: float (units,) for each layer, comparable.
    """
    ordered = [torch.sort(each, stable=True).values for each in scores]
    num_removed = [0] * len(scores)
    queue: list[tuple[float, int, int]] = []

    def push_next(layer: int) -> None:
        width, start = len(ordered[layer]), num_removed[layer]
        size = (width - start) % block or block
        if width - start - size >= min_units:
            waiting_score = float(ordered[layer][start : start + size].mean())
            heapq.heappush(queue, (waiting_score, layer, size))

    for layer in range(len(scores)):
        push_next(layer)
    remaining = count
    while queue:
        _, layer, size = heapq.heappop(queue)
        if size > remaining:
            continue
        num_removed[layer] += size
        remaining -= size
        push_next(layer)
    return [least_important(each, lost) for each, lost in zip(scores, num_removed, strict=True)]


def losses_by_size(scores: Tensor, sizes: Sequence[int]) -> list[float]:
    """Return, for each size, the loss when only the `size` most important units remain: the sum of the other scores."""
    ordered = torch.sort(scores.double(), stable=True).values
    sums = [0.0, *torch.cumsum(ordered, dim=0).tolist()]
    return [sums[len(scores) - size] for size in sizes]
