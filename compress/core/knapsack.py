"""Multiple-choice knapsack: one option for each place, with the least total loss within a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESOLUTION = 20_000
"""Number of discrete steps of a budget; costs are rounded up to a step, so that the budget is never exceeded."""


@dataclass(frozen=True)
class Option:
    """One option of a place: the number of units kept, their cost, and the loss from removing the other units."""

    size: int
    cost: float
    loss: float


def choose_options(places: Sequence[Sequence[Option]], budget: float) -> list[Option] | None:
    """Choose one option for each place with the least total loss within the budget; None if no choice fits.

    Dynamic programming over places and spent budget (Kellerer et al., Knapsack Problems, 2004, chapter 11), as in ZipLM
    (Kurtic et al. 2023, arXiv:2302.04089). Exact except that costs are rounded up to 1 / `RESOLUTION` of the budget;
    integer costs are not rounded if the budget is at most `RESOLUTION`.
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
    """Return the least total cost of one option for each place."""
    return sum(min(option.cost for option in place) for place in places)
