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


def choose_options(groups: Sequence[Sequence[Option]], budget: float) -> list[Option] | None:
    """Choose one option for each place with the least total loss within the budget; None if no choice fits.

    Dynamic programming over places and spent budget (Kellerer et al., Knapsack Problems, 2004, chapter 11), as in ZipLM
    (Kurtic et al. 2023, arXiv:2302.04089). Exact except that costs are rounded up to 1 / `RESOLUTION` of the budget;
    integer costs are not rounded if the budget is at most `RESOLUTION`.
    """
    integral = budget <= RESOLUTION and all(float(one.cost).is_integer() for group in groups for one in group)
    scale = 1.0 if integral else RESOLUTION / budget if budget > 0 else 0.0
    capacity = int(np.floor(budget * scale + 1e-9))
    if budget < 0:
        return None
    best: NDArray[np.float64] = np.zeros(capacity + 1)
    choices: list[NDArray[np.int64]] = []
    costs = [
        [int(np.ceil(one.cost * scale - 1e-9)) if scale else int(one.cost > 0) for one in group]
        for group in groups
    ]
    for group, group_costs in zip(groups, costs, strict=True):
        table = np.full((len(group), capacity + 1), np.inf)
        for row, (option, cost) in enumerate(zip(group, group_costs, strict=True)):
            if 0 <= cost <= capacity:
                table[row, cost:] = best[: capacity + 1 - cost] + option.loss
        choices.append(table.argmin(axis=0))
        best = table.min(axis=0)
    if not np.isfinite(best[capacity]):
        return None
    chosen: list[Option] = []
    remaining = capacity
    for group, group_costs, choice in zip(reversed(groups), reversed(costs), reversed(choices), strict=True):
        row = int(choice[remaining])
        chosen.append(group[row])
        remaining -= group_costs[row]
    return chosen[::-1]


def min_total_cost(groups: Sequence[Sequence[Option]]) -> float:
    """Return the least total cost of one option for each place."""
    return sum(min(option.cost for option in group) for group in groups)
