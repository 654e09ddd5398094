"""Choose heads and feed-forward widths of each layer within a budget of time or parameters, with the least loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from compress.core.errors import PassError
from compress.core.knapsack import Option, choose_options, min_total_cost
from compress.core.units import BYTES_PER_MB, FLOAT_BYTES
from compress.passes.prune.choosing.importance import LayerScores
from compress.passes.prune.choosing.selection import losses_by_size
from compress.passes.prune.spec import PruneTargetSpec

Cost = Callable[[int, int], float]
"""Cost of a part by layer and size (number of heads, or feed-forward width)."""


@dataclass(frozen=True)
class Budget:
    """Cost limit of an encoder, in ms or parameters.

    `what` describes the target in messages, `where` is its key. `fixed` is the cost of the model without its layers'
    prunable parts, `limit` that of the whole model. `heads` and `units` return the cost of the parts of a layer.
    """

    what: str
    where: str
    limit: float
    fixed: float
    heads: Cost
    units: Cost

    def predicted(self, sizes: Sequence[tuple[int, int]]) -> float:
        """Return the predicted cost of the model with (heads, feed-forward width) of each layer."""
        return self.fixed + sum(
            self.heads(layer, heads) + self.units(layer, width) for layer, (heads, width) in enumerate(sizes)
        )


@dataclass(frozen=True)
class ParameterLimit:
    """Maximum number of parameters of a whole model, the target behind it in words, and its profile key."""

    what: str
    where: str
    limit: float

    @classmethod
    def of(cls, target: PruneTargetSpec, total: int, prunable: int, among: str = "") -> ParameterLimit:
        """Return the limit set by `size_mb` or `ratio`.

        Args:
            total: parameters of the model.
            prunable: number of parameters to which a ratio refers.
            among: description of these for the message, if they are not all.
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
    """Return the heads and feed-forward width of each layer.

    Args:
        scores: for each current layer, the loss attributed to each of its heads and units.
        share: fraction of the way from the model's current cost to the budget.
        round_to: widths are multiples of this, or unchanged.
        loss_units: whether scores are in units of the loss; otherwise they are normalized within each part of a layer.

    Raises:
        PassError: nothing fits the budget.
    """
    option_groups: list[list[Option]] = []
    current_cost = budget.fixed
    for layer, layer_scores in enumerate(scores):
        heads, width = len(layer_scores.heads), len(layer_scores.feed_forward)
        current_cost += budget.heads(layer, heads) + budget.units(layer, width)
        option_groups.append(
            _options(layer_scores.heads, range(1, heads + 1), budget.heads, layer, loss_units)
        )
        widths = sorted({width, *range(round_to, width, round_to)})
        option_groups.append(_options(layer_scores.feed_forward, widths, budget.units, layer, loss_units))
    room = min(current_cost, current_cost - (current_cost - budget.limit) * share) - budget.fixed
    chosen = solve_budget(option_groups, room, budget.what, budget.where)
    return [(chosen[place].size, chosen[place + 1].size) for place in range(0, len(chosen), 2)]


def solve_budget(
    option_groups: Sequence[Sequence[Option]], budget: float, what: str, where: str
) -> list[Option]:
    """Run `choose_options`.

    Args:
        what: the budget in words ("a latency of 2 ms"), for the error.

    Raises:
        PassError: nothing fits the budget.
    """
    chosen = choose_options(option_groups, budget)
    if chosen is None:
        raise PassError(
            f"{what} cannot be reached: with one head and the least feed-forward width in each layer, "
            f"the layers still cost {min_total_cost(option_groups):.4g} where {max(budget, 0):.4g} are left for them",
            where=where,
            hint="Ask for less, or remove whole layers or hidden width first (`remove`).",
        )
    return chosen


def _options(scores: Tensor, sizes: Sequence[int], cost: Cost, layer: int, loss_units: bool) -> list[Option]:
    total = 1.0 if loss_units else float(scores.double().sum()) or 1.0
    losses = losses_by_size(scores, sizes)
    return [Option(size, cost(layer, size), loss / total) for size, loss in zip(sizes, losses, strict=True)]
