"""Heads and feed-forward widths of each layer that fit a budget of time or of parameters, with the least loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from compress.core.errors import PassError
from compress.core.knapsack import Option, cheapest, choose_options
from compress.core.units import BYTES_PER_MB, FLOAT_BYTES
from compress.passes.prune.choosing.importance import LayerScores
from compress.passes.prune.choosing.selection import losses_left
from compress.passes.prune.spec import PruneTargetSpec

Cost = Callable[[int, int], float]
"""Layer and size (heads, or feed-forward width) -> what that costs."""


@dataclass(frozen=True)
class Budget:
    """What the layers of an encoder may cost together, in `what`'s unit (ms, or parameters).

    `fixed` is what the rest of the model costs, `limit` what the whole may. `heads` and `units` are the costs of the
    parts of a layer.
    """

    what: str
    where: str
    limit: float
    fixed: float
    heads: Cost
    units: Cost

    def predicted(self, sizes: Sequence[tuple[int, int]]) -> float:
        """What the whole costs with (heads, feed-forward width) of each layer."""
        return self.fixed + sum(
            self.heads(layer, heads) + self.units(layer, width) for layer, (heads, width) in enumerate(sizes)
        )


@dataclass(frozen=True)
class ParameterLimit:
    """How many parameters of a whole model may stay, what asks for that, and the key that does."""

    what: str
    where: str
    limit: float

    @classmethod
    def of(cls, target: PruneTargetSpec, total: int, prunable: int, among: str = "") -> ParameterLimit:
        """The limit that `size_mb` or `ratio` sets.

        Args:
            total: parameters of the model.
            prunable: those that a ratio is of; `among` says which these are, where they are not all.
        """
        if target.size_mb is not None:
            limit = target.size_mb * BYTES_PER_MB / FLOAT_BYTES
            return cls(f"a size of {target.size_mb:g} MB", "prune.target.size_mb", limit)
        assert target.ratio is not None
        what = f"{target.ratio:g} fewer parameters{among}"
        return cls(what, "prune.target.ratio", total - target.ratio * prunable)


def choose_sizes(
    scores: Sequence[LayerScores], budget: Budget, share: float, round_to: int, *, loss_units: bool
) -> list[tuple[int, int]]:
    """The heads and feed-forward width of each layer.

    Args:
        scores: of what each layer has now: the loss that each of its heads and units stands for.
        share: of the way from what the model costs now to the budget.
        round_to: widths are multiples of this, or as they are.
        loss_units: whether scores are in units of the loss; any others count as shares of their part of the layer.

    Raises:
        PassError: nothing fits the budget.
    """
    places: list[list[Option]] = []
    now = budget.fixed
    for layer, each in enumerate(scores):
        heads, width = len(each.heads), len(each.feed_forward)
        now += budget.heads(layer, heads) + budget.units(layer, width)
        places.append(_options(each.heads, range(1, heads + 1), budget.heads, layer, loss_units))
        widths = sorted({width, *range(round_to, width, round_to)})
        places.append(_options(each.feed_forward, widths, budget.units, layer, loss_units))
    room = min(now, now - (now - budget.limit) * share) - budget.fixed
    chosen = within(places, room, budget.what, budget.where)
    return [(chosen[place].size, chosen[place + 1].size) for place in range(0, len(chosen), 2)]


def within(places: Sequence[Sequence[Option]], budget: float, what: str, where: str) -> list[Option]:
    """As `choose_options`.

    Args:
        what: the budget in words ("a latency of 2 ms"), for the error.

    Raises:
        PassError: nothing fits the budget.
    """
    found = choose_options(places, budget)
    if found is None:
        raise PassError(
            f"{what} cannot be reached: with one head and the least feed-forward width in each layer, "
            f"the layers still cost {cheapest(places):.4g} where {max(budget, 0):.4g} are left for them",
            where=where,
            hint="Ask for less, or remove whole layers or hidden width first (`remove`).",
        )
    return found


def _options(scores: Tensor, sizes: Sequence[int], cost: Cost, layer: int, loss_units: bool) -> list[Option]:
    total = 1.0 if loss_units else float(scores.double().sum()) or 1.0
    losses = losses_left(scores, sizes)
    return [Option(size, cost(layer, size), loss / total) for size, loss in zip(sizes, losses, strict=True)]
