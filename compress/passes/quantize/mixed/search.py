"""Mixed-precision search for the layers to return to floating point, for a loss limit or a budget; pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compress.core.knapsack import Option, choose_options

LIMIT_MET = "the loss limit is met"
FITS_BUDGET = "it fits"
OUT_OF_TIME = "the time ran out"
UNREACHABLE = "it is not met even with every layer in floating point"


@dataclass(frozen=True)
class Trial:
    """A scored model: indices of the layers returned to floating point, and its loss of score."""

    float_layers: frozenset[int]
    drop: float


@dataclass(frozen=True)
class SearchResult:
    """Result of a search: the best trial, all trials in order, and why the search ended."""

    best: Trial
    trials: tuple[Trial, ...]
    reason: str

    @property
    def target_met(self) -> bool:
        """Whether the target was met."""
        return self.reason in (LIMIT_MET, FITS_BUDGET)


def restore_until_limit(
    worst_first: Sequence[int],
    max_drop: float,
    drop_of: Callable[[frozenset[int]], float],
    in_time: Callable[[], bool],
    guess: frozenset[int] | None = None,
) -> SearchResult:
    """Return layers to floating point, the worst first, until the loss limit is met; then re-quantize unnecessary ones.

    Args:
        worst_first: indices of the layers.
        max_drop: the limit of the loss of score.
        drop_of: loss of score of the model with these layers in floating point.
        in_time: whether another trial may start.
        guess: layers of the one trial that is made even if the time is up before any (see `predicted_layers`);
            None: the worst layer.

    Returns:
        The trial that meets the limit with the fewest layers in floating point; if none meets it, the one with the
        smallest loss.
    """
    trials = [Trial(frozenset(), drop_of(frozenset()))]
    for count in range(1, len(worst_first) + 1):
        if trials[-1].drop <= max_drop:
            break
        if not in_time():
            if len(trials) > 1:
                return _lowest_drop(trials, OUT_OF_TIME)
            # Use the measured sensitivities for at least one trial.
            float_layers = frozenset(worst_first[:1]) if guess is None else guess
            trials.append(Trial(float_layers, drop_of(float_layers)))
            return _lowest_drop(trials, LIMIT_MET if trials[-1].drop <= max_drop else OUT_OF_TIME)
        float_layers = frozenset(worst_first[:count])
        trials.append(Trial(float_layers, drop_of(float_layers)))
    best = trials[-1]
    if best.drop > max_drop:
        return _lowest_drop(trials, UNREACHABLE)
    # The last layer was needed; of those before it, the least harmful may not have been.
    for layer in list(reversed(worst_first[: len(best.float_layers)]))[1:]:
        if not in_time():
            break
        trial = Trial(best.float_layers - {layer}, drop_of(best.float_layers - {layer}))
        trials.append(trial)
        if trial.drop <= max_drop:
            best = trial
    return SearchResult(best, tuple(trials), LIMIT_MET)


def predicted_layers(
    worst_first: Sequence[int], losses: Sequence[float], drop: float, max_drop: float
) -> frozenset[int]:
    """Return the fewest worst layers, at least one, that would meet the limit if `losses` apportioned the drop exactly.

    Args:
        worst_first: indices of the layers.
        losses: loss of each layer while it is in integers, by index.
        drop: loss of score with every layer in integers.
        max_drop: the limit of the loss.
    """
    remaining = total = sum(losses[place] for place in worst_first)
    for count, place in enumerate(worst_first, 1):
        remaining -= losses[place]
        if remaining * drop <= max_drop * total:
            return frozenset(worst_first[:count])
    return frozenset(worst_first)


def requantize_until_limit(
    float_layers: frozenset[int],
    losses: Sequence[float],
    costs: Sequence[float],
    limit: float,
    measure: Callable[[frozenset[int]], float],
    in_time: Callable[[], bool] = lambda: True,
) -> tuple[frozenset[int], float]:
    """Re-quantize layers, those with the least loss per cost first, until the measured total is within the limit.

    The total predicted from single layers may differ from the measured one.

    Args:
        float_layers: layers in floating point for which the prediction leaves room.
        losses: loss of each layer while it is in integers.
        costs: cost of returning each layer to floating point.
        limit: the limit of the measured total.
        measure: bytes or ms of the model with these layers in floating point.
        in_time: whether another model may be measured.

    Returns:
        The layers that stay in floating point, and the measured total.
    """
    measured = measure(float_layers)
    while measured > limit and float_layers and in_time():
        float_layers -= {min(float_layers, key=lambda place: losses[place] / max(costs[place], 1e-9))}
        measured = measure(float_layers)
    return float_layers, measured


def restore_within_budget(losses: Sequence[float], costs: Sequence[float], budget: float) -> frozenset[int]:
    """Return the layers whose return to floating point saves the most loss for costs (bytes, ms) within the budget.

    Args:
        losses: loss of each layer while it is in integers.
        costs: cost of returning each layer; negative ones count as 0.
        budget: at least 0.
    """
    options = [
        [Option(0, 0.0, loss), Option(1, max(cost, 0.0), 0.0)]
        for loss, cost in zip(losses, costs, strict=True)
    ]
    chosen = choose_options(options, budget)
    assert chosen is not None
    return frozenset(place for place, option in enumerate(chosen) if option.size)


def _lowest_drop(trials: Sequence[Trial], reason: str) -> SearchResult:
    best = min(trials, key=lambda trial: (trial.drop, len(trial.float_layers)))
    return SearchResult(best, tuple(trials), reason)
