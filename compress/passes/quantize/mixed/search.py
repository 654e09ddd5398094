"""Which layers go back to floating point: the search for a loss that holds, and the choice within a budget. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compress.core.knapsack import Option, choose_options

HELD = "the loss limit is met"
FITS = "it fits"
OUT_OF_TIME = "the time ran out"
NOTHING_LEFT = "it is not met even with every layer in floating point"


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
    guess: frozenset[int] | None = None,
) -> Found:
    """Give layers back, the worst first, until the loss of score holds; then take back those that it holds without.

    Args:
        worst_first: places of the layers.
        drop_of: the loss of score of the model with these layers in floating point.
        in_time: whether another trial may begin.
        guess: the layers of the one trial that is made even where the time is up before any (see `predicted_layers`);
            unset: the worst layer.

    Returns:
        The model that holds with the fewest layers given back among those tried; where none holds, the one that loses
        least.
    """
    trials = [Trial(frozenset(), drop_of(frozenset()))]
    for count in range(1, len(worst_first) + 1):
        if trials[-1].drop <= max_drop:
            break
        if not in_time():
            if len(trials) > 1:
                return _least(trials, OUT_OF_TIME)
            # What was learnt of the layers is not thrown away.
            given = frozenset(worst_first[:1]) if guess is None else guess
            trials.append(Trial(given, drop_of(given)))
            return _least(trials, HELD if trials[-1].drop <= max_drop else OUT_OF_TIME)
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


def predicted_layers(
    worst_first: Sequence[int], losses: Sequence[float], drop: float, max_drop: float
) -> frozenset[int]:
    """The fewest of the worst layers, at least one, whose return would make the loss hold if `losses` shared it out.

    Args:
        worst_first: places of the layers.
        losses: of each of these places, while it is in integers.
        drop: the loss of score with every layer in integers.
        max_drop: the loss that is to hold.
    """
    left = total = sum(losses[place] for place in worst_first)
    for count, place in enumerate(worst_first, 1):
        left -= losses[place]
        if left * drop <= max_drop * total:
            return frozenset(worst_first[:count])
    return frozenset(worst_first)


def take_back_until(
    given: frozenset[int],
    losses: Sequence[float],
    costs: Sequence[float],
    most: float,
    measure: Callable[[frozenset[int]], float],
    in_time: Callable[[], bool] = lambda: True,
) -> tuple[frozenset[int], float]:
    """Take layers back into integers, those first that save the least loss for their cost, until the whole holds.

    What the parts predict is not always what the whole takes.

    Args:
        given: the layers that the parts say there is room for.
        losses: of each layer, while it is in integers.
        costs: of giving each back.
        most: what the whole may measure.
        measure: bytes or ms of the model with these layers given back.
        in_time: whether another may be measured.

    Returns:
        The layers that stay given back, and what the model with them measures.
    """
    measured = measure(given)
    while measured > most and given and in_time():
        given -= {min(given, key=lambda place: losses[place] / max(costs[place], 1e-9))}
        measured = measure(given)
    return given, measured


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
