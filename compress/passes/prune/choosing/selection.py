"""Which units go, given their importance: in each layer for itself, or in all layers together. Pure."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from compress.passes.prune.choosing.importance import least_important


def shares(steps: int) -> tuple[float, ...]:
    """How much of what is to go has gone after each step: 1 - (1 - i / n)^3, most in the first ones.

    The schedule of Zhu and Gupta, To Prune or Not to Prune, 2017 (arXiv:1710.01878).
    """
    return tuple(1 - (1 - step / steps) ** 3 for step in range(1, steps + 1))


def between(whole: int, final: int, share: float, multiple: int = 1) -> int:
    """How many of `whole` are left when `share` of the way to `final` is gone: `final` and some multiples, or all."""
    exact = (whole - final) * (1 - share)
    return min(whole, final + multiple * math.ceil(exact / multiple - 1e-9))


def comparable(scores: Sequence[Tensor], *, loss: bool) -> list[Tensor]:
    """Scores of layers that can be ranked together.

    Those in units of the loss are so (Molchanov et al. 2019); any others are divided by the mean of their layer.
    """
    if loss:
        return list(scores)
    return [each / each.mean().clamp_min(torch.finfo(each.dtype).tiny) for each in scores]


def least_of_all(scores: Sequence[Tensor], count: int, block: int, least: int) -> list[tuple[int, ...]]:
    """The indices that each layer loses when `count` units go, the least important ones of all layers.

    Units go in blocks within which they are ranked by layer, so that what a layer keeps is a multiple of `block`; a
    layer keeps `least` units, or all where it has no more. No more than `count` go.

    Args:
        scores: float (units,), for each layer, comparable.
    """
    ordered = [torch.sort(each, stable=True).values for each in scores]
    gone = [0] * len(scores)
    waiting: list[tuple[float, int, int]] = []

    def offer(layer: int) -> None:
        width, start = len(ordered[layer]), gone[layer]
        size = (width - start) % block or block
        if width - start - size >= least:
            waiting_score = float(ordered[layer][start : start + size].mean())
            heapq.heappush(waiting, (waiting_score, layer, size))

    for layer in range(len(scores)):
        offer(layer)
    left = count
    while waiting:
        _, layer, size = heapq.heappop(waiting)
        if size > left:
            continue
        gone[layer] += size
        left -= size
        offer(layer)
    return [least_important(each, lost) for each, lost in zip(scores, gone, strict=True)]


def losses_left(scores: Tensor, sizes: Sequence[int]) -> list[float]:
    """What is lost when only the `size` most important units stay, for each size: the scores of the others, summed."""
    ordered = torch.sort(scores.double(), stable=True).values
    sums = [0.0, *torch.cumsum(ordered, dim=0).tolist()]
    return [sums[len(scores) - size] for size in sizes]
