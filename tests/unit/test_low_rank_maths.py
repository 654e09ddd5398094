"""Factors of matrices, against numpy."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.core.errors import PassError
from compress.passes.low_rank.factoring import (
    decompose,
    rank_for_energy,
    rank_for_ratio,
    saves_multiplications,
)
from compress.passes.low_rank.ranks import LOST_FRACTIONS, choose_ranks
from compress.passes.low_rank.spec import LowRankSpec

SHAPES = [(6, 9), (9, 6), (8, 8)]


def matrix(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_error_of_rank_k_is_the_energy_of_the_tail(shape: tuple[int, int]):
    weight = matrix(*shape)
    values = np.linalg.svd(weight, compute_uv=False)
    found = decompose(torch.from_numpy(weight))
    for rank in range(1, min(shape) + 1):
        first, second = found.factors(rank)
        assert first.shape == (rank, shape[1])
        assert second.shape == (shape[0], rank)
        error = np.linalg.norm(weight - (second @ first).numpy()) ** 2
        tail = float((values[rank:] ** 2).sum())
        assert error == pytest.approx(tail, abs=1e-9)
        assert found.lost_energy(rank) == pytest.approx(tail / (values**2).sum(), abs=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_weighted_factors_beat_every_other_on_the_examples(shape: tuple[int, int]):
    """The optimum in closed form by another way: project W X^T on the main left singular vectors of the outputs."""
    weight = matrix(*shape)
    inputs = matrix(200, shape[1], seed=1) * np.linspace(0.1, 3, shape[1])
    inputs[:, 0] += 2 * inputs[:, 1]
    outputs = inputs @ weight.T
    found = decompose(torch.from_numpy(weight), torch.from_numpy(inputs.T @ inputs / 200))
    plain = decompose(torch.from_numpy(weight))
    random = np.random.default_rng(2)
    for rank in (1, 2, 4):
        first, second = (part.numpy() for part in found.factors(rank))
        error = np.linalg.norm(outputs - inputs @ first.T @ second.T) ** 2
        left = np.linalg.svd(outputs.T)[0][:, :rank]
        assert error == pytest.approx(np.linalg.norm(outputs - outputs @ left @ left.T) ** 2, rel=1e-4)
        assert found.lost_energy(rank) == pytest.approx(error / np.linalg.norm(outputs) ** 2, rel=1e-3)
        other_first, other_second = (part.numpy() for part in plain.factors(rank))
        assert error <= np.linalg.norm(outputs - inputs @ other_first.T @ other_second.T) ** 2
        for _ in range(20):
            near_first = first + 0.05 * random.normal(size=first.shape)
            near_second = second + 0.05 * random.normal(size=second.shape)
            assert error < np.linalg.norm(outputs - inputs @ near_first.T @ near_second.T) ** 2


def test_moments_of_fewer_examples_than_columns_are_enough():
    inputs, weight = matrix(3, 8, seed=1), matrix(5, 8)
    found = decompose(torch.from_numpy(weight), torch.from_numpy(inputs.T @ inputs / 3))
    first, second = (part.numpy() for part in found.factors(3))
    assert np.isfinite(first).all()
    assert np.isfinite(second).all()
    # Three examples span three directions, which three ranks keep.
    assert np.abs(inputs @ (weight - second @ first).T).max() < 1e-2


def test_moments_that_rounding_made_indefinite_leave_factors_finite():
    inputs, weight = matrix(3, 8, seed=1), matrix(5, 8)
    square = inputs.T @ inputs / 3
    rounded = square - 1e-5 * square.diagonal().mean() * np.eye(8)
    found = decompose(torch.from_numpy(weight), torch.from_numpy(rounded))
    first, second = (part.numpy() for part in found.factors(5))
    np.testing.assert_allclose(second @ first, weight, atol=1e-9)
    first, second = (part.float().numpy() for part in found.factors(3))
    assert np.abs(inputs @ (weight - second @ first).T).max() < 1e-2


def test_inputs_of_zeros_leave_factors_finite():
    found = decompose(torch.from_numpy(matrix(5, 8)), torch.zeros(8, 8))
    first, second = (part.float().numpy() for part in found.factors(5))
    np.testing.assert_allclose(second @ first, matrix(5, 8), atol=1e-5)


def test_both_halves_of_a_direction_have_the_same_norm():
    first, second = decompose(torch.from_numpy(matrix(6, 9))).factors(4)
    assert torch.allclose(first.norm(dim=1), second.norm(dim=0))


def test_a_weight_of_zeros_is_factored_into_zeros():
    found = decompose(torch.zeros(4, 6))
    first, second = found.factors(2)
    assert found.lost_energy(1) == 0
    assert not (second @ first).any()
    assert rank_for_energy(found.energies, 0.9, 1) == 1


@pytest.mark.parametrize(
    ("rows", "columns", "ratio", "round_to", "rank"),
    [(64, 64, 0.5, 1, 16), (64, 64, 0.5, 8, 16), (1536, 384, 0.5, 8, 152), (10, 10, 0.9, 8, 8)],
)
def test_rank_for_ratio(rows: int, columns: int, ratio: float, round_to: int, rank: int):
    assert rank_for_ratio(rows, columns, ratio, round_to) == rank


@pytest.mark.parametrize(("energy", "rank"), [(0.5, 1), (0.8, 2), (0.81, 3), (0.999, 4)])
def test_rank_for_energy(energy: float, rank: int):
    squares = torch.tensor([6.0, 2.0, 1.0, 1.0])
    assert rank_for_energy(squares, energy, 1) == rank
    assert rank_for_energy(squares, energy, 2) == rank + rank % 2


@given(rows=st.integers(1, 300), columns=st.integers(1, 300), ratio=st.floats(0.01, 0.99))
def test_what_pays_saves_multiplications(rows: int, columns: int, ratio: float):
    rank = rank_for_ratio(rows, columns, ratio, 1)
    assert saves_multiplications(rank, rows, columns) == (rank * rows + rank * columns < rows * columns)
    assert not saves_multiplications(min(rows, columns), rows, columns)


def spectra() -> list:
    return [decompose(torch.from_numpy(matrix(24, 24, seed))) for seed in (0, 1)]


@settings(deadline=None, max_examples=30)
@given(limit=st.floats(0.0, 1.0))
def test_max_drop_takes_the_boldest_loss_that_is_allowed(limit: float):
    def drop_of(ranks: object) -> float:
        kept = sum(24 if rank is None else rank for rank in ranks)  # type: ignore[attr-defined]
        return (48 - kept) / 48

    allowed = []
    for loss in LOST_FRACTIONS:
        with suppress(PassError):
            ranks = choose_ranks(spectra(), LowRankSpec(energy=1 - loss, round_to=1), drop_of).ranks
            allowed += [ranks] if drop_of(ranks) <= limit else []
    spec = LowRankSpec(max_drop=limit, round_to=1) if limit < 1 else LowRankSpec(max_drop=0.99, round_to=1)
    if not allowed:
        with pytest.raises(PassError, match="no map would be factored"):
            choose_ranks(spectra(), spec, drop_of)
    else:
        found = choose_ranks(spectra(), spec, drop_of)
        assert found.ranks == allowed[0]
        assert found.drop == drop_of(found.ranks)


def test_ranks_that_do_not_pay_keep_the_weight():
    wide, square = decompose(torch.from_numpy(matrix(4, 64))), decompose(torch.from_numpy(matrix(64, 64)))
    found = choose_ranks([wide, square], LowRankSpec(ratio=0.5, round_to=8), lambda ranks: 0.0)
    assert found.ranks == (None, 16)
    with pytest.raises(PassError, match="would not need fewer multiplications"):
        choose_ranks([wide], LowRankSpec(ratio=0.5, round_to=8), lambda ranks: 0.0)
