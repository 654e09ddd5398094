"""Which layers go back to floating point: the search for a loss that holds, and the choice within a budget. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compress.knapsack import Option, choose_options

HELD = "the loss holds"
FITS = "it fits"
OUT_OF_TIME = "the time was used up"
NOTHING_LEFT = "it does not hold with every layer given back"


@dataclass(frozen=True)
class Trial:
    """A model that was made and scored: which layers were given back (their places), and its loss of score."""

    given_back: frozenset[int]
    drop: float


@dataclass(frozen=True)
class Found:
    """The trial that is kept, all trials in their order, and why no more were made."""

    best: Trial
    trials: tuple[Trial, ...]
    reason: str

    @property
    def held(self) -> bool:
        """Whether what was asked for was reached."""
        return self.reason in (HELD, FITS)


def give_back_until(
    worst_first: Sequence[int],
    max_drop: float,
    drop_of: Callable[[frozenset[int]], float],
    in_time: Callable[[], bool],
) -> Found:
    """Give layers back, the worst first, until the loss of score holds; then take back those that it holds without.

    Args:
        worst_first: places of the layers.
        drop_of: the loss of score of the model with these layers in floating point.
        in_time: whether another trial may begin.

    Returns:
        The model that holds with the fewest layers given back among those tried; where none holds, the one that loses
        least.
    """
    trials = [Trial(frozenset(), drop_of(frozenset()))]
    for count in range(1, len(worst_first) + 1):
        if trials[-1].drop <= max_drop:
            break
        if not in_time():
            return _least(trials, OUT_OF_TIME)
        given = frozenset(worst_first[:count])
        trials.append(Trial(given, drop_of(given)))
    best = trials[-1]
    if best.drop > max_drop:
        return _least(trials, NOTHING_LEFT)
    # The last one was needed; of those before it the least harmful may not have been.
    for place in list(reversed(worst_first[: len(best.given_back)]))[1:]:
        if not in_time():
            break
        fewer = Trial(best.given_back - {place}, drop_of(best.given_back - {place}))
        trials.append(fewer)
        if fewer.drop <= max_drop:
            best = fewer
    return Found(best, tuple(trials), HELD)


def give_back_within(losses: Sequence[float], costs: Sequence[float], budget: float) -> frozenset[int]:
    """The layers whose return saves the most loss for costs (bytes, ms) within the budget.

    Args:
        losses: of each layer, while it is in integers.
        costs: of giving each back; nothing is gained by one below 0.
        budget: at least 0.
    """
    places = [
        [Option(0, 0.0, loss), Option(1, max(cost, 0.0), 0.0)]
        for loss, cost in zip(losses, costs, strict=True)
    ]
    chosen = choose_options(places, budget)
    assert chosen is not None
    return frozenset(place for place, option in enumerate(chosen) if option.size)


def _least(trials: Sequence[Trial], reason: str) -> Found:
    best = min(trials, key=lambda trial: (trial.drop, len(trial.given_back)))
    return Found(best, tuple(trials), reason)
