"""Choose the rank of each place: by ratio, by energy, or by the allowed loss of score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compress.core.errors import PassError
from compress.passes.low_rank.factoring import (
    Decomposition,
    rank_for_energy,
    rank_for_ratio,
    saves_multiplications,
)
from compress.passes.low_rank.spec import LowRankSpec

LOST_FRACTIONS = (
    0.7,
    0.6,
    0.5,
    0.4,
    0.3,
    0.25,
    0.2,
    0.15,
    0.1,
    0.07,
    0.05,
    0.03,
    0.02,
    0.01,
    0.005,
    0.002,
    0.001,
)
"""Fractions of a map's output that `max_drop` tries to lose, the largest first."""


@dataclass(frozen=True)
class RankChoice:
    """The rank of each place; None if the full weight is kept because factors would not need fewer multiplications.

    `energy` is the fraction of the output that each place was required to keep, and `drop` the loss of score measured
    with it, if `max_drop` decides.
    """

    ranks: tuple[int | None, ...]
    energy: float | None = None
    drop: float | None = None


def choose_ranks(
    decompositions: Sequence[Decomposition],
    spec: LowRankSpec,
    drop_of: Callable[[Sequence[int | None]], float],
) -> RankChoice:
    """Return the ranks that a spec requests.

    Args:
        decompositions: of each place.
        drop_of: returns the loss of validation score with given ranks, for `max_drop`.

    Raises:
        PassError: no place would be factored.
    """
    if spec.ratio is not None:
        shapes = [_shape(each) for each in decompositions]
        choice = RankChoice(
            tuple(
                _rank_if_cheaper(rank_for_ratio(*shape, spec.ratio, spec.round_to), *shape)
                for shape in shapes
            )
        )
    elif spec.energy is not None:
        choice = RankChoice(ranks_for_energy(decompositions, spec.energy, spec.round_to), spec.energy)
    else:
        assert spec.max_drop is not None
        choice = _search_max_drop(decompositions, spec.max_drop, spec.round_to, drop_of)
    if not any(choice.ranks):
        raise PassError(
            "no map would be factored: factors that keep enough would not need fewer multiplications than the maps",
            where="low_rank",
            hint="Raise `ratio` or `max_drop`, or lower `energy` or `round_to`.",
        )
    return choice


def ranks_for_energy(
    decompositions: Sequence[Decomposition], energy: float, round_to: int
) -> tuple[int | None, ...]:
    """Return the smallest ranks that carry a fraction of each place's output; None where factors do not pay."""
    return tuple(
        _rank_if_cheaper(rank_for_energy(each.energies, energy, round_to), *_shape(each))
        for each in decompositions
    )


def _search_max_drop(
    decompositions: Sequence[Decomposition],
    max_drop: float,
    round_to: int,
    drop_of: Callable[[Sequence[int | None]], float],
) -> RankChoice:
    """Return the ranks of the largest allowed loss, by bisection: assumes that losing less costs no more."""
    best = RankChoice((None,) * len(decompositions))
    low, high = 0, len(LOST_FRACTIONS)
    while low < high:
        mid = (low + high) // 2
        ranks = ranks_for_energy(decompositions, 1 - LOST_FRACTIONS[mid], round_to)
        drop = drop_of(ranks) if any(ranks) else 0.0
        if drop <= max_drop:
            best, high = RankChoice(ranks, 1 - LOST_FRACTIONS[mid], drop), mid
        else:
            low = mid + 1
    return best


def _shape(decomposition: Decomposition) -> tuple[int, int]:
    return len(decomposition.left), decomposition.right.shape[1]


def _rank_if_cheaper(rank: int, rows: int, columns: int) -> int | None:
    return rank if saves_multiplications(rank, rows, columns) else None
