"""One option for each place, the least loss within a budget: a multiple-choice knapsack. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESOLUTION = 20_000
"""Steps that a budget is cut into: costs are rounded up to them, so that a budget is never exceeded."""


@dataclass(frozen=True)
class Option:
    """What a place could be: `size` units left, what that costs, and how much is lost with the others."""

    size: int
    cost: float
    loss: float


def choose_options(places: Sequence[Sequence[Option]], budget: float) -> list[Option] | None:
    """The options, one of each place, of the least total loss whose costs are within the budget; None if none are.

    Dynamic programming over places and the budget spent (Kellerer et al., Knapsack Problems, 2004, chapter 11), as the
    structures of ZipLM are chosen (Kurtic et al. 2023, arXiv:2302.04089). Exact but for the rounding of costs up to
    1 / 20,000 of the budget; whole costs with a whole budget up to that are not rounded.
    """
    whole = budget <= RESOLUTION and all(float(one.cost).is_integer() for place in places for one in place)
    scale = 1.0 if whole else RESOLUTION / budget if budget > 0 else 0.0
    room = int(np.floor(budget * scale + 1e-9))
    if budget < 0:
        return None
    best: NDArray[np.float64] = np.zeros(room + 1)
    picks: list[NDArray[np.int64]] = []
    costs = [
        [int(np.ceil(one.cost * scale - 1e-9)) if scale else int(one.cost > 0) for one in place]
        for place in places
    ]
    for place, own in zip(places, costs, strict=True):
        table = np.full((len(place), room + 1), np.inf)
        for row, (option, cost) in enumerate(zip(place, own, strict=True)):
            if 0 <= cost <= room:
                table[row, cost:] = best[: room + 1 - cost] + option.loss
        picks.append(table.argmin(axis=0))
        best = table.min(axis=0)
    if not np.isfinite(best[room]):
        return None
    chosen: list[Option] = []
    left = room
    for place, own, pick in zip(reversed(places), reversed(costs), reversed(picks), strict=True):
        row = int(pick[left])
        chosen.append(place[row])
        left -= own[row]
    return chosen[::-1]


def cheapest(places: Sequence[Sequence[Option]]) -> float:
    """The least that one option of each place costs together."""
    return sum(min(option.cost for option in place) for place in places)
